//! The decoder's operations, forward only: packed weights, activations from the device's recycler, attention
//! over pages. Knows neither the model's structure nor what the rows mean.

use std::ops::Range;
use std::sync::Arc;

use tensor::kernels::attention::PagedRows;
use tensor::kernels::{self, AttentionBatch};
use tensor::quant::QuantRows;
use tensor::{
    Activation, Attention, Device, Experts, Head, Heads, Mask, Norm, NormKind, Ops, QkNorm, Tensor, Weight,
};

use crate::cache::Cache;
use crate::weights::Weights;
use crate::{Adapter, Chunk, LogitRows};

/// Where the rows of one chunk lie in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// The first row of the step that is this chunk's.
    pub row: usize,
    /// How many there are.
    pub rows: usize,
    /// The position of the first in its sequence.
    pub first_position: usize,
    /// The first row of logits that is this chunk's.
    pub logit_row: usize,
}

/// Activations: the first `rows` rows of a buffer that may have room for more, (room, width).
pub(crate) struct Activations {
    buffer: Tensor,
    rows: usize,
}

impl Activations {
    pub fn data(&self) -> &[f32] {
        &self.buffer.data()[..self.rows * self.buffer.width()]
    }

    fn data_mut(&mut self) -> &mut [f32] {
        let len = self.rows * self.buffer.width();
        &mut self.buffer.data_mut()[..len]
    }
}

/// One step's forward pass.
pub(crate) struct Forward<'a> {
    pub device: &'a Device,
    pub weights: &'a Weights,
    /// The pages; an encoder has none.
    pub cache: Option<&'a mut Cache>,
    pub chunks: &'a [Chunk],
    pub spans: &'a [Span],
    /// The position of each row in its sequence, (rows).
    pub positions: &'a [u32],
    /// Room for a product's rows as integers.
    pub quantized: &'a mut QuantRows,
}

impl Forward<'_> {
    /// Room for activations. The number of rows is rounded up to a power of two, so that steps of many sizes
    /// ask the recycler for few.
    fn room(&self, rows: usize, width: usize) -> Activations {
        Activations { buffer: self.device.empty([rows.next_power_of_two(), width]), rows }
    }

    fn product(&mut self, x: &[f32], rows: usize, w: Weight, out: &mut [f32]) {
        self.weights.product(self.device.exec(), (x, rows), w, (out, self.quantized));
    }

    /// Adds to the rows of each sequence what its adapters add to the product with a matrix: `x` (rows, w.cols), `out`
    /// (rows, w.rows).
    fn add_low_rank(&self, x: &Activations, w: Weight, out: &mut Activations) {
        let of = |index: usize| self.chunks[index].sequence.adapter.as_ref();
        let mut first = 0;
        while first < self.chunks.len() {
            let adapter = of(first);
            let same = (first..self.chunks.len()).take_while(|&index| is_same(of(index), adapter));
            let next = first + same.count();
            let end = self.spans.get(next).map_or(x.rows, |span| span.row);
            let rows = self.spans[first].row..end;
            first = next;
            let Some((adapter, addition)) = adapter.and_then(|adapter| Some((adapter, adapter.addition(w)?)))
            else {
                continue;
            };
            if rows.is_empty() {
                continue;
            }
            let mut inner = self.room(rows.len(), addition.rank_sum());
            let inputs = &x.data()[rows.start * w.cols..rows.end * w.cols];
            let outputs = &mut out.data_mut()[rows.start * w.rows..rows.end * w.rows];
            adapter.add(self.device.exec(), addition, (inputs, inner.data_mut()), (outputs, w.rows));
        }
    }

    /// Attention of rows that see all rows of their span.
    fn attend_whole(&self, qkv: &[f32], heads: Heads, attention: Attention, out: &mut [f32]) {
        let documents: Vec<Range<usize>> =
            self.spans.iter().map(|span| span.row..span.row + span.rows).collect();
        let mut log_sums = self.room(qkv.len() / heads.fused_width(), heads.heads);
        let batch = AttentionBatch { qkv, documents: &documents, heads, attention };
        kernels::attention_forward(self.device.exec(), batch, out, log_sums.data_mut());
    }

    /// The logits of the rows that the chunks ask for: hidden rows (rows, width) → (logit rows, vocabulary).
    pub fn logits(&mut self, hidden: &Activations, head: Head, logits: &mut Vec<f32>) {
        let Head { weight: head, soft_cap } = head;
        let rows: usize = self.chunks.iter().map(Chunk::logit_rows).sum();
        logits.resize(rows * head.rows, 0.0);
        if rows == 0 {
            return;
        }
        let width = head.cols;
        let mut chosen = self.room(rows, width);
        let mut places = chosen.data_mut().chunks_exact_mut(width);
        for (chunk, span) in self.chunks.iter().zip(self.spans) {
            let end = span.row + span.rows;
            let rows = match chunk.logits {
                LogitRows::None => end..end,
                LogitRows::Last => end - span.rows.min(1)..end,
                LogitRows::All => span.row..end,
            };
            for (row, place) in rows.zip(&mut places) {
                place.copy_from_slice(&hidden.data()[row * width..(row + 1) * width]);
            }
        }
        self.product(chosen.data(), rows, head, logits);
        if let Some(cap) = soft_cap {
            kernels::soft_cap(self.device.exec(), cap, logits);
        }
    }
}

