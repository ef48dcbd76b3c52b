//! The boundary between model and machine: the few fused operations that a decoder is written over.
//!
//! [`crate::Tape`] implements them and records what the backward pass needs; the engine implements
//! them forward only, with pages of keys and values. It must not know any model family.

use crate::kernels::Activation;

/// A matrix or vector inside a flat parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight {
    /// Position of the first element in the flat buffer, in elements.
    pub offset: usize,
    /// Number of outputs (1 for a gain or a bias).
    pub rows: usize,
    /// Number of inputs, or the length of a gain or a bias.
    pub cols: usize,
}

impl Weight {
    /// Elements of the weight.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' range in the flat buffer.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// The weight's elements.
    pub fn of<'a>(&self, flat: &'a [f32]) -> &'a [f32] {
        &flat[self.range()]
    }

    /// The weight's elements, to be written.
    pub fn of_mut<'a>(&self, flat: &'a mut [f32]) -> &'a mut [f32] {
        &mut flat[self.range()]
    }
}

/// How the columns of a fused row `[query heads | key heads | value heads]` are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of each head.
    pub head_dim: usize,
}

impl Heads {
    /// Width of a fused row: `(heads + 2 · kv_heads) · head_dim`.
    pub fn fused_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the query and key heads of a fused row, which the rotary embedding turns.
    pub fn rotated_width(&self) -> usize {
        (self.heads + self.kv_heads) * self.head_dim
    }

    /// Width of the attention's output: `heads · head_dim`.
    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Gains of the norms that some families apply to each query and key head.
#[derive(Clone, Copy, Debug)]
pub struct QkNorm {
    /// Gain of the query heads, (1, head_dim).
    pub query: Weight,
    /// Gain of the key heads, (1, head_dim).
    pub key: Weight,
    /// Added to the mean square.
    pub eps: f32,
}

/// How a row is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of its mean square (Zhang and Sennrich 2019, arXiv:1910.07467).
    Rms,
    /// By its mean and variance (Ba et al. 2016, arXiv:1607.06450).
    Layer,
}

/// A norm of rows.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// How.
    pub kind: NormKind,
    /// What the normalised row is multiplied with, (1, width).
    pub gain: Weight,
    /// What is added then, (1, width); only a [`NormKind::Layer`] has one, and always.
    pub bias: Option<Weight>,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// Which tokens of its document a row attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Those up to itself.
    Causal,
    /// Itself and those before it, so many in all; at least 1.
    Window(usize),
    /// All.
    Whole,
}

/// How attention scores are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Which keys a row sees.
    pub mask: Mask,
    /// What the product of query and key is multiplied with.
    pub scale: f32,
    /// With a cap c a score s becomes c · tanh(s / c) (Gemma 2, arXiv:2408.00118, section 2).
    pub soft_cap: Option<f32>,
}

impl Attention {
    /// Causal attention with the scale 1 / sqrt(head_dim) and no cap.
    pub fn causal(head_dim: usize) -> Attention {
        Attention { mask: Mask::Causal, scale: crate::kernels::attention_scale(head_dim), soft_cap: None }
    }

    /// What a product of query and key is multiplied with before the cap's tanh, or where there is none.
    pub(crate) fn factor(&self) -> f32 {
        self.soft_cap.map_or(self.scale, |cap| self.scale / cap)
    }

    /// The positions of the keys that the row at `position` sees in a document of `tokens` tokens.
    pub fn seen(&self, position: usize, tokens: usize) -> std::ops::Range<usize> {
        match self.mask {
            Mask::Causal => 0..position + 1,
            Mask::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Mask::Whole => 0..tokens,
        }
    }
}

/// How the chosen experts of a row are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertWeighting {
    /// By their shares in a softmax over all experts.
    OfAll,
    /// By a softmax over the chosen ones alone; the same as the shares above divided by their sum.
    OfChosen,
}

/// A layer of experts: gated feed-forward layers of which a router chooses a few for each row.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    /// The router, (experts, width).
    pub router: Weight,
    /// The first expert's fused gate and up projection, (2 · ffn, width).
    pub gate_up: Weight,
    /// The first expert's projection down, (width, ffn).
    pub down: Weight,
    /// Elements from an expert's weights to the next one's.
    pub stride: usize,
    /// Experts that a row goes to.
    pub top_k: usize,
    /// How their results are weighted.
    pub weighting: ExpertWeighting,
    /// What is applied to the gate.
    pub activation: Activation,
}

