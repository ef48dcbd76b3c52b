//! Low-rank additions to matrices (LoRA: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models",
//! section 4.1): where a matrix W has one, [`crate::Ops::linear`] computes `x·Wᵀ + scale · (x·Aᵀ)·Bᵀ`.
//!
//! It must not know which matrices of a model have additions, nor how they are trained.

use super::Tape;
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::{Operation, Phase, Tensor, Weight, Work, kernels};
use std::collections::BTreeMap;
use std::ops::Range;

/// The additions to a decoder's matrices. All A and B lie in one flat buffer of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRanks {
    scale: f32,
    /// By the offset of the matrix in the flat buffer of weights.
    by_offset: BTreeMap<usize, LowRank>,
}

/// The additions to one matrix: each covers a range of its rows, all read the same input.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The A of all parts, one after the other, (sum of the ranks, inputs).
    pub a: Weight,
    /// The parts, in the order of their A.
    pub parts: Vec<LowRankPart>,
}

/// An addition to a range of a matrix's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRankPart {
    /// The rows of the matrix, which are columns of its output.
    pub rows: Range<usize>,
    /// B, (rows, rank).
    pub b: Weight,
}

/// The numbers of all additions and where to put their gradients.
pub struct LowRankFlat<'a> {
    /// Which matrices have additions.
    pub table: &'a LowRanks,
    /// Every A and B.
    pub weights: &'a [f32],
    /// Gradients of every A and B; empty where no backward pass will be run.
    pub gradients: &'a mut [f32],
}

impl LowRanks {
    /// No additions yet; each will be multiplied with `scale`.
    pub fn new(scale: f32) -> LowRanks {
        LowRanks { scale, by_offset: BTreeMap::new() }
    }

    /// Adds to a matrix.
    ///
    /// # Panics
    /// When the shapes do not fit the matrix.
    pub fn insert(&mut self, matrix: Weight, addition: LowRank) {
        let ranks: usize = addition.parts.iter().map(|part| part.b.cols).sum();
        assert_eq!(
            (addition.a.rows, addition.a.cols),
            (ranks, matrix.cols),
            "A is (sum of the ranks, inputs)"
        );
        for part in &addition.parts {
            assert!(part.rows.end <= matrix.rows && part.b.rows == part.rows.len(), "B is (rows, rank)");
        }
        self.by_offset.insert(matrix.offset, addition);
    }

    /// What each product is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The addition to a matrix, if it has one.
    pub fn get(&self, matrix: Weight) -> Option<&LowRank> {
        self.by_offset.get(&matrix.offset)
    }

    /// The additions by the offsets of their matrices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &LowRank)> {
        self.by_offset.iter().map(|(offset, addition)| (*offset, addition))
    }

    /// The sum of the ranks of all parts: floats that a recording tape keeps for each row.
    pub fn rank_sum(&self) -> usize {
        self.by_offset.values().map(|addition| addition.a.rows).sum()
    }
}

impl LowRank {
    /// Of the forward pass over `rows` rows; the backward pass does twice as much.
    fn work(&self, rows: usize) -> Work {
        Work::Flops(2.0 * rows as f64 * (self.a.len() + self.outer_len()) as f64)
    }

    /// Elements of all B.
    fn outer_len(&self) -> usize {
        self.parts.iter().map(|part| part.b.len()).sum()
    }
}

