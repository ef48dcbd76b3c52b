//! The row kernels: plain functions over an [`Exec`](crate::Exec) and slices. Rows are tokens.
//!
//! Each gives the same bits as its readable version in [`crate::reference`], on every instruction set and
//! with any number of threads. A slice whose length does not fit the others is a programming error and
//! panics. They must not know tensors, the tape or any model.

mod activation;
pub mod attention;
mod elementwise;
mod experts;
mod loss;
mod math;
mod norm;
mod optim;
mod reduce;
mod rotary;
mod soft_cap;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;

pub use activation::{
    Activation, activate, activate_backward, gated, gated_backward, swiglu, swiglu_backward,
};
pub use attention::{
    AttentionBatch, AttentionKept, KEY_BLOCK, attention_backward, attention_forward, attention_scale,
};
pub use elementwise::{
    add, add_bias, add_into, clear, column_sums, copy, embedding, embedding_backward, gather_rows, multiply,
    scale, scaled, scaled_add, scatter_add_rows,
};
pub use experts::{ExpertGradients, ExpertProducts, ExpertRows, Product, experts, experts_backward};
pub use loss::{RowTargets, cross_entropy, cross_entropy_backward, log_softmax};
pub use norm::{
    LayerNorm, LayerNormGradients, NormGradients, QkGains, QkNormGradients, add_rms_norm, layer_norm,
    layer_norm_backward, qk_norm, qk_norm_backward, rms_norm, rms_norm_backward,
};
pub use optim::{AdamW, AdamWConstants, AdamWState, Momentum, adamw_step, decayed_step, momentum_step};
pub use reduce::{SUM_BLOCK, all_finite, max_abs, mean, sum, sum_squares};
pub use rotary::{RotaryTable, exp_f64, ln_f64, rotary, rotary_backward, rotary_frequencies};
pub use soft_cap::{soft_cap, soft_cap_backward};
