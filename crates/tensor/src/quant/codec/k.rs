//! The K types: 256 elements in groups of 16 or 32, whose scales are themselves quantised.
//!
//! Groups of 32 elements share bytes: `q >> shift` of one run of 32 bytes is one group.

use super::half_at;

/// 16 bytes (scale, and minimum above it) · 64 bytes of 2 bits · scale f16 · minimum f16.
pub fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    let quants = &block[16..80];
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scales = block[group];
        let (scale, minimum) = (scale * f32::from(scales & 15), minimum * f32::from(scales >> 4));
        // 128 elements in 32 bytes: group pairs by shift.
        let first = group / 8 * 32 + group % 2 * 16;
        let shift = group % 8 / 2 * 2;
        for (out, byte) in out.iter_mut().zip(&quants[first..]) {
            *out = scale * f32::from(byte >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits · 64 bytes of 2 bits · 12 bytes of sixteen 6-bit scales · scale f16.
pub fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 108);
    let (high, quants) = (&block[..32], &block[32..96]);
    let scales = q3_k_scales(&block[96..108]);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scale * f32::from(scales[group]);
        let within = group % 2 * 16;
        let first = group / 8 * 32 + within;
        let shift = group % 8 / 2 * 2;
        for (i, out) in out.iter_mut().enumerate() {
            let low = (quants[first + i] >> shift & 3) as i8;
            // A set bit adds nothing; a clear one takes four away.
            let missing = (high[within + i] >> (group / 2) & 1 ^ 1) as i8;
            *out = scale * f32::from(low - 4 * missing);
        }
    }
}

/// scale f16 · minimum f16 · 12 bytes of eight 6-bit scales and minima · 128 bytes of 4 bits.
pub fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = k_scales(&block[4..16]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (scale * f32::from(scales[group]), minimum * f32::from(minima[group]));
        let shift = group % 2 * 4;
        for (out, byte) in out.iter_mut().zip(&block[16 + group / 2 * 32..]) {
            *out = scale * f32::from(byte >> shift & 15) - minimum;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the 128 bytes of 4 bits.
pub fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = k_scales(&block[4..16]);
    let high = &block[16..48];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (scale * f32::from(scales[group]), minimum * f32::from(minima[group]));
        let shift = group % 2 * 4;
        let low = &block[48 + group / 2 * 32..];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let q = low >> shift & 15 | (high >> group & 1) << 4;
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// 128 bytes of 4 bits · 64 bytes of 2 more · 16 signed scales · scale f16.
pub fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scale * f32::from(scales[group] as i8);
        // 128 elements: the low halves of 64 bytes, then their high halves; the upper bits in 32 bytes by shift.
        let (half, quarter, within) = (group / 8, group % 8 / 2, group % 2 * 16);
        let low = &low[half * 64 + quarter % 2 * 32 + within..];
        let high = &high[half * 32 + within..];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let q = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K: the first four of each in the low bits of bytes 0–3 and 4–7,
/// the others in bytes 8–11 with their top two bits above the first ones'.
pub fn k_scales(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        minima[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | (packed[i] >> 6) << 4;
        minima[i + 4] = packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4;
    }
    (scales, minima)
}

/// The sixteen scales of Q3_K less 32: four low bits in bytes 0–7, two high bits in bytes 8–11.
pub fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (4 * (i / 8)) & 15;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        (low | high << 4) as i8 - 32
    })
}
