//! The backward pass of a tape: walks the nodes from the last to the first, frees what each kept, and
//! adds the weights' gradients to the flat buffer.

use super::record::{layer_norm, norm};
use super::{Attended, Node, Saved, Tape, Var};
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::{
    Activation, Attention, Body, Heads, Norm, NormKind, Operation, Phase, QkNorm, Tensor, Weight, Work,
    kernels,
};

impl Tape<'_> {
    /// Runs all recorded operations backward, from the gradients that [`Tape::cross_entropy`] or
    /// [`Tape::seed_gradient`] left. `replay` runs a branch's body again (see [`crate::Ops::branch`]).
    pub fn backward(&mut self, replay: Body<'_, Self>) {
        while let Some(node) = self.memory.nodes.pop() {
            match node {
                Node::Branch(forgotten) => self.replay(replay, forgotten),
                Node::Link { from, to } => {
                    if let Some(gradient) = self.take(from) {
                        self.accumulate(to, gradient);
                    }
                }
                node => self.node_backward(node),
            }
        }
    }

    /// Sets the gradient of an activation, (rows, width): where a backward pass starts.
    pub fn seed_gradient(&mut self, var: &Var, gradient: Tensor) {
        self.accumulate(var.id, gradient);
    }

    fn node_backward(&mut self, node: Node) {
        let out = match &node {
            Node::Embed { out, .. } | Node::Norm { out, .. } | Node::Linear { out, .. } => *out,
            Node::Positions { out, .. } | Node::AddBias { out, .. } | Node::Scale { out, .. } => *out,
            Node::QkNorm { out, .. } | Node::Rotary { out, .. } | Node::Attend { out, .. } => *out,
            Node::Gated { out, .. } | Node::Activate { out, .. } | Node::Add { out, .. } => *out,
            Node::Experts { out, .. } => *out,
            Node::Branch(_) | Node::Link { .. } => unreachable!("handled by `backward`"),
        };
        let Some(dy) = self.take(out) else { return };
        match node {
            Node::Embed { table, ids, .. } => self.embed_backward(table, ids, &dy),
            Node::Positions { x, table, .. } => self.positions_backward(x, table, dy),
            Node::AddBias { x, bias, .. } => {
                self.bias_backward(bias, &dy);
                self.accumulate(x, dy);
            }
            Node::Scale { x, factor, .. } => self.scale_backward(x, factor, &dy),
            Node::Norm { x, value, norm, .. } => self.norm_backward(x, &value, norm, &dy),
            Node::Linear { x, value, w, bias, inner, .. } => {
                self.linear_backward(x, (value, inner), (w, bias), &dy);
            }
            Node::QkNorm { x, value, norm, heads, .. } => {
                self.qk_norm_backward(x, &value, (norm, heads), &dy)
            }
            Node::Rotary { x, heads, table, .. } => self.rotary_backward(x, (heads, table), dy),
            Node::Attend { x, kept, heads, attention, .. } => {
                self.attend_backward(x, kept, (heads, attention), &dy);
            }
            Node::Gated { x, value, activation, .. } => self.gated_backward(x, &value, activation, &dy),
            Node::Activate { x, value, activation, .. } => {
                self.activate_backward(x, &value, activation, &dy);
            }
            Node::Experts { x, value, logits, experts, .. } => {
                self.experts_backward(x, (value, &logits), experts, &dy);
            }
            Node::Add { x, y, .. } => {
                self.accumulate(x, dy.clone());
                self.accumulate(y, dy);
            }
            Node::Branch(_) | Node::Link { .. } => unreachable!("handled by `backward`"),
        }
    }

    fn embed_backward(&mut self, table: Weight, ids: std::ops::Range<usize>, dy: &Tensor) {
        if self.flat.is_frozen() {
            return;
        }
        let place = self.flat.lookup.unwrap_or(table);
        let _timer =
            self.time_in(Phase::WeightGradient, Operation::Embed, || Work::floats(3 * dy.shape().len()));
        let gradient = place.of_mut(self.flat.gradients);
        kernels::embedding_backward(self.device.exec(), &self.memory.ids[ids], dy.data(), gradient);
    }

    fn positions_backward(&mut self, x: usize, table: Weight, dy: Tensor) {
        if !self.flat.is_frozen() {
            let work = || Work::floats(3 * dy.shape().len());
            let _timer = self.time_in(Phase::WeightGradient, Operation::Embed, work);
            let gradient = table.of_mut(self.flat.gradients);
            kernels::embedding_backward(self.device.exec(), self.batch.positions, dy.data(), gradient);
        }
        self.accumulate(x, dy);
    }

    fn bias_backward(&mut self, bias: Weight, dy: &Tensor) {
        if self.flat.is_frozen() {
            return;
        }
        let work = || Work::floats(dy.shape().len());
        let _timer = self.time_in(Phase::WeightGradient, Operation::Bias, work);
        kernels::column_sums(self.device.exec(), dy.data(), bias.of_mut(self.flat.gradients));
    }

    fn scale_backward(&mut self, x: usize, factor: f32, dy: &Tensor) {
        let mut dx = self.device.empty(dy.shape());
        let timer =
            self.time_in(Phase::InputGradient, Operation::Scale, || Work::floats(2 * dy.shape().len()));
        kernels::scaled(self.device.exec(), factor, dy.data(), dx.data_mut());
        drop(timer);
        self.accumulate(x, dx);
    }

    fn norm_backward(&mut self, x: usize, value: &Tensor, norm: Norm, dy: &Tensor) {
        let _timer =
            self.time_in(Phase::InputGradient, Operation::Norm, || Work::floats(4 * value.shape().len()));
        let mut dx = self.take_or_zeros(x, value);
        let exec = self.device.exec();
        // The gain's gradient and, right after it, the bias's.
        let width = norm.gain.cols;
        let len = if norm.bias.is_some() { 2 * width } else { width };
        debug_assert!(norm.bias.is_none_or(|bias| bias.offset == norm.gain.offset + width));
        let mut unused = self.flat.is_frozen().then(|| self.device.zeros(len));
        let parameters = match norm.kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(layer_norm(self, norm)),
        };
        let gain = self.weight(norm.gain);
        let gradients = match &mut unused {
            Some(unused) => unused.data_mut(),
            None => &mut self.flat.gradients[norm.gain.offset..][..len],
        };
        let (dgain, dbias) = gradients.split_at_mut(width);
        match parameters {
            None => {
                let gradients = kernels::NormGradients { dx: dx.data_mut(), dgain };
                kernels::rms_norm_backward(exec, value.data(), (gain, norm.eps), dy.data(), gradients);
            }
            Some(parameters) => {
                let gradients = kernels::LayerNormGradients { dx: dx.data_mut(), dgain, dbias };
                kernels::layer_norm_backward(exec, value.data(), parameters, dy.data(), gradients);
            }
        }
        self.memory.gradients[x] = Some(dx);
    }

    fn linear_backward(
        &mut self,
        x: usize,
        (value, inner): (Saved, Option<Tensor>),
        (w, bias): (Weight, Option<Weight>),
        dy: &Tensor,
    ) {
        // The input is needed for the gradient of the matrix and for that of its low-rank addition.
        let mut input = (!self.flat.is_frozen() || inner.is_some()).then(|| self.saved_value(value));
        if let Some(input) = input.as_ref().filter(|_| !self.flat.is_frozen()) {
            self.matrix_backward(input, (w, bias), dy);
        }
        input = input.filter(|_| inner.is_some());
        let mut dx = self.input_backward(x, w, dy);
        if let (Some(input), Some(inner)) = (input, inner) {
            self.low_rank_backward(w, (&input, &inner), dy, &mut dx);
        }
        self.memory.gradients[x] = Some(dx);
    }

    /// The gradient of a product's input `x`, what it has so far included; the caller puts it in its place.
    pub(super) fn input_backward(&mut self, x: usize, w: Weight, dy: &Tensor) -> Tensor {
        let rows = dy.rows();
        let (mut dx, into) = match self.take_unique(x) {
            Some(dx) => (dx, Into::Accumulate),
            None => (self.device.empty([rows, w.cols]), Into::Overwrite),
        };
        let work = || Work::product(rows, w.cols, w.rows);
        let _timer = self.time_in(Phase::InputGradient, Operation::Product(w), work);
        let a = MatRef::new(dy.data(), rows, w.rows);
        let b = MatRef::new(self.weight(w), w.rows, w.cols);
        gemm(self.device.exec(), a, b, MatMut::new(dx.data_mut(), rows, w.cols), into);
        dx
    }

    /// A value that was kept, or computed again.
    pub(super) fn saved_value(&self, value: Saved) -> Tensor {
        match value {
            Saved::Kept(tensor) => tensor,
            Saved::Again(node) => self.again(node),
        }
    }

    /// Adds the gradients of a matrix and its bias; `input` is (rows, w.cols), `dy` (rows, w.rows).
    fn matrix_backward(&mut self, input: &Tensor, (w, bias): (Weight, Option<Weight>), dy: &Tensor) {
        let exec = self.device.exec();
        let rows = dy.rows();
        let a = MatRef::new(dy.data(), rows, w.rows).t(); // (w.rows, rows)
        let b = MatRef::new(input.data(), rows, w.cols);
        let work = || Work::product(rows, w.cols, w.rows);
        let timer = self.time_in(Phase::WeightGradient, Operation::Product(w), work);
        let dw = MatMut::new(w.of_mut(self.flat.gradients), w.rows, w.cols);
        gemm(exec, a, b, dw, Into::Accumulate);
        drop(timer);
        if let Some(bias) = bias {
            self.bias_backward(bias, dy);
        }
    }

    fn qk_norm_backward(&mut self, x: usize, value: &Tensor, (norm, heads): (QkNorm, Heads), dy: &Tensor) {
        let _timer =
            self.time_in(Phase::InputGradient, Operation::QkNorm, || Work::floats(3 * value.shape().len()));
        let mut dx = self.device.empty([value.rows(), value.width()]);
        let gains = kernels::QkGains {
            query: norm.query.of(self.flat.weights),
            key: norm.key.of(self.flat.weights),
            eps: norm.eps,
        };
        let first = norm.query.offset.min(norm.key.offset);
        let (query_at, key_at) = (norm.query.offset - first, norm.key.offset - first);
        let len = query_at.max(key_at) + heads.head_dim;
        let mut unused = self.flat.is_frozen().then(|| self.device.zeros(len));
        let gradients = match &mut unused {
            Some(unused) => unused.data_mut(),
            None => &mut self.flat.gradients[first..first + len],
        };
        let (low, high) = gradients.split_at_mut(query_at.max(key_at));
        let (dquery, dkey) = match query_at < key_at {
            true => (&mut low[..heads.head_dim], high),
            false => (high, &mut low[..heads.head_dim]),
        };
        let gradients = kernels::QkNormGradients { dx: dx.data_mut(), dquery, dkey };
        kernels::qk_norm_backward(self.device.exec(), value.data(), (gains, heads), dy.data(), gradients);
        self.accumulate(x, dx);
    }

    fn rotary_backward(&mut self, x: usize, (heads, table): (Heads, usize), mut dy: Tensor) {
        let timer = self.time_in(Phase::InputGradient, Operation::Rotary, || {
            Work::floats(2 * dy.rows() * heads.rotated_width())
        });
        let angles = &self.rotary[table];
        kernels::rotary_backward(self.device.exec(), dy.data_mut(), self.batch.positions, angles, heads);
        drop(timer);
        self.accumulate(x, dy);
    }

    fn attend_backward(
        &mut self,
        x: usize,
        kept: Attended,
        (heads, attention): (Heads, Attention),
        dy: &Tensor,
    ) {
        let mut dqkv = self.device.empty([dy.rows(), heads.fused_width()]);
        let timer = self.time_in(Phase::InputGradient, Operation::Attention, || {
            Work::attention(self.batch.documents, heads.out_width(), 5)
        });
        kernels::attention_backward(
            self.device.exec(),
            kernels::AttentionBatch {
                qkv: kept.qkv.data(),
                documents: self.batch.documents,
                heads,
                attention,
            },
            kernels::AttentionKept { out: kept.out.data(), log_sums: kept.log_sums.data() },
            dy.data(),
            dqkv.data_mut(),
        );
        drop(timer);
        self.accumulate(x, dqkv);
    }

    fn gated_backward(&mut self, x: usize, value: &Tensor, activation: Activation, dy: &Tensor) {
        let mut dx = self.device.empty([value.rows(), value.width()]);
        let timer = self.time_in(Phase::InputGradient, Operation::Activation, || {
            Work::floats(2 * value.shape().len() + dy.shape().len())
        });
        let (exec, inputs) = (self.device.exec(), (value.data(), dy.data()));
        kernels::gated_backward(exec, inputs, activation, value.rows(), dx.data_mut());
        drop(timer);
        self.accumulate(x, dx);
    }

    fn activate_backward(&mut self, x: usize, value: &Tensor, activation: Activation, dy: &Tensor) {
        let mut dx = self.device.empty(value.shape());
        let work = || Work::floats(3 * value.shape().len());
        let timer = self.time_in(Phase::InputGradient, Operation::Activation, work);
        kernels::activate_backward(self.device.exec(), value.data(), activation, dy.data(), dx.data_mut());
        drop(timer);
        self.accumulate(x, dx);
    }

    /// Computes a cheap node's value again.
    fn again(&self, node: usize) -> Tensor {
        let exec = self.device.exec();
        match &self.memory.nodes[node] {
            Node::Norm { value, norm: parameters, .. } => {
                let _timer =
                    self.time_in(Phase::Again, Operation::Norm, || Work::floats(2 * value.shape().len()));
                norm(self, value, *parameters)
            }
            Node::Activate { value, activation, .. } => {
                let mut out = self.device.empty(value.shape());
                let work = || Work::floats(2 * out.shape().len());
                let _timer = self.time_in(Phase::Again, Operation::Activation, work);
                kernels::activate(exec, value.data(), *activation, out.data_mut());
                out
            }
            Node::Gated { value, activation, .. } => {
                let mut out = self.device.empty([value.rows(), value.width() / 2]);
                let _timer =
                    self.time_in(Phase::Again, Operation::Activation, || Work::floats(3 * out.shape().len()));
                kernels::gated(exec, value.data(), *activation, value.rows(), out.data_mut());
                out
            }
            _ => unreachable!("only norms and activations are computed again"),
        }
    }

    pub(super) fn take(&mut self, var: usize) -> Option<Tensor> {
        self.memory.gradients[var].take()
    }

    /// The gradient so far, its buffer shared with no other gradient.
    fn take_unique(&mut self, var: usize) -> Option<Tensor> {
        let gradient = self.take(var)?;
        if gradient.is_unique() {
            return Some(gradient);
        }
        let _timer =
            self.time_in(Phase::InputGradient, Operation::Add, || Work::floats(2 * gradient.shape().len()));
        let mut copy = self.device.empty(gradient.shape());
        copy.data_mut().copy_from_slice(gradient.data());
        Some(copy)
    }

    pub(super) fn take_or_zeros(&mut self, var: usize, like: &Tensor) -> Tensor {
        self.take_unique(var).unwrap_or_else(|| self.device.zeros(like.shape()))
    }

    fn accumulate(&mut self, var: usize, gradient: Tensor) {
        let sum = match self.take_unique(var) {
            None => gradient,
            Some(mut sum) => {
                let _timer = self
                    .time_in(Phase::InputGradient, Operation::Add, || Work::floats(3 * sum.shape().len()));
                kernels::add_into(self.device.exec(), gradient.data(), sum.data_mut());
                sum
            }
        };
        self.memory.gradients[var] = Some(sum);
    }
}