impl Tape<'_> {
    /// Adds a matrix's low-rank parts to its product `y`, (rows, w.rows). Returns `scale · x·Aᵀ`, (rows, sum of the
    /// ranks), which the backward pass needs.
    pub(super) fn add_low_rank(&self, x: &Tensor, w: Weight, y: &mut Tensor) -> Option<Tensor> {
        let flat = self.flat.adapters.as_ref()?;
        let addition = flat.table.get(w)?;
        let (exec, rows, a) = (self.device.exec(), x.rows(), addition.a);
        let inner = self.low_rank_inner(x, w)?;
        let work = || Work::Flops(2.0 * rows as f64 * addition.outer_len() as f64);
        let _timer = self.time(Operation::LowRank, work);
        let mut first = 0;
        for LowRankPart { rows: columns, b } in &addition.parts {
            let left = MatRef::with_row_stride(&inner.data()[first..], rows, b.cols, a.rows);
            let right = MatRef::new(b.of(flat.weights), b.rows, b.cols).t();
            let y = &mut y.data_mut()[columns.start..];
            gemm(exec, left, right, MatMut::with_row_stride(y, rows, b.rows, w.rows), Into::Accumulate);
            first += b.cols;
        }
        Some(inner)
    }

    /// `scale · x·Aᵀ`, (rows, sum of the ranks), of a matrix that has low-rank parts.
    pub(super) fn low_rank_inner(&self, x: &Tensor, w: Weight) -> Option<Tensor> {
        let flat = self.flat.adapters.as_ref()?;
        let (rows, a) = (x.rows(), flat.table.get(w)?.a);
        let exec = self.device.exec();
        let _timer = self.time(Operation::LowRank, || Work::product(rows, a.cols, a.rows));
        let mut inner = self.device.empty([rows, a.rows]);
        let x = MatRef::new(x.data(), rows, w.cols);
        let out = MatMut::new(inner.data_mut(), rows, a.rows);
        gemm(exec, x, MatRef::new(a.of(flat.weights), a.rows, a.cols).t(), out, Into::Overwrite);
        kernels::scale(exec, flat.table.scale, inner.data_mut());
        Some(inner)
    }

    /// The backward pass of [`Tape::add_low_rank`]: adds the gradients of every A and B of the matrix `w` and that of
    /// the input. `x` is (rows, w.cols), `inner` what the forward pass returned, `dy` (rows, w.rows).
    pub(super) fn low_rank_backward(
        &mut self,
        w: Weight,
        (x, inner): (&Tensor, &Tensor),
        dy: &Tensor,
        dx: &mut Tensor,
    ) {
        let flat =
            self.flat.adapters.as_mut().expect("only a product with an addition has kept its inner rows");
        let addition = flat.table.get(w).expect("the table is the one of the forward pass");
        let (exec, rows, a) = (self.device.exec(), dy.rows(), addition.a);
        let work = || addition.work(2 * rows);
        let _timer = self.device.profile().time(Phase::WeightGradient, Operation::LowRank, work);
        let mut dinner = self.device.empty([rows, a.rows]);
        let mut first = 0;
        for LowRankPart { rows: columns, b } in &addition.parts {
            let dy = MatRef::with_row_stride(&dy.data()[columns.start..], rows, b.rows, w.rows);
            let kept = MatRef::with_row_stride(&inner.data()[first..], rows, b.cols, a.rows);
            let db = MatMut::new(b.of_mut(flat.gradients), b.rows, b.cols);
            gemm(exec, dy.t(), kept, db, Into::Accumulate);
            let b_matrix = MatRef::new(b.of(flat.weights), b.rows, b.cols);
            let out = MatMut::with_row_stride(&mut dinner.data_mut()[first..], rows, b.cols, a.rows);
            gemm(exec, dy, b_matrix, out, Into::Overwrite);
            first += b.cols;
        }
        kernels::scale(exec, flat.table.scale, dinner.data_mut());
        let dinner = MatRef::new(dinner.data(), rows, a.rows);
        let da = MatMut::new(a.of_mut(flat.gradients), a.rows, a.cols);
        gemm(exec, dinner.t(), MatRef::new(x.data(), rows, w.cols), da, Into::Accumulate);
        let a_matrix = MatRef::new(a.of(flat.weights), a.rows, a.cols);
        gemm(exec, dinner, a_matrix, MatMut::new(dx.data_mut(), rows, w.cols), Into::Accumulate);
    }
}
