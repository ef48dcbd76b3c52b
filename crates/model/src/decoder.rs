//! The one decoder, stated once over [`tensor::Ops`]: training records it, the engine runs it.
//!
//! It must not know which of the two it runs on, nor any family by name.

use crate::layout::LayerWeights;
use crate::{Config, Layout};
use tensor::kernels::RotaryTable;
use tensor::{Branch, Checkpoints, Ops, Weight};

/// A decoder's structure: its configuration and where its weights lie.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    layout: Layout,
}

impl Decoder {
    /// The decoder of a configuration.
    pub fn new(config: Config) -> Decoder {
        let layout = Layout::new(&config);
        Decoder { config, layout }
    }

    /// The final hidden rows for token ids: (rows) → (rows, width), normalised and ready for
    /// [`Decoder::head`]. Which row belongs to which document is the machine's business.
    pub fn forward<O: Ops>(&self, ops: &mut O, ids: &[u32]) -> O::Act {
        let x = ops.embed(self.layout.embedding, ids);
        self.forward_embedded(ops, x)
    }

    /// As [`Decoder::forward`], from embeddings instead of ids: (rows, width) → (rows, width).
    pub fn forward_embedded<O: Ops>(&self, ops: &mut O, mut x: O::Act) -> O::Act {
        for index in 0..self.config.layers {
            x = self.layer(ops, index, x);
        }
        ops.rms_norm(&x, self.layout.final_norm, self.config.rms_norm_eps)
    }

    /// One layer on the residual stream: (rows, width) → (rows, width).
    pub fn layer<O: Ops>(&self, ops: &mut O, index: usize, mut x: O::Act) -> O::Act {
        let weights = &self.layout.layers[index];
        let first_weight = weights.attention_norm.offset;
        let projections = [(weights.output, weights.output_bias), (weights.down, weights.down_bias)];
        for (half, (projection, bias)) in projections.into_iter().enumerate() {
            let branch = Branch { number: 2 * index + half, first_weight, projection, bias };
            x = ops.branch(branch, x, &|ops, number, x| self.branch(ops, number, x));
        }
        x
    }

    /// What branch `number` of the residual stream, two a layer, computes before its projection: attention, (rows,
    /// width) → (rows, heads·head_dim), or the gated activation, (rows, width) → (rows, ffn).
    pub fn branch<O: Ops>(&self, ops: &mut O, number: usize, x: &O::Act) -> O::Act {
        let (index, weights) = (number / 2, &self.layout.layers[number / 2]);
        match number % 2 {
            0 => self.attention(ops, index, x, weights),
            _ => self.feed_forward(ops, x, weights),
        }
    }

    fn attention<O: Ops>(&self, ops: &mut O, index: usize, x: &O::Act, weights: &LayerWeights) -> O::Act {
        let heads = self.config.attention_heads();
        let normed = ops.rms_norm(x, weights.attention_norm, self.config.rms_norm_eps);
        let mut qkv = ops.linear(&normed, weights.qkv, weights.qkv_bias); // (rows, (heads + 2·kv_heads)·head_dim)
        if let Some(norm) = weights.qk_norm {
            qkv = ops.qk_norm(qkv, norm, heads);
        }
        let qkv = ops.rotary(qkv, heads);
        ops.attend(qkv, heads, index) // (rows, heads·head_dim)
    }

    fn feed_forward<O: Ops>(&self, ops: &mut O, x: &O::Act, weights: &LayerWeights) -> O::Act {
        let normed = ops.rms_norm(x, weights.mlp_norm, self.config.rms_norm_eps);
        let gate_up = ops.linear(&normed, weights.gate_up, weights.gate_up_bias); // (rows, 2·ffn)
        ops.swiglu(gate_up) // (rows, ffn)
    }

    /// How a tape saves memory: it forgets all layers but the last, and, where the gradients are all zero, parks what
    /// it keeps in those of the layers before. The gradients of a table that is also the output projection are written
    /// first, so nothing is parked there.
    pub fn checkpoints(&self, gradients_are_zero: bool) -> Checkpoints {
        let start = if self.layout.lookup().is_some() { self.layout.embedding.len() } else { 0 };
        Checkpoints {
            branches: 2 * (self.config.layers.max(1) - 1),
            idle_from: gradients_are_zero.then_some(start),
        }
    }

    /// The output projection, (vocab, width).
    pub fn head(&self) -> Weight {
        self.layout.head
    }

    /// Cosines and sines of the rotary embedding for the first `positions` positions.
    pub fn rotary_table(&self, positions: usize) -> RotaryTable {
        let config = &self.config;
        RotaryTable::new(config.head_dim, config.head_dim, f64::from(config.rope_theta), positions)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where each weight lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
