//! Reference of the rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split form of
//! GPT-NeoX and Llama: element i of a head is rotated together with element i + rotary_dim/2.

use crate::Heads;
use crate::kernels::RotaryTable;

/// Rotates the query and key heads of the fused rows `x` (tokens, (heads + 2·kv_heads)·head_dim) in place by
/// the angles of each row's position.
pub fn rotary(x: &mut [f32], positions: &[u32], table: &RotaryTable, heads: Heads) {
    rotate(x, positions, (table, 1.0), heads);
}

/// The gradient of [`rotary`]'s input from that of its output, in place: the inverse rotation.
pub fn rotary_backward(dx: &mut [f32], positions: &[u32], table: &RotaryTable, heads: Heads) {
    rotate(dx, positions, (table, -1.0), heads);
}

fn rotate(x: &mut [f32], positions: &[u32], (table, sign): (&RotaryTable, f32), heads: Heads) {
    let half = table.half();
    for (row, &position) in x.chunks_exact_mut(heads.fused_width()).zip(positions) {
        let (cos, sin) = table.row(position);
        for head in row.chunks_exact_mut(heads.head_dim).take(heads.heads + heads.kv_heads) {
            for index in 0..half {
                let sin = sign * sin[index];
                let (first, second) = (head[index], head[index + half]);
                head[index] = first.mul_add(cos[index], -(second * sin));
                head[index + half] = second.mul_add(cos[index], first * sin);
            }
        }
    }
}
