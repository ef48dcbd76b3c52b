//! Every operation against what PyTorch and its autograd gave in f64 (`fixtures/ops`, made by
//! `fixtures/make_ops_fixtures.py`): ‖found − expected‖ ≤ 1e-5 ‖expected‖, tensor by tensor.
#![allow(clippy::unwrap_used)]

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use tensor::gemm::{Into, MatMut, MatRef, gemm};
use tensor::kernels::{self, Activation, AttentionBatch, AttentionKept, RotaryTable};
use tensor::{Attention, Exec, Heads, Isa, Pool};

const TOLERANCE: f64 = 1e-5;
/// Angles are f32, as in transformers; the fixtures' are f64. At position 4,095 that is 1e-4 of a turn's
/// radius.
const ROTARY_TOLERANCE: f64 = 1e-4;

struct Fixtures {
    bytes: Vec<u8>,
    constants: Value,
}

impl Fixtures {
    fn load() -> Fixtures {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/ops");
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        Fixtures { bytes, constants: serde_json::from_str(&text).unwrap() }
    }

    /// The cases whose name begins so. There must be some.
    fn cases(&self, prefix: &str) -> Vec<Case<'_>> {
        let all = self.constants.as_object().unwrap();
        let named = all.iter().filter(|(name, _)| name.starts_with(prefix));
        let cases: Vec<_> = named.map(|(name, constants)| Case { fixtures: self, name, constants }).collect();
        assert!(!cases.is_empty(), "no fixture begins with {prefix}");
        cases
    }
}

struct Case<'a> {
    fixtures: &'a Fixtures,
    name: &'a str,
    constants: &'a Value,
}

impl Case<'_> {
    fn tensor(&self, part: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.fixtures.bytes).unwrap();
        let view = file.tensor(&format!("{}.{part}", self.name)).unwrap();
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn number(&self, name: &str) -> f64 {
        self.constants[name].as_f64().unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<i64> {
        self.constants[name].as_array().unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
    }

    fn check(&self, part: &str, found: &[f32], tolerance: f64) {
        let expected = self.tensor(part);
        assert_eq!(found.len(), expected.len(), "{}.{part}", self.name);
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let pairs = found.iter().zip(&expected);
        let error = norm(&mut pairs.map(|(found, expected)| f64::from(*found) - f64::from(*expected)));
        let size = norm(&mut expected.iter().map(|expected| f64::from(*expected)));
        assert!(error <= tolerance * size.max(1e-6), "{}.{part}: error {error:e} of {size:e}", self.name);
    }
}

fn with_fixtures(prefix: &str, body: impl Fn(Exec<'_>, &Case<'_>)) {
    let fixtures = Fixtures::load();
    let pool = Pool::new(2);
    for isa in Isa::available() {
        let exec = Exec::new(&pool, isa).unwrap();
        fixtures.cases(prefix).iter().for_each(|case| body(exec, case));
    }
}

#[test]
fn rms_norm() {
    with_fixtures("rms_norm", |exec, case| {
        let (x, gain, dy) = (case.tensor("in.x"), case.tensor("in.gain"), case.tensor("upstream"));
        let eps = case.number("eps") as f32;
        let (mut y, mut dx, mut dgain) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; gain.len()]);
        kernels::rms_norm(exec, &x, &gain, eps, &mut y);
        let gradients = kernels::NormGradients { dx: &mut dx, dgain: &mut dgain };
        kernels::rms_norm_backward(exec, &x, (&gain, eps), &dy, gradients);
        case.check("out", &y, TOLERANCE);
        if gain.len() == 1 {
            // What is left of two terms that cancel: eps over the mean square. Only its size can be compared.
            let pairs = dx.iter().zip(case.tensor("grad.x"));
            pairs
                .for_each(|(found, expected)| assert!((found - expected).abs() < 1e-6, "{found} {expected}"));
        } else {
            case.check("grad.x", &dx, TOLERANCE);
        }
        case.check("grad.gain", &dgain, TOLERANCE);
    });
}

#[test]
fn layer_norm() {
    with_fixtures("layer_norm", |exec, case| {
        let (x, gain, bias) = (case.tensor("in.x"), case.tensor("in.gain"), case.tensor("in.bias"));
        let (dy, width) = (case.tensor("upstream"), gain.len());
        let norm = kernels::LayerNorm { gain: &gain, bias: &bias, eps: case.number("eps") as f32 };
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let (mut dgain, mut dbias) = (vec![0.0; width], vec![0.0; width]);
        kernels::layer_norm(exec, &x, norm, &mut y);
        let gradients = kernels::LayerNormGradients { dx: &mut dx, dgain: &mut dgain, dbias: &mut dbias };
        kernels::layer_norm_backward(exec, &x, norm, &dy, gradients);
        case.check("out", &y, TOLERANCE);
        case.check("grad.x", &dx, TOLERANCE);
        case.check("grad.gain", &dgain, TOLERANCE);
        case.check("grad.bias", &dbias, TOLERANCE);
    });
}