impl Experts {
    /// How many experts there are.
    pub fn count(&self) -> usize {
        self.router.rows
    }

    /// The gate and up projection of an expert.
    pub fn gate_up_of(&self, expert: usize) -> Weight {
        Weight { offset: self.gate_up.offset + expert * self.stride, ..self.gate_up }
    }

    /// The projection down of an expert.
    pub fn down_of(&self, expert: usize) -> Weight {
        Weight { offset: self.down.offset + expert * self.stride, ..self.down }
    }
}

/// A branch of the residual stream: what is added to it, and how that ends.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// Its number, counted from the first that is run.
    pub number: usize,
    /// No weight that this branch or a later one uses lies before this place in the flat buffer, but for those of the
    /// embedding and the output projection.
    pub first_weight: usize,
    /// The projection back into the stream, (width, inner), and its bias; none where the body ends in the stream's
    /// width already.
    pub projection: Option<(Weight, Option<Weight>)>,
    /// A norm of what comes out of that.
    pub norm: Option<Norm>,
}

/// What a branch computes before its projection: the machine, the branch's number, (rows, width) → (rows, inner).
pub type Body<'a, O> = &'a dyn Fn(&mut O, usize, &<O as Ops>::Act) -> <O as Ops>::Act;

/// What a decoder asks of a machine. Activations are rows (one a token) of f32.
///
/// Which row stands at which position of which document is known to the implementation, not to the model.
pub trait Ops: Sized {
    /// A handle to activations, (rows, width).
    type Act;

    /// Rows of `table` (vocab, width) chosen by `ids`.
    fn embed(&mut self, table: Weight, ids: &[u32]) -> Self::Act;

    /// `x` and for each row that row of `table` (positions, width) which its position in its document names.
    fn add_positions(&mut self, x: Self::Act, table: Weight) -> Self::Act;

    /// `x` and `bias` (1, width), added to every row.
    fn add_bias(&mut self, x: Self::Act, bias: Weight) -> Self::Act;

    /// `factor · x`.
    fn scale(&mut self, x: Self::Act, factor: f32) -> Self::Act;

    /// A norm of each row.
    fn norm(&mut self, x: &Self::Act, norm: Norm) -> Self::Act;

    /// `x · wᵀ (+ bias)`: (rows, w.cols) → (rows, w.rows).
    fn linear(&mut self, x: &Self::Act, w: Weight, bias: Option<Weight>) -> Self::Act;

    /// Norm of each query and key head in fused rows.
    fn qk_norm(&mut self, qkv: Self::Act, norm: QkNorm, heads: Heads) -> Self::Act;

    /// Rotary position embedding of the query and key heads in fused rows, by the angles of one of the machine's
    /// tables.
    fn rotary(&mut self, qkv: Self::Act, heads: Heads, table: usize) -> Self::Act;

    /// Attention over each row's own document: fused rows → (rows, heads · head_dim).
    fn attend(&mut self, qkv: Self::Act, heads: Heads, attention: Attention, layer: usize) -> Self::Act;

    /// `activation(gate) · up` of rows `[gate | up]`: (rows, 2 · ffn) → (rows, ffn).
    fn gated(&mut self, gate_up: Self::Act, activation: Activation) -> Self::Act;

    /// `activation(x)`.
    fn activate(&mut self, x: Self::Act, activation: Activation) -> Self::Act;

    /// What each row's experts make of it, weighted and added in the order of their numbers: (rows, width) → (rows,
    /// width).
    fn experts(&mut self, x: &Self::Act, experts: Experts) -> Self::Act;

    /// `x + y`.
    fn add(&mut self, x: Self::Act, y: Self::Act) -> Self::Act;

    /// What a branch's projection and norm make of what its body computed: (rows, inner) → (rows, width).
    fn finish_branch(&mut self, branch: Branch, mut y: Self::Act) -> Self::Act {
        if let Some((projection, bias)) = branch.projection {
            y = self.linear(&y, projection, bias);
        }
        match branch.norm {
            Some(norm) => self.norm(&y, norm),
            None => y,
        }
    }

    /// `x` and what the branch makes of it. A recording machine may forget what `body` computed and run it again in
    /// its backward pass.
    fn branch(&mut self, branch: Branch, x: Self::Act, body: Body<'_, Self>) -> Self::Act {
        let y = body(self, branch.number, &x);
        let y = self.finish_branch(branch, y);
        self.add(x, y)
    }
}
