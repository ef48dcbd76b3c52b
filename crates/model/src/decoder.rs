//! The one decoder, stated once over [`tensor::Ops`]: training records it, the engine runs it.
//!
//! It must not know which of the two it runs on, nor any family by name.

use crate::config::{NormPlace, Positions, Rope};
use crate::layout::{LayerWeights, Mlp};
use crate::{Config, Layout};
use tensor::kernels::RotaryTable;
use tensor::{Branch, Checkpoints, Head, Ops, Weight};

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
        let layout = &self.layout;
        if let Some(scale) = self.config.embedding_scale {
            x = ops.scale(x, scale);
        }
        if let Some(row) = layout.token_type {
            x = ops.add_bias(x, row);
        }
        if let Some(table) = layout.positions {
            x = ops.add_positions(x, table);
        }
        if let Some(norm) = layout.embedding_norm {
            x = ops.norm(&x, norm);
        }
        for index in 0..self.config.layers {
            x = self.layer(ops, index, x);
        }
        match layout.final_norm {
            Some(norm) => ops.norm(&x, norm),
            None => x,
        }
    }

    /// One layer on the residual stream: (rows, width) → (rows, width).
    pub fn layer<O: Ops>(&self, ops: &mut O, index: usize, mut x: O::Act) -> O::Act {
        let weights = &self.layout.layers[index];
        let mlp = match weights.mlp {
            Mlp::Dense { down, down_bias, .. } => Some((down, down_bias)),
            Mlp::Experts(_) => None,
        };
        let attention = Some((weights.output, weights.output_bias));
        let halves = [(attention, weights.attention_post_norm), (mlp, weights.mlp_post_norm)];
        let is_after_sum = self.config.norm_place == NormPlace::AfterSum;
        for (half, (projection, norm)) in halves.into_iter().enumerate() {
            let (of_branch, of_sum) = if is_after_sum { (None, norm) } else { (norm, None) };
            let number = 2 * index + half;
            let branch = Branch { number, first_weight: weights.first, projection, norm: of_branch };
            x = ops.branch(branch, x, &|ops, number, x| self.branch(ops, number, x));
            if let Some(norm) = of_sum {
                x = ops.norm(&x, norm);
            }
        }
        x
    }

    /// What branch `number` of the residual stream, two a layer, computes before its projection: attention, (rows,
    /// width) → (rows, heads·head_dim), or the activation, (rows, width) → (rows, ffn), or all that experts do,
    /// (rows, width) → (rows, width).
    pub fn branch<O: Ops>(&self, ops: &mut O, number: usize, x: &O::Act) -> O::Act {
        let (index, weights) = (number / 2, &self.layout.layers[number / 2]);
        let norm = if number.is_multiple_of(2) { weights.attention_norm } else { weights.mlp_norm };
        let normed = norm.map(|norm| ops.norm(x, norm));
        let x = normed.as_ref().unwrap_or(x);
        match number % 2 {
            0 => self.attention(ops, index, x, weights),
            _ => self.feed_forward(ops, x, weights),
        }
    }

    fn attention<O: Ops>(&self, ops: &mut O, index: usize, x: &O::Act, weights: &LayerWeights) -> O::Act {
        let heads = self.config.attention_heads();
        let mut qkv = ops.linear(x, weights.qkv, weights.qkv_bias); // (rows, (heads + 2·kv_heads)·head_dim)
        if let Some(norm) = weights.qk_norm {
            qkv = ops.qk_norm(qkv, norm, heads);
        }
        if self.config.positions == Positions::Rotary {
            qkv = ops.rotary(qkv, heads, self.rotary_table_of(index));
        }
        ops.attend(qkv, heads, self.config.attention(index), index) // (rows, heads·head_dim)
    }

    fn feed_forward<O: Ops>(&self, ops: &mut O, x: &O::Act, weights: &LayerWeights) -> O::Act {
        match weights.mlp {
            Mlp::Dense { gate_up, gate_up_bias, .. } => {
                let x = ops.linear(x, gate_up, gate_up_bias); // (rows, 2·ffn), or (rows, ffn) without a gate
                match self.config.gated {
                    true => ops.gated(x, self.config.activation),
                    false => ops.activate(x, self.config.activation),
                }
            }
            Mlp::Experts(experts) => ops.experts(x, experts),
        }
    }

    /// Which of [`Decoder::rotary_tables`] a layer uses.
    fn rotary_table_of(&self, layer: usize) -> usize {
        usize::from(self.config.window(layer).is_some_and(|sliding| sliding.rope.is_some()))
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

    /// The output projection with its soft cap.
    pub fn output(&self) -> Head {
        Head { weight: self.layout.head, soft_cap: self.config.logit_soft_cap }
    }

    /// Angles of the rotary embeddings of `positions` positions, for sequences of at most `tokens` tokens: that of most
    /// layers, then that of layers with a window, where it is another. None where positions are learned.
    pub fn rotary_tables(&self, tokens: usize, positions: usize) -> Vec<RotaryTable> {
        let ropes = self.ropes().map(|rope| rope.table(self.config.head_dim, tokens, positions));
        ropes.collect()
    }

    /// The lengths that decide over the frequencies of [`Decoder::rotary_tables`]: where they are equal,
    /// the angles are.
    pub fn rotary_lengths(&self, tokens: usize) -> Vec<usize> {
        self.ropes().map(|rope| rope.deciding_length(tokens)).collect()
    }

    fn ropes(&self) -> impl Iterator<Item = &Rope> {
        let local = self.config.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref());
        let is_rotary = self.config.positions == Positions::Rotary;
        [Some(&self.config.rope), local].into_iter().flatten().filter(move |_| is_rotary)
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
