//! The decoder's operations, forward only: packed weights, activations from the device's recycler, attention
//! over pages. Knows neither the model's structure nor what the rows mean.

use tensor::kernels::attention::PagedRows;
use tensor::kernels::{self, RotaryTable};
use tensor::quant::QuantRows;
use tensor::{Device, Heads, Ops, QkNorm, Tensor, Weight};

use crate::cache::Cache;
use crate::weights::Weights;
use crate::{Chunk, LogitRows};

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
    fn data(&self) -> &[f32] {
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
    pub cache: &'a mut Cache,
    pub rotary: &'a RotaryTable,
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

    /// The logits of the rows that the chunks ask for: hidden rows (rows, width) → (logit rows, vocabulary).
    pub fn logits(&mut self, hidden: &Activations, head: Weight, logits: &mut Vec<f32>) {
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
    }
}

impl Ops for Forward<'_> {
    type Act = Activations;

    fn embed(&mut self, table: Weight, ids: &[u32]) -> Activations {
        let mut out = self.room(ids.len(), table.cols);
        self.weights.look_up(self.device.exec(), table, ids, out.data_mut());
        out
    }

    fn rms_norm(&mut self, x: &Activations, gain: Weight, eps: f32) -> Activations {
        let mut out = self.room(x.rows, gain.cols);
        kernels::rms_norm(self.device.exec(), x.data(), &self.weights.plain(gain), eps, out.data_mut());
        out
    }

    fn linear(&mut self, x: &Activations, w: Weight, bias: Option<Weight>) -> Activations {
        let mut out = self.room(x.rows, w.rows);
        self.product(x.data(), x.rows, w, out.data_mut());
        if let Some(bias) = bias {
            kernels::add_bias(self.device.exec(), out.data_mut(), &self.weights.plain(bias));
        }
        out
    }

    fn qk_norm(&mut self, qkv: Activations, norm: QkNorm, heads: Heads) -> Activations {
        let mut out = self.room(qkv.rows, heads.fused_width());
        let (query, key) = (self.weights.plain(norm.query), self.weights.plain(norm.key));
        let gains = kernels::QkGains { query: &query, key: &key, eps: norm.eps };
        kernels::qk_norm(self.device.exec(), qkv.data(), gains, heads, out.data_mut());
        out
    }

    fn rotary(&mut self, mut qkv: Activations, heads: Heads) -> Activations {
        kernels::rotary(self.device.exec(), qkv.data_mut(), self.positions, self.rotary, heads);
        qkv
    }

    fn attend(&mut self, qkv: Activations, heads: Heads, layer: usize) -> Activations {
        let mut out = self.room(qkv.rows, heads.out_width());
        let (chunks, spans) = (self.chunks, self.spans);
        let sequence = |index: usize| {
            let Span { row, rows, first_position, .. } = spans[index];
            PagedRows { row, rows, first_position, pages: chunks[index].sequence.pages.pages() }
        };
        debug_assert_eq!(heads, self.cache.heads(), "one decoder has one division into heads");
        let exec = self.device.exec();
        self.cache.attend(exec, layer, (qkv.data(), out.data_mut()), (spans.len(), &sequence));
        out
    }

    fn swiglu(&mut self, gate_up: Activations) -> Activations {
        let mut out = self.room(gate_up.rows, gate_up.buffer.width() / 2);
        kernels::swiglu(self.device.exec(), gate_up.data(), gate_up.rows, out.data_mut());
        out
    }

    fn add(&mut self, x: Activations, mut y: Activations) -> Activations {
        kernels::add_into(self.device.exec(), x.data(), y.data_mut());
        y
    }
}