impl Ops for Forward<'_> {
    type Act = Activations;

    fn embed(&mut self, table: Weight, ids: &[u32]) -> Activations {
        let mut out = self.room(ids.len(), table.cols);
        self.weights.look_up(self.device.exec(), table, ids, out.data_mut());
        out
    }

    fn add_positions(&mut self, mut x: Activations, table: Weight) -> Activations {
        let mut rows = self.room(x.rows, table.cols);
        let exec = self.device.exec();
        self.weights.look_up(exec, table, self.positions, rows.data_mut());
        kernels::add_into(exec, rows.data(), x.data_mut());
        x
    }

    fn add_bias(&mut self, mut x: Activations, bias: Weight) -> Activations {
        kernels::add_bias(self.device.exec(), x.data_mut(), &self.weights.plain(bias));
        x
    }

    fn scale(&mut self, mut x: Activations, factor: f32) -> Activations {
        kernels::scale(self.device.exec(), factor, x.data_mut());
        x
    }

    fn norm(&mut self, x: &Activations, norm: Norm) -> Activations {
        let mut out = self.room(x.rows, norm.gain.cols);
        let (exec, gain, eps) = (self.device.exec(), self.weights.plain(norm.gain), norm.eps);
        match norm.kind {
            NormKind::Rms => kernels::rms_norm(exec, x.data(), &gain, eps, out.data_mut()),
            NormKind::Layer => {
                let bias = self.weights.plain(norm.bias.expect("a layer norm has a bias"));
                let norm = kernels::LayerNorm { gain: &gain, bias: &bias, eps };
                kernels::layer_norm(exec, x.data(), norm, out.data_mut());
            }
        }
        out
    }

    fn linear(&mut self, x: &Activations, w: Weight, bias: Option<Weight>) -> Activations {
        let mut out = self.room(x.rows, w.rows);
        self.product(x.data(), x.rows, w, out.data_mut());
        if let Some(bias) = bias {
            kernels::add_bias(self.device.exec(), out.data_mut(), &self.weights.plain(bias));
        }
        self.add_low_rank(x, w, &mut out);
        out
    }

    fn qk_norm(&mut self, qkv: Activations, norm: QkNorm, heads: Heads) -> Activations {
        let mut out = self.room(qkv.rows, heads.fused_width());
        let (query, key) = (self.weights.plain(norm.query), self.weights.plain(norm.key));
        let gains = kernels::QkGains { query: &query, key: &key, eps: norm.eps };
        kernels::qk_norm(self.device.exec(), qkv.data(), gains, heads, out.data_mut());
        out
    }

    fn rotary(&mut self, mut qkv: Activations, heads: Heads, table: usize) -> Activations {
        let of = |index: usize| &self.chunks[index].sequence.rotary;
        let mut first = 0;
        while first < self.spans.len() {
            // Spans that are turned by the same angles, most often all.
            let same = (first..self.spans.len()).take_while(|index| Arc::ptr_eq(of(*index), of(first)));
            let next = first + same.count();
            let end = self.spans.get(next).map_or(qkv.rows, |span| span.row);
            let rows = self.spans[first].row..end;
            let width = heads.fused_width();
            let part = &mut qkv.data_mut()[rows.start * width..rows.end * width];
            kernels::rotary(self.device.exec(), part, &self.positions[rows], &of(first)[table], heads);
            first = next;
        }
        qkv
    }

    fn attend(&mut self, qkv: Activations, heads: Heads, attention: Attention, layer: usize) -> Activations {
        let mut out = self.room(qkv.rows, heads.out_width());
        let (chunks, spans) = (self.chunks, self.spans);
        let sequence = |index: usize| {
            let Span { row, rows, first_position, .. } = spans[index];
            PagedRows { row, rows, first_position, pages: chunks[index].sequence.pages.pages() }
        };
        let exec = self.device.exec();
        if attention.mask == Mask::Whole {
            self.attend_whole(qkv.data(), heads, attention, out.data_mut());
            return out;
        }
        let cache = self.cache.as_mut().expect("a decoder has pages");
        debug_assert_eq!(heads, cache.heads(), "one decoder has one division into heads");
        let layer = (layer, attention);
        cache.attend(exec, layer, (qkv.data(), out.data_mut()), (spans.len(), &sequence));
        out
    }

    fn gated(&mut self, gate_up: Activations, activation: Activation) -> Activations {
        let mut out = self.room(gate_up.rows, gate_up.buffer.width() / 2);
        kernels::gated(self.device.exec(), gate_up.data(), activation, gate_up.rows, out.data_mut());
        out
    }

    fn activate(&mut self, x: Activations, activation: Activation) -> Activations {
        let mut out = self.room(x.rows, x.buffer.width());
        kernels::activate(self.device.exec(), x.data(), activation, out.data_mut());
        out
    }

    fn experts(&mut self, x: &Activations, experts: Experts) -> Activations {
        let mut logits = self.room(x.rows, experts.count());
        self.product(x.data(), x.rows, experts.router, logits.data_mut());
        let mut out = self.room(x.rows, experts.router.cols);
        out.data_mut().fill(0.0);
        let exec = self.device.exec();
        let rows = kernels::ExpertRows { x: x.data(), logits: logits.data() };
        let mut product = |x: &[f32], w: Weight, out: &mut [f32]| self.product(x, x.len() / w.cols, w, out);
        kernels::experts(exec, experts, rows, &mut product, out.data_mut());
        out
    }

    fn add(&mut self, x: Activations, mut y: Activations) -> Activations {
        kernels::add_into(self.device.exec(), x.data(), y.data_mut());
        y
    }
}

fn is_same(one: Option<&Arc<Adapter>>, other: Option<&Arc<Adapter>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}
