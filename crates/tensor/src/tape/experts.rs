//! The backward pass of layers of experts. It must not know how rows are shared out among them.

use super::{Saved, Tape};
use crate::gemm::{Into, MatMut, MatRef, gemm};
use crate::kernels::{self, ExpertGradients, ExpertProducts, ExpertRows};
use crate::{Device, Experts, Operation, Phase, Tensor, Weight, Work};

impl Tape<'_> {
    /// `value` is the layer's input, `logits` the router's products with it, `dy` the gradient of its output.
    pub(super) fn experts_backward(
        &mut self,
        x: usize,
        (value, logits): (Saved, &Tensor),
        experts: Experts,
        dy: &Tensor,
    ) {
        let input = self.saved_value(value);
        let mut dx = self.take_or_zeros(x, &input);
        let mut dlogits = self.device.empty(logits.shape());
        let (device, weights) = (self.device, self.flat.weights);
        let mut passes = Passes { device, weights, gradients: self.flat.gradients };
        let rows = ExpertRows { x: input.data(), logits: logits.data() };
        let gradients = ExpertGradients { dx: dx.data_mut(), dlogits: dlogits.data_mut() };
        kernels::experts_backward(device.exec(), experts, rows, (dy.data(), &mut passes), gradients);
        passes.add_weight_gradient(dlogits.data(), experts.router, input.data());
        // The router's part of the rows' gradient comes after the experts'.
        self.memory.gradients[x] = Some(dx);
        let dx = self.input_backward(x, experts.router, &dlogits);
        self.memory.gradients[x] = Some(dx);
    }
}

/// Products with the flat weights; their gradients go to the flat gradients, unless the weights are frozen.
struct Passes<'a> {
    device: &'a Device,
    weights: &'a [f32],
    gradients: &'a mut [f32],
}

impl Passes<'_> {
    fn time(&self, phase: Phase, rows: usize, w: Weight) -> crate::Timer<'_> {
        let work = || Work::product(rows, w.cols, w.rows);
        self.device.profile().time(phase, Operation::Product(w), work)
    }
}

impl ExpertProducts for Passes<'_> {
    fn product(&mut self, x: &[f32], w: Weight, y: &mut [f32]) {
        let rows = x.len() / w.cols;
        let _timer = self.time(Phase::Again, rows, w);
        let right = MatRef::new(w.of(self.weights), w.rows, w.cols).t();
        let (left, y) = (MatRef::new(x, rows, w.cols), MatMut::new(y, rows, w.rows));
        gemm(self.device.exec(), left, right, y, Into::Overwrite);
    }

    fn input_gradient(&mut self, dy: &[f32], w: Weight, dx: &mut [f32]) {
        let rows = dy.len() / w.rows;
        let _timer = self.time(Phase::InputGradient, rows, w);
        let right = MatRef::new(w.of(self.weights), w.rows, w.cols);
        let (left, dx) = (MatRef::new(dy, rows, w.rows), MatMut::new(dx, rows, w.cols));
        gemm(self.device.exec(), left, right, dx, Into::Overwrite);
    }

    fn add_weight_gradient(&mut self, dy: &[f32], w: Weight, x: &[f32]) {
        if self.gradients.is_empty() {
            return;
        }
        let rows = dy.len() / w.rows;
        let device = self.device;
        let work = || Work::product(rows, w.cols, w.rows);
        let _timer = device.profile().time(Phase::WeightGradient, Operation::Product(w), work);
        let left = MatRef::new(dy, rows, w.rows).t();
        let gradient = MatMut::new(w.of_mut(self.gradients), w.rows, w.cols);
        gemm(device.exec(), left, MatRef::new(x, rows, w.cols), gradient, Into::Accumulate);
    }
}
