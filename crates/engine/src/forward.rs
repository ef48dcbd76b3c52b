//! The decoder's operations, forward only: packed weights, activations from the device's recycler, attention
//! over pages. Knows neither the model's structure nor what the rows mean.

use std::collections::BTreeMap;
use std::ops::Range;

use model::Parameters;
use tensor::gemm::{Into, MatMut, MatRef, PackedMatrix, gemm_packed};
use tensor::kernels::attention::PagedRows;
use tensor::kernels::{self, RotaryTable};
use tensor::{Device, Heads, Ops, QkNorm, Tensor, Weight};

use crate::cache::Cache;
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

/// The weights as the engine reads them, by their place in the model's flat buffer.
pub(crate) struct Weights {
    /// Matrices of products, in panels of outputs.
    packed: BTreeMap<usize, PackedMatrix>,
    /// The embedding table, gains and biases; what lies side by side in the flat buffer is in one piece.
    plain: BTreeMap<usize, Vec<f32>>,
}

impl Weights {
    pub fn pack(parameters: &Parameters, device: &Device) -> Self {
        let (layout, flat) = (parameters.decoder.layout(), parameters.flat.data());
        let matrices = layout.matrices();
        let pack = |weight: &Weight| {
            let matrix = MatRef::new(weight.of(flat), weight.rows, weight.cols).t(); // (inputs, outputs)
            (weight.offset, PackedMatrix::pack(device.exec(), matrix))
        };
        let packed: BTreeMap<_, _> = matrices.iter().map(pack).collect();
        let in_product = |offset: usize| matrices.iter().any(|matrix| matrix.range().contains(&offset));
        let embedding = layout.embedding();
        let plain = layout.entries().iter().map(|entry| entry.weight);
        let plain = plain.filter(|weight| !in_product(weight.offset) || *weight == embedding);
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for range in plain.map(|weight| weight.range()) {
            match pieces.last_mut().filter(|piece| piece.end == range.start) {
                Some(piece) => piece.end = range.end,
                None => pieces.push(range),
            }
        }
        let plain = pieces.into_iter().map(|piece| (piece.start, flat[piece].to_vec())).collect();
        Self { packed, plain }
    }

    pub fn bytes(&self) -> usize {
        let packed: usize = self.packed.values().map(PackedMatrix::bytes).sum();
        packed + self.plain.values().map(|values| values.len() * size_of::<f32>()).sum::<usize>()
    }

    fn plain(&self, weight: Weight) -> &[f32] {
        let piece = self.plain.range(..=weight.offset).next_back();
        let (start, piece) = piece.expect("every weight of the layout is packed or plain");
        &piece[weight.offset - start..][..weight.len()]
    }
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
}

impl Forward<'_> {
    /// Room for activations. The number of rows is rounded up to a power of two, so that steps of many sizes
    /// ask the recycler for few.
    fn room(&self, rows: usize, width: usize) -> Activations {
        Activations { buffer: self.device.empty([rows.next_power_of_two(), width]), rows }
    }

    fn product(&self, x: &[f32], rows: usize, w: Weight, out: &mut [f32]) {
        let matrix = &self.weights.packed[&w.offset];
        let (x, out) = (MatRef::new(x, rows, w.cols), MatMut::new(out, rows, w.rows));
        gemm_packed(self.device.exec(), x, matrix, out, Into::Overwrite);
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
        kernels::gather_rows(self.device.exec(), self.weights.plain(table), ids, out.data_mut());
        out
    }

    fn rms_norm(&mut self, x: &Activations, gain: Weight, eps: f32) -> Activations {
        let mut out = self.room(x.rows, gain.cols);
        kernels::rms_norm(self.device.exec(), x.data(), self.weights.plain(gain), eps, out.data_mut());
        out
    }

    fn linear(&mut self, x: &Activations, w: Weight, bias: Option<Weight>) -> Activations {
        let mut out = self.room(x.rows, w.rows);
        self.product(x.data(), x.rows, w, out.data_mut());
        if let Some(bias) = bias {
            kernels::add_bias(self.device.exec(), out.data_mut(), self.weights.plain(bias));
        }
        out
    }

    fn qk_norm(&mut self, qkv: Activations, norm: QkNorm, heads: Heads) -> Activations {
        let mut out = self.room(qkv.rows, heads.fused_width());
        let (query, key) = (self.weights.plain(norm.query), self.weights.plain(norm.key));
        let gains = kernels::QkGains { query, key, eps: norm.eps };
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
