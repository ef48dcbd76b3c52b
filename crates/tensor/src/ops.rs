//! The boundary between model and machine: the few fused operations that a decoder is written over.
//!
//! [`crate::Tape`] implements them and records what the backward pass needs; the engine implements
//! them forward only, with pages of keys and values. It must not know any model family.

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

/// A branch of the residual stream: what is added to it after the projection.
#[derive(Clone, Copy, Debug)]
pub struct Branch {
    /// Its number, counted from the first that is run.
    pub number: usize,
    /// No weight that this branch or a later one uses lies before this place in the flat buffer, but for those of the
    /// embedding and the output projection.
    pub first_weight: usize,
    /// The projection back into the stream, (width, inner).
    pub projection: Weight,
    /// The projection's bias.
    pub bias: Option<Weight>,
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

    /// Root-mean-square norm of each row, times `gain`.
    fn rms_norm(&mut self, x: &Self::Act, gain: Weight, eps: f32) -> Self::Act;

    /// `x · wᵀ (+ bias)`: (rows, w.cols) → (rows, w.rows).
    fn linear(&mut self, x: &Self::Act, w: Weight, bias: Option<Weight>) -> Self::Act;

    /// Norm of each query and key head in fused rows.
    fn qk_norm(&mut self, qkv: Self::Act, norm: QkNorm, heads: Heads) -> Self::Act;

    /// Rotary position embedding of the query and key heads in fused rows.
    fn rotary(&mut self, qkv: Self::Act, heads: Heads) -> Self::Act;

    /// Causal attention over each row's own document: fused rows → (rows, heads · head_dim).
    fn attend(&mut self, qkv: Self::Act, heads: Heads, layer: usize) -> Self::Act;

    /// `silu(gate) · up` of rows `[gate | up]`: (rows, 2 · ffn) → (rows, ffn).
    fn swiglu(&mut self, gate_up: Self::Act) -> Self::Act;

    /// `x + y`.
    fn add(&mut self, x: Self::Act, y: Self::Act) -> Self::Act;

    /// `x` and the projection of what `body` makes of it. A recording machine may forget what `body` computed and run
    /// it again in its backward pass.
    fn branch(&mut self, branch: Branch, x: Self::Act, body: Body<'_, Self>) -> Self::Act {
        let y = body(self, branch.number, &x);
        let y = self.linear(&y, branch.projection, branch.bias);
        self.add(x, y)
    }
}
