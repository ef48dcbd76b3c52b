//! The output projection fused with cross-entropy: the logits are held for a few rows at a time, and
//! where gradients are wanted they are computed at once, while those logits are at hand.

use super::{Mode, Tape, Var};
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::{Operation, Phase, Weight, Work, kernels};

/// Elements of the logits that are held at once, but never fewer than [`CHUNK_ROWS_MIN`] rows.
const CHUNK_ELEMENTS: usize = 1 << 22;
/// Rows per chunk at least: fewer would spend more time on laying out the projection's weights and on reading and
/// writing its gradient.
const CHUNK_ROWS_MIN: usize = 512;

/// What makes logits of hidden rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// The output projection, (vocabulary, width).
    pub weight: Weight,
    /// With a cap c a logit z becomes c · tanh(z / c).
    pub soft_cap: Option<f32>,
}

/// What each row should predict.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The next token of each row, (rows).
    pub ids: &'a [u32],
    /// The weight of each row's loss, (rows); 0 where there is nothing to predict.
    pub weights: &'a [f32],
    /// What every gradient is multiplied with: 1 / the sum of all weights of the whole batch.
    pub scale: f32,
}

/// Where to put the log-probability of each row's target.
pub type LogProbs<'a> = Option<&'a mut [f32]>;

impl Tape<'_> {
    /// Sum over rows of weight · cross-entropy of the head's logits of `hidden` against the targets, in nats.
    ///
    /// On a recording tape this also adds the head's gradient and leaves that of `hidden`, so that
    /// [`Tape::backward`] can follow.
    ///
    /// # Panics
    /// When the targets are not as many as the rows, or one is outside the vocabulary.
    pub fn cross_entropy(
        &mut self,
        hidden: &Var,
        head: Head,
        targets: Targets<'_>,
        log_probs: LogProbs<'_>,
    ) -> f64 {
        let rows = hidden.value.rows();
        assert_eq!((targets.ids.len(), targets.weights.len()), (rows, rows), "one target a row");
        let mut losses = std::mem::take(&mut self.memory.losses);
        losses.clear();
        losses.resize(rows, 0.0);
        let mut gradient = (self.mode != Mode::Evaluate).then(|| self.device.empty(hidden.value.shape()));
        let Weight { rows: vocabulary, cols: width, .. } = head.weight;
        let chunk = (CHUNK_ELEMENTS / vocabulary).max(CHUNK_ROWS_MIN).min(rows.max(1));
        for start in (0..rows).step_by(chunk) {
            let range = start..rows.min(start + chunk);
            let chunk_targets = Targets {
                ids: &targets.ids[range.clone()],
                weights: &targets.weights[range.clone()],
                scale: targets.scale,
            };
            let hidden = &hidden.value.data()[range.start * width..range.end * width];
            let gradient = gradient
                .as_mut()
                .map(|gradient| &mut gradient.data_mut()[range.start * width..range.end * width]);
            self.chunk(hidden, head, chunk_targets, (&mut losses[range], gradient));
        }
        if let Some(gradient) = gradient {
            self.seed_gradient(hidden, gradient);
        }
        if let Some(log_probs) = log_probs {
            log_probs.iter_mut().zip(&losses).for_each(|(log_prob, loss)| *log_prob = -loss);
        }
        let total = losses
            .iter()
            .zip(targets.weights)
            .map(|(loss, weight)| f64::from(*loss) * f64::from(*weight))
            .sum();
        self.memory.losses = losses;
        total
    }

    fn chunk(
        &mut self,
        hidden: &[f32],
        Head { weight: head, soft_cap }: Head,
        targets: Targets<'_>,
        (losses, gradient): (&mut [f32], Option<&mut [f32]>),
    ) {
        let exec = self.device.exec();
        let rows = targets.ids.len();
        let mut logits = self.device.empty([rows, head.rows]);
        let hidden = MatRef::new(hidden, rows, head.cols);
        let w = MatRef::new(self.weight(head), head.rows, head.cols);
        let product = || Work::product(rows, head.cols, head.rows);
        let timer = self.time(Operation::Product(head), product);
        gemm(exec, hidden, w.t(), MatMut::new(logits.data_mut(), rows, head.rows), Into::Overwrite);
        drop(timer);
        if let Some(cap) = soft_cap {
            kernels::soft_cap(exec, cap, logits.data_mut());
        }
        let Some(gradient) = gradient else {
            let _timer = self.time(Operation::Loss, || Work::floats(logits.shape().len()));
            kernels::cross_entropy(exec, logits.data(), targets.ids, losses);
            return;
        };
        let row_targets =
            kernels::RowTargets { ids: targets.ids, weights: targets.weights, scale: targets.scale };
        let timer = self.time(Operation::Loss, || Work::floats(2 * rows * head.rows));
        let capped = soft_cap.map(|cap| {
            let mut capped = self.device.empty(logits.shape());
            kernels::copy(exec, logits.data(), capped.data_mut());
            (cap, capped)
        });
        kernels::cross_entropy_backward(exec, logits.data_mut(), row_targets, losses);
        if let Some((cap, capped)) = capped {
            kernels::soft_cap_backward(exec, (cap, capped.data()), logits.data_mut());
        }
        drop(timer);
        let dlogits = MatRef::new(logits.data(), rows, head.rows);
        let timer = self.time_in(Phase::InputGradient, Operation::Product(head), product);
        gemm(exec, dlogits, w, MatMut::new(gradient, rows, head.cols), Into::Overwrite);
        drop(timer);
        if self.flat.is_frozen() {
            return;
        }
        let _timer = self.time_in(Phase::WeightGradient, Operation::Product(head), product);
        let dw = MatMut::new(head.of_mut(self.flat.gradients), head.rows, head.cols);
        gemm(exec, dlogits.t(), hidden, dw, Into::Accumulate);
    }
}
