//! The forward pass of a tape: computes each operation and records its node.

use super::{Attended, Mode, Node, Saved, Tape, Var};
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::{Body, Branch, Heads, Operation, Ops, Phase, QkNorm, Tensor, Weight, Work, kernels};

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
    let a = MatRef::new(x.data(), x.rows(), w.cols);
    let b = MatRef::new(tape.weight(w), w.rows, w.cols).t();
    {
        let _timer = tape.time(Operation::Product(w), || Work::product(x.rows(), w.cols, w.rows));
        gemm(exec, a, b, MatMut::new(out.data_mut(), x.rows(), w.rows), Into::Overwrite);
    }
    if let Some(bias) = bias {
        let _timer = tape.time(Operation::Bias, || Work::floats(2 * out.shape().len()));
        kernels::add_bias(exec, out.data_mut(), tape.weight(bias));
    }
    out
}

/// Attention over fused rows: its output, (rows, heads · head_dim), and log-sums, (rows, heads).
fn attend(tape: &Tape<'_>, qkv: &Tensor, heads: Heads) -> (Tensor, Tensor) {
    let mut value = tape.device.empty([qkv.rows(), heads.out_width()]);
    let mut log_sums = tape.device.empty([qkv.rows(), heads.heads]);
    let documents = tape.batch.documents;
    let _timer = tape.time(Operation::Attention, || Work::attention(documents, heads.out_width(), 2));
    kernels::attention_forward(
        tape.device.exec(),
        kernels::AttentionBatch { qkv: qkv.data(), documents, heads },
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

    fn rms_norm(&mut self, x: &Var, gain: Weight, eps: f32) -> Var {
        let mut value = self.device.empty([x.value.rows(), x.value.width()]);
        let _timer = self.time(Operation::Norm, || Work::floats(2 * x.value.shape().len()));
        kernels::rms_norm(self.device.exec(), x.value.data(), self.weight(gain), eps, value.data_mut());
        let mut out = self.var(value);
        let id = out.id;
        out.source = self.push(|| Node::RmsNorm { x: x.id, out: id, value: x.value.clone(), gain, eps });
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
        let phase = self.phase;
        self.push(|| {
            let value = match x.source {
                // What was just computed again is wanted again at once.
                Some(node) if phase != Phase::Again => Saved::Again(node),
                _ => Saved::Kept(x.value.clone()),
            };
            Node::Linear { x: x.id, out: out.id, value, w, bias, inner }
        });
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

    fn rotary(&mut self, qkv: Var, heads: Heads) -> Var {
        let x = qkv.id;
        let mut value = qkv.value;
        let _timer = self.time(Operation::Rotary, || Work::floats(2 * value.rows() * heads.rotated_width()));
        kernels::rotary(self.device.exec(), value.data_mut(), self.batch.positions, self.rotary, heads);
        let out = self.var(value);
        self.push(|| Node::Rotary { x, out: out.id, heads });
        out
    }

    fn attend(&mut self, qkv: Var, heads: Heads, _layer: usize) -> Var {
        let (value, log_sums) = match (self.recall(), self.recall()) {
            (Some(value), Some(log_sums)) => (value, log_sums),
            _ => attend(self, &qkv.value, heads),
        };
        self.remember(&value);
        self.remember(&log_sums);
        let out = self.var(value);
        self.push(|| {
            let kept = Attended { qkv: qkv.value.clone(), out: out.value.clone(), log_sums };
            Node::Attend { x: qkv.id, out: out.id, kept, heads }
        });
        out
    }

    fn swiglu(&mut self, gate_up: Var) -> Var {
        let rows = gate_up.value.rows();
        let mut value = self.device.empty([rows, gate_up.value.width() / 2]);
        let _timer = self.time(Operation::SwiGlu, || Work::floats(3 * value.shape().len()));
        kernels::swiglu(self.device.exec(), gate_up.value.data(), rows, value.data_mut());
        let mut out = self.var(value);
        let id = out.id;
        out.source = self.push(|| Node::SwiGlu { x: gate_up.id, out: id, value: gate_up.value.clone() });
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
                let y = self.linear(&y, branch.projection, branch.bias);
                self.add(x, y)
            }
        }
    }
}