#[test]
fn activations() {
    with_fixtures("swiglu", |exec, case| {
        let (gate_up, dy) = (case.tensor("in.gate_up"), case.tensor("upstream"));
        let rows: usize = case.name["swiglu_".len()..].split('x').next().unwrap().parse().unwrap();
        let (mut y, mut d_gate_up) = (vec![0.0; dy.len()], vec![0.0; gate_up.len()]);
        kernels::swiglu(exec, &gate_up, rows, &mut y);
        kernels::swiglu_backward(exec, &gate_up, &dy, rows, &mut d_gate_up);
        case.check("out", &y, TOLERANCE);
        case.check("grad.gate_up", &d_gate_up, TOLERANCE);
    });
    for (prefix, activation) in [("gelu_tanh", Activation::GeluTanh), ("gelu_erf", Activation::GeluErf)] {
        with_fixtures(prefix, |exec, case| {
            let (x, dy) = (case.tensor("in.x"), case.tensor("upstream"));
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            kernels::activate(exec, &x, activation, &mut y);
            kernels::activate_backward(exec, &x, activation, &dy, &mut dx);
            case.check("out", &y, TOLERANCE);
            case.check("grad.x", &dx, TOLERANCE);
        });
    }
}

#[test]
fn linear() {
    with_fixtures("linear", |exec, case| {
        let (x, weight, bias) = (case.tensor("in.x"), case.tensor("in.weight"), case.tensor("in.bias"));
        let dy = case.tensor("upstream");
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let rows = x.len() / inputs;
        let (x_matrix, weight_matrix) =
            (MatRef::new(&x, rows, inputs), MatRef::new(&weight, outputs, inputs));
        let dy_matrix = MatRef::new(&dy, rows, outputs);
        let mut y = vec![0.0; rows * outputs];
        gemm(exec, x_matrix, weight_matrix.t(), MatMut::new(&mut y, rows, outputs), Into::Overwrite);
        kernels::add_bias(exec, &mut y, &bias);
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; weight.len()], vec![0.0; outputs]);
        gemm(exec, dy_matrix, weight_matrix, MatMut::new(&mut dx, rows, inputs), Into::Overwrite);
        gemm(exec, dy_matrix.t(), x_matrix, MatMut::new(&mut dw, outputs, inputs), Into::Accumulate);
        kernels::column_sums(exec, &dy, &mut db);
        case.check("out", &y, TOLERANCE);
        case.check("grad.x", &dx, TOLERANCE);
        case.check("grad.weight", &dw, TOLERANCE);
        case.check("grad.bias", &db, TOLERANCE);
    });
}

/// The fixtures have heads alone, without keys and values: each is taken as a query head beside one empty key
/// head.
#[test]
fn rotary() {
    with_fixtures("rotary", |exec, case| {
        let head_dim = case.number("head_dim") as usize;
        let heads = Heads { heads: case.number("heads") as usize, kv_heads: 1, head_dim };
        let positions: Vec<u32> = case.numbers("positions").iter().map(|position| *position as u32).collect();
        let table = RotaryTable::new(head_dim, head_dim, case.number("theta"), 4096);
        let mut y = fuse(&[(&case.tensor("in.x"), heads.heads)], heads);
        kernels::rotary(exec, &mut y, &positions, &table, heads);
        case.check("out", &part(&y, 0, heads.heads, heads), ROTARY_TOLERANCE);
        let mut dx = fuse(&[(&case.tensor("upstream"), heads.heads)], heads);
        kernels::rotary_backward(exec, &mut dx, &positions, &table, heads);
        case.check("grad.x", &part(&dx, 0, heads.heads, heads), ROTARY_TOLERANCE);
    });
}

