//! The forward pass of a tape: computes each operation and records its node.

use super::{Attended, Mode, Node, Saved, Tape, Var};
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::{
    Activation, Attention, Body, Branch, Experts, Heads, Norm, NormKind, Operation, Ops, Phase, QkNorm,
    Tensor, Weight, Work, kernels,
};

impl Tape<'_> {
    /// An activation that comes from outside, such as an image's embeddings: (rows, width).
    pub fn input(&mut self, value: Tensor) -> Var {
        self.var(value)
    }

    pub(super) fn var(&mut self, value: Tensor) -> Var {
        let id = self.memory.gradients.len();
        self.memory.gradients.push(None);
        Var { id, value, source: None }
    }

    /// How the backward pass comes by a value.
    fn saved(&self, x: &Var) -> Saved {
        match x.source {
            // What was just computed again is wanted again at once.
            Some(node) if self.phase != Phase::Again => Saved::Again(node),
            _ => Saved::Kept(x.value.clone()),
        }
    }

    fn push(&mut self, node: impl FnOnce() -> Node) -> Option<usize> {
        if !self.recording {
            return None;
        }
        self.memory.nodes.push(node());
        Some(self.memory.nodes.len() - 1)
    }
}

/// `x · wᵀ (+ bias)`.
fn linear(tape: &Tape<'_>, x: &Tensor, w: Weight, bias: Option<Weight>) -> Tensor {
    let exec = tape.device.exec();
    let mut out = tape.device.empty([x.rows(), w.rows]);
    product(tape, x.data(), w, out.data_mut());
    if let Some(bias) = bias {
        let _timer = tape.time(Operation::Bias, || Work::floats(2 * out.shape().len()));
        kernels::add_bias(exec, out.data_mut(), tape.weight(bias));
    }
    out
}

/// `x · wᵀ` of rows `x` (rows, w.cols) into `out` (rows, w.rows).
fn product(tape: &Tape<'_>, x: &[f32], w: Weight, out: &mut [f32]) {
    let rows = x.len() / w.cols;
    let a = MatRef::new(x, rows, w.cols);
    let b = MatRef::new(tape.weight(w), w.rows, w.cols).t();
    let _timer = tape.time(Operation::Product(w), || Work::product(rows, w.cols, w.rows));
    gemm(tape.device.exec(), a, b, MatMut::new(out, rows, w.rows), Into::Overwrite);
}

/// A norm of rows.
pub(super) fn norm(tape: &Tape<'_>, x: &Tensor, norm: Norm) -> Tensor {
    let mut out = tape.device.empty([x.rows(), x.width()]);
    let (exec, gain) = (tape.device.exec(), tape.weight(norm.gain));
    match norm.kind {
        NormKind::Rms => kernels::rms_norm(exec, x.data(), gain, norm.eps, out.data_mut()),
        NormKind::Layer => kernels::layer_norm(exec, x.data(), layer_norm(tape, norm), out.data_mut()),
    }
    out
}

/// The parameters of a layer norm.
pub(super) fn layer_norm<'a>(tape: &Tape<'a>, norm: Norm) -> kernels::LayerNorm<'a> {
    let bias = norm.bias.expect("a layer norm has a bias");
    kernels::LayerNorm { gain: tape.weight(norm.gain), bias: tape.weight(bias), eps: norm.eps }
}

/// Attention over fused rows: its output, (rows, heads · head_dim), and log-sums, (rows, heads).
fn attend(tape: &Tape<'_>, qkv: &Tensor, heads: Heads, attention: Attention) -> (Tensor, Tensor) {
    let mut value = tape.device.empty([qkv.rows(), heads.out_width()]);
    let mut log_sums = tape.device.empty([qkv.rows(), heads.heads]);
    let documents = tape.batch.documents;
    let _timer = tape.time(Operation::Attention, || Work::attention(documents, heads.out_width(), 2));
    kernels::attention_forward(
        tape.device.exec(),
        kernels::AttentionBatch { qkv: qkv.data(), documents, heads, attention },
        value.data_mut(),
        log_sums.data_mut(),
    );
    (value, log_sums)
}

