//! Readable scalar versions of every row kernel: plain loops over slices with exactly the order of sums that
//! the design fixes. The fast kernels must give the same bits. Knows no vector type, thread or instruction
//! set.

pub mod activation;
pub mod attention;
pub mod elementwise;
pub mod loss;
pub mod math;
pub mod norm;
pub mod optim;
pub mod reduce;
pub mod rotary;
pub mod soft_cap;

/// Number of virtual lanes in which a row is reduced.
pub const LANES: usize = 16;

/// Sums `values` in sixteen lanes (element i goes to lane i mod 16, ascending), then merges the lanes in the
/// fixed tree.
pub fn lane_sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (index, value) in values.enumerate() {
        lanes[index % LANES] += value;
    }
    merge_lanes(lanes)
}

/// Sums the products of `pairs` in sixteen lanes with fused multiply-adds, then merges the lanes.
pub fn lane_dot(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for (index, (a, b)) in pairs.enumerate() {
        let lane = &mut lanes[index % LANES];
        *lane = a.mul_add(b, *lane);
    }
    merge_lanes(lanes)
}

/// The fixed tree: lane i + lane i+8, then i+4, i+2, i+1.
pub fn merge_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for index in 0..half {
            lanes[index] += lanes[index + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The greatest of `values`, negative infinity when there is none.
pub fn maximum(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(f32::NEG_INFINITY, |greatest, value| if value > greatest { value } else { greatest })
}
