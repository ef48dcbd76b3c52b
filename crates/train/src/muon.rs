//! Muon for one matrix: momentum, its orthogonalisation by Newton–Schulz iterations, and the update.
//!
//! The order of operations is that of `torch.optim.Muon`, in f32 throughout. It must not know which matrices
//! of a model it is used for.

use crate::options::MuonScale;
use tensor::gemm::{Into, MatMut, MatRef, gemm, gemm_symmetric};
use tensor::kernels::{self, Momentum};
use tensor::{Device, Operation, Phase, Tensor, Work};

/// Coefficients of the quintic X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ (Jordan et al. 2024, "Muon").
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Least norm that a matrix is divided by.
const NORM_MIN: f32 = 1e-7;

/// Settings of one step for one matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MuonStep {
    pub(crate) learning_rate: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) scale: MuonScale,
    pub(crate) iterations: usize,
    /// What the gradient is multiplied with first.
    pub(crate) gradient_scale: f32,
}

/// A matrix (rows, cols) with its gradient and momentum, row-major.
pub(crate) struct Matrix<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) weights: &'a mut [f32],
    pub(crate) gradient: &'a [f32],
    pub(crate) momentum: &'a mut [f32],
}

/// One step: momentum in Nesterov's form, orthogonalisation, decoupled decay by the plain learning rate, update
/// by the scaled one.
pub(crate) fn step(device: &Device, settings: &MuonStep, matrix: Matrix<'_>) {
    let Matrix { rows, cols, weights, gradient, momentum } = matrix;
    let exec = device.exec();
    let mut update = device.empty([rows, cols]);
    let rule =
        Momentum { beta: settings.momentum as f32, nesterov: true, gradient_scale: settings.gradient_scale };
    let profile = device.profile();
    {
        let _timer = profile.time(Phase::Update, Operation::Muon, || Work::floats(4 * rows * cols));
        kernels::momentum_step(exec, rule, gradient, momentum, update.data_mut());
    }
    let update = {
        let work = || newton_schulz_work(rows, cols, settings.iterations);
        let _timer = profile.time(Phase::Update, Operation::NewtonSchulz, work);
        orthogonalise(device, update, settings.iterations)
    };
    let decay = (1.0 - settings.learning_rate * settings.weight_decay) as f32;
    let size = (settings.learning_rate * settings.scale.factor(rows, cols)) as f32;
    let _timer = profile.time(Phase::Update, Operation::Muon, || Work::floats(3 * rows * cols));
    kernels::decayed_step(exec, decay, size, update.data(), weights);
}

/// Each iteration's three products: the Gram matrix and its square, which are symmetric, so that half of each is computed,
/// and the polynomial times X.
fn newton_schulz_work(rows: usize, cols: usize, iterations: usize) -> Work {
    let (short, long) = (rows.min(cols) as f64, rows.max(cols) as f64);
    Work::Flops(iterations as f64 * short * short * (3.0 * long + short))
}

/// About U·Vᵀ of the matrix U·S·Vᵀ, (rows, cols).
///
/// Of a tall matrix the Gram matrix is Xᵀ·X, multiplied from the right: the transpose of what is done to a wide
/// one, without transposing.
pub(crate) fn orthogonalise(device: &Device, mut x: Tensor, iterations: usize) -> Tensor {
    let exec = device.exec();
    let (rows, cols) = (x.rows(), x.width());
    let is_tall = rows > cols;
    let side = rows.min(cols);
    let norm = kernels::sum_squares(exec, x.data()).sqrt() as f32;
    kernels::scale(exec, 1.0 / norm.max(NORM_MIN), x.data_mut());
    let [a, b, c] = QUINTIC;
    let mut gram = device.empty([side, side]);
    let mut polynomial = device.empty([side, side]);
    let mut next = device.empty([rows, cols]);
    for _ in 0..iterations {
        let view = MatRef::new(x.data(), rows, cols);
        let (left, right) = if is_tall { (view.t(), view) } else { (view, view.t()) };
        gemm_symmetric(exec, left, right, gram.data_mut());

        let square = MatRef::new(gram.data(), side, side);
        gemm_symmetric(exec, square, square, polynomial.data_mut());
        kernels::scale(exec, c, polynomial.data_mut());
        kernels::scaled_add(exec, b, gram.data(), polynomial.data_mut());

        kernels::scaled(exec, a, x.data(), next.data_mut());
        let polynomial = MatRef::new(polynomial.data(), side, side);
        let (left, right) = if is_tall { (view, polynomial) } else { (polynomial, view) };
        gemm(exec, left, right, MatMut::new(next.data_mut(), rows, cols), Into::Accumulate);
        std::mem::swap(&mut x, &mut next);
    }
    x
}