impl Ops for Tape<'_> {
    type Act = Var;

    fn embed(&mut self, table: Weight, ids: &[u32]) -> Var {
        let mut value = self.device.empty([ids.len(), table.cols]);
        let _timer = self.time(Operation::Embed, || Work::floats(2 * ids.len() * table.cols));
        kernels::embedding(self.device.exec(), self.weight(table), ids, value.data_mut());
        let out = self.var(value);
        if self.recording {
            let start = self.memory.ids.len();
            self.memory.ids.extend_from_slice(ids);
            let ids = start..self.memory.ids.len();
            self.memory.nodes.push(Node::Embed { table, ids, out: out.id });
        }
        out
    }

    fn add_positions(&mut self, x: Var, table: Weight) -> Var {
        let (x, mut value) = (x.id, x.value);
        let _timer = self.time(Operation::Embed, || Work::floats(4 * value.shape().len()));
        let mut rows = self.device.empty(value.shape());
        let exec = self.device.exec();
        kernels::embedding(exec, self.weight(table), self.batch.positions, rows.data_mut());
        kernels::add_into(exec, rows.data(), value.data_mut());
        let out = self.var(value);
        self.push(|| Node::Positions { x, out: out.id, table });
        out
    }

    fn add_bias(&mut self, x: Var, bias: Weight) -> Var {
        let (x, mut value) = (x.id, x.value);
        let _timer = self.time(Operation::Bias, || Work::floats(2 * value.shape().len()));
        kernels::add_bias(self.device.exec(), value.data_mut(), self.weight(bias));
        let out = self.var(value);
        self.push(|| Node::AddBias { x, out: out.id, bias });
        out
    }

    fn scale(&mut self, x: Var, factor: f32) -> Var {
        let (x, mut value) = (x.id, x.value);
        let _timer = self.time(Operation::Scale, || Work::floats(2 * value.shape().len()));
        kernels::scale(self.device.exec(), factor, value.data_mut());
        let out = self.var(value);
        self.push(|| Node::Scale { x, out: out.id, factor });
        out
    }

    fn norm(&mut self, x: &Var, norm: Norm) -> Var {
        let value = {
            let _timer = self.time(Operation::Norm, || Work::floats(2 * x.value.shape().len()));
            self::norm(self, &x.value, norm)
        };
        let mut out = self.var(value);
        let id = out.id;
        out.source = self.push(|| Node::Norm { x: x.id, out: id, value: x.value.clone(), norm });
        out
    }

    fn linear(&mut self, x: &Var, w: Weight, bias: Option<Weight>) -> Var {
        let (value, inner) = match self.recall() {
            Some(value) => (value, self.low_rank_inner(&x.value, w)),
            None => {
                let mut value = linear(self, &x.value, w, bias);
                let inner = self.add_low_rank(&x.value, w, &mut value);
                (value, inner)
            }
        };
        self.remember(&value);
        let out = self.var(value);
        let value = self.saved(x);
        self.push(|| Node::Linear { x: x.id, out: out.id, value, w, bias, inner });
        out
    }

    fn qk_norm(&mut self, qkv: Var, norm: QkNorm, heads: Heads) -> Var {
        let mut value = self.device.empty([qkv.value.rows(), heads.fused_width()]);
        let gains =
            kernels::QkGains { query: self.weight(norm.query), key: self.weight(norm.key), eps: norm.eps };
        let _timer = self.time(Operation::QkNorm, || Work::floats(2 * qkv.value.shape().len()));
        kernels::qk_norm(self.device.exec(), qkv.value.data(), gains, heads, value.data_mut());
        let out = self.var(value);
        self.push(|| Node::QkNorm { x: qkv.id, out: out.id, value: qkv.value.clone(), norm, heads });
        out
    }

    fn rotary(&mut self, qkv: Var, heads: Heads, table: usize) -> Var {
        let x = qkv.id;
        let mut value = qkv.value;
        let _timer = self.time(Operation::Rotary, || Work::floats(2 * value.rows() * heads.rotated_width()));
        let angles = &self.rotary[table];
        kernels::rotary(self.device.exec(), value.data_mut(), self.batch.positions, angles, heads);
        let out = self.var(value);
        self.push(|| Node::Rotary { x, out: out.id, heads, table });
        out
    }

    fn attend(&mut self, qkv: Var, heads: Heads, attention: Attention, _layer: usize) -> Var {
        let (value, log_sums) = match (self.recall(), self.recall()) {
            (Some(value), Some(log_sums)) => (value, log_sums),
            _ => attend(self, &qkv.value, heads, attention),
        };
        self.remember(&value);
        self.remember(&log_sums);
        let out = self.var(value);
        self.push(|| {
            let kept = Attended { qkv: qkv.value.clone(), out: out.value.clone(), log_sums };
            Node::Attend { x: qkv.id, out: out.id, kept, heads, attention }
        });
        out
    }

    fn gated(&mut self, gate_up: Var, activation: Activation) -> Var {
        let rows = gate_up.value.rows();
        let mut value = self.device.empty([rows, gate_up.value.width() / 2]);
        let _timer = self.time(Operation::Activation, || Work::floats(3 * value.shape().len()));
        kernels::gated(self.device.exec(), gate_up.value.data(), activation, rows, value.data_mut());
        let mut out = self.var(value);
        let id = out.id;
        let value = || gate_up.value.clone();
        out.source = self.push(|| Node::Gated { x: gate_up.id, out: id, value: value(), activation });
        out
    }

    fn activate(&mut self, x: Var, activation: Activation) -> Var {
        let mut value = self.device.empty(x.value.shape());
        let _timer = self.time(Operation::Activation, || Work::floats(2 * value.shape().len()));
        kernels::activate(self.device.exec(), x.value.data(), activation, value.data_mut());
        let mut out = self.var(value);
        let id = out.id;
        out.source = self.push(|| Node::Activate { x: x.id, out: id, value: x.value.clone(), activation });
        out
    }

    /// # Panics
    /// On a recording tape: experts are not differentiated.
    fn experts(&mut self, x: &Var, experts: Experts) -> Var {
        let logits = linear(self, &x.value, experts.router, None);
        let value = match self.recall() {
            Some(value) => value,
            None => {
                let mut value = self.device.zeros(x.value.shape());
                let mut run = |x: &[f32], w: Weight, out: &mut [f32]| product(self, x, w, out);
                let rows = kernels::ExpertRows { x: x.value.data(), logits: logits.data() };
                kernels::experts(self.device.exec(), experts, rows, &mut run, value.data_mut());
                value
            }
        };
        self.remember(&value);
        let out = self.var(value);
        let value = self.saved(x);
        self.push(|| Node::Experts { x: x.id, out: out.id, value, logits, experts });
        out
    }

    fn add(&mut self, x: Var, y: Var) -> Var {
        let (x_id, y_id) = (x.id, y.id);
        let mut value = y.value;
        let _timer = self.time(Operation::Add, || Work::floats(3 * value.shape().len()));
        kernels::add_into(self.device.exec(), x.value.data(), value.data_mut());
        let out = self.var(value);
        self.push(|| Node::Add { x: x_id, y: y_id, out: out.id });
        out
    }

    fn branch(&mut self, branch: Branch, x: Var, body: Body<'_, Self>) -> Var {
        match self.mode {
            Mode::Checkpoint { branches } if branch.number < branches => self.forget(branch, x, body),
            _ => {
                let y = body(self, branch.number, &x);
                let y = self.finish_branch(branch, y);
                self.add(x, y)
            }
        }
    }
}