#[test]
fn attention() {
    with_fixtures("attention", |exec, case| {
        let [head_count, kv_heads, head_dim] =
            ["heads", "kv_heads", "head_dim"].map(|name| case.number(name) as usize);
        let heads = Heads { heads: head_count, kv_heads, head_dim };
        let parts = [
            ("query", 0, head_count),
            ("key", head_count, kv_heads),
            ("value", head_count + kv_heads, kv_heads),
        ];
        let inputs = parts.map(|(name, _, count)| (case.tensor(&format!("in.{name}")), count));
        let qkv = fuse(&inputs.each_ref().map(|(tensor, count)| (tensor.as_slice(), *count)), heads);
        let d_out = case.tensor("upstream");
        let mut documents = Vec::new();
        for length in case.numbers("document_lengths") {
            let start = documents.last().map_or(0, |document: &std::ops::Range<usize>| document.end);
            documents.push(start..start + length as usize);
        }
        let batch = AttentionBatch {
            qkv: &qkv,
            documents: &documents,
            heads,
            attention: Attention::causal(heads.head_dim),
        };
        let (mut out, mut log_sums) = (vec![0.0; d_out.len()], vec![0.0; d_out.len() / head_dim]);
        let mut d_qkv = vec![0.0; qkv.len()];
        kernels::attention_forward(exec, batch, &mut out, &mut log_sums);
        let kept = AttentionKept { out: &out, log_sums: &log_sums };
        kernels::attention_backward(exec, batch, kept, &d_out, &mut d_qkv);
        case.check("out", &out, TOLERANCE);
        for (name, first, count) in parts {
            // A single key has probability 1 whatever the scores are, so the scores' gradients vanish.
            let vanishing = documents.len() == 1 && documents[0].len() == 1 && name != "value";
            if vanishing {
                assert!(part(&d_qkv, first, count, heads).iter().all(|value| value.abs() < 1e-6));
            } else {
                case.check(&format!("grad.{name}"), &part(&d_qkv, first, count, heads), TOLERANCE);
            }
        }
    });
}

#[test]
fn cross_entropy() {
    with_fixtures("cross_entropy", |exec, case| {
        let (x, weight) = (case.tensor("in.x"), case.tensor("in.weight"));
        let targets = case.numbers("targets");
        let rows = targets.len();
        let (width, weights) = (x.len() / rows, targets.iter().map(|target| f32::from(*target >= 0)));
        let (vocabulary, weights) = (weight.len() / width, weights.collect::<Vec<_>>());
        let ids: Vec<u32> = targets.iter().map(|target| (*target).max(0) as u32).collect();
        let (x_matrix, weight_matrix) =
            (MatRef::new(&x, rows, width), MatRef::new(&weight, vocabulary, width));
        let (mut logits, mut losses) = (vec![0.0; rows * vocabulary], vec![0.0; rows]);
        gemm(exec, x_matrix, weight_matrix.t(), MatMut::new(&mut logits, rows, vocabulary), Into::Overwrite);
        let scale = 1.0 / weights.iter().sum::<f32>();
        let row_targets = kernels::RowTargets { ids: &ids, weights: &weights, scale };
        kernels::cross_entropy_backward(exec, &mut logits, row_targets, &mut losses);
        let d_logits = MatRef::new(&logits, rows, vocabulary);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        gemm(exec, d_logits, weight_matrix, MatMut::new(&mut dx, rows, width), Into::Overwrite);
        gemm(exec, d_logits.t(), x_matrix, MatMut::new(&mut dw, vocabulary, width), Into::Accumulate);
        case.check("out", &[losses.iter().sum::<f32>() * scale], TOLERANCE);
        case.check("grad.x", &dx, TOLERANCE);
        case.check("grad.weight", &dw, TOLERANCE);
    });
}

#[test]
fn embedding() {
    with_fixtures("embedding", |exec, case| {
        let (table, dy) = (case.tensor("in.table"), case.tensor("upstream"));
        let ids: Vec<u32> = case.numbers("ids").iter().map(|id| *id as u32).collect();
        let (mut y, mut d_table) = (vec![0.0; dy.len()], vec![0.0; table.len()]);
        kernels::embedding(exec, &table, &ids, &mut y);
        kernels::embedding_backward(exec, &ids, &dy, &mut d_table);
        case.check("out", &y, TOLERANCE);
        case.check("grad.table", &d_table, TOLERANCE);
    });
}

/// Fused rows from parts of (rows, heads, head_dim), 0 for what is not given.
fn fuse(parts: &[(&[f32], usize)], heads: Heads) -> Vec<f32> {
    let rows = parts[0].0.len() / (parts[0].1 * heads.head_dim);
    let mut fused = vec![0.0; rows * heads.fused_width()];
    for (row, fused) in fused.chunks_exact_mut(heads.fused_width()).enumerate() {
        let mut column = 0;
        for (part, count) in parts {
            let width = count * heads.head_dim;
            fused[column..column + width].copy_from_slice(&part[row * width..][..width]);
            column += width;
        }
    }
    fused
}

/// `count` heads of fused rows, from head `first` on.
fn part(fused: &[f32], first: usize, count: usize, heads: Heads) -> Vec<f32> {
    let columns = first * heads.head_dim..(first + count) * heads.head_dim;
    fused.chunks_exact(heads.fused_width()).flat_map(|row| row[columns.clone()].iter().copied()).collect()
}
