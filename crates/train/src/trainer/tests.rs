//! Steps against PyTorch's fixtures, and numbers gone bad. That no configuration changes a bit is tested in
//! `tests/configurations.rs`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::{MemorySamples, Sequence};
use crate::{MuonScale, OptimiserKind, Schedule, ScheduleKind};
use base::seed::Rng;
use model::{AdapterOptions, Config};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensor::Isa;

const TOLERANCE: f64 = 1e-4;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    bytes
        .data()
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

/// ‖ours − theirs‖ / ‖theirs‖.
fn relative(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |value: f64| value * value;
    let difference: f64 = ours.iter().zip(theirs).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = theirs.iter().map(|value| square(f64::from(*value))).sum();
    (difference / norm).sqrt()
}

fn numbers(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

/// The two documents of a fixture in one packed sequence.
fn documents(expected: &serde_json::Value, context: usize) -> MemorySamples {
    let documents: Vec<Vec<u32>> = expected["documents"].as_array().unwrap().iter().map(numbers).collect();
    let ids = documents.concat();
    let lengths = documents.iter().map(Vec::len).collect();
    MemorySamples::new(vec![Sequence { mask: vec![1; ids.len()], ids, lengths }], context).unwrap()
}

struct FixtureRun {
    folder: &'static str,
    /// Of the losses in `expected.json` and of the weights in `expected.safetensors`.
    names: (&'static str, &'static str),
    kind: OptimiserKind,
    clip: f32,
    activation_checkpointing: bool,
}

fn check_against_torch(run: &FixtureRun) {
    let folder = fixture(&format!("model/{}", run.folder));
    let expected = json(&folder.join("expected.json"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let number = |name: &str| expected["optimiser"][name].as_f64().unwrap();

    let mut options = TrainOptions::new(10, 1, 64);
    options.clip = run.clip;
    options.activation_checkpointing = run.activation_checkpointing;
    options.schedule = Schedule { kind: ScheduleKind::Constant, ..Schedule::default() };
    options.optimiser.kind = run.kind;
    options.optimiser.learning_rate = number("learning_rate");
    options.optimiser.weight_decay = number("weight_decay_of_matrices");
    options.optimiser.muon_learning_rate = number("muon_learning_rate");
    options.optimiser.muon_weight_decay = number("muon_weight_decay");
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let parameters = Parameters::load(&device, &folder).unwrap();
    let mut trainer = Trainer::new(&device, parameters, &options).unwrap();
    let samples = documents(&expected, options.context);
    let name = format!("{} {} {}", run.folder, run.names.1, run.activation_checkpointing);
    for step in 0..options.steps {
        let outcome = trainer.step(&samples, step).unwrap();
        let theirs = expected[run.names.0][step].as_f64().unwrap();
        assert!((outcome.loss - theirs).abs() < TOLERANCE * theirs, "{name}: loss {} {theirs}", outcome.loss);
        if step == 0 {
            check_gradients(&trainer, &tensors, &name);
        }
        if run.names.1 == "adamw10" {
            let norm = expected["gradient_norms"][step].as_f64().unwrap();
            assert!(
                (outcome.gradient_norm - norm).abs() < TOLERANCE * norm,
                "{name}: {}",
                outcome.gradient_norm
            );
        }
    }
    for entry in trainer.parameters().decoder.layout().entries() {
        let ours = trainer.parameters().get(&entry.name).unwrap();
        let difference = relative(ours, &floats(&tensors, &format!("{}.{}", run.names.1, entry.name)));
        assert!(difference <= TOLERANCE, "{name}: {} differs by {difference:.1e}", entry.name);
    }
}

fn check_gradients(trainer: &Trainer, tensors: &SafeTensors<'_>, name: &str) {
    for entry in trainer.parameters().decoder.layout().entries() {
        let theirs = floats(tensors, &format!("grad.{}", entry.name));
        let norm = theirs.iter().map(|value| value * value).sum::<f32>().sqrt();
        let ours = entry.weight.of(trainer.gradients());
        if norm < 1e-6 {
            // The gradient of a key's bias is zero but for rounding: softmax does not see it.
            assert!(ours.iter().all(|value| value.abs() < 1e-6), "{name}: {}", entry.name);
            continue;
        }
        let difference = relative(ours, &theirs);
        assert!(difference <= TOLERANCE, "{name}: gradient of {} differs by {difference:.1e}", entry.name);
    }
}

#[test]
fn ten_steps_end_where_torch_ends() {
    let adamw = |folder, activation_checkpointing| FixtureRun {
        folder,
        names: ("losses", "adamw10"),
        kind: OptimiserKind::AdamW,
        clip: 0.0,
        activation_checkpointing,
    };
    let clipped =
        |folder| FixtureRun { names: ("losses_clipped", "clipped10"), clip: 0.5, ..adamw(folder, false) };
    let muon = FixtureRun {
        names: ("losses_muon", "muon10"),
        kind: OptimiserKind::Muon,
        ..adamw("llama_tiny", false)
    };
    let folders = ["llama_tiny", "llama_tied", "qwen2_tiny", "qwen3_tiny"];
    let runs = folders.map(|folder| adamw(folder, false)).into_iter();
    let recomputed = folders.map(|folder| adamw(folder, true));
    for run in runs.chain(recomputed).chain([clipped("llama_tiny"), clipped("qwen3_tiny"), muon]) {
        check_against_torch(&run);
    }
}

/// Of the way that a matrix has gone, not of the matrix, which is larger. Newton–Schulz in f32 loses about 1e-6.
const MUON_TOLERANCE: f64 = 1e-5;

/// Three steps of adapters over frozen weights, as PEFT and torch.optim.AdamW take them.
fn check_against_peft(folder: &str, activation_checkpointing: bool) {
    let folder = fixture(&format!("lora/{folder}"));
    let expected = json(&folder.join("expected.json"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let number = |name: &str| expected["optimiser"][name].as_f64().unwrap();
    let mut options = TrainOptions::new(3, 1, 64);
    options.clip = 0.0;
    options.activation_checkpointing = activation_checkpointing;
    options.schedule = Schedule { kind: ScheduleKind::Constant, ..Schedule::default() };
    options.optimiser.learning_rate = number("learning_rate");
    options.optimiser.weight_decay = number("weight_decay");
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let base = fixture("model").join(expected["model"].as_str().unwrap());
    let base = Parameters::load(&device, &base).unwrap();
    let adapters = Adapters::load(&device, &base.decoder, &folder).unwrap();
    let before = base.flat.data().to_vec();
    let mut trainer = Trainer::over_frozen(&device, base, adapters, &options).unwrap();
    let samples = documents(&expected, options.context);
    for step in 0..options.steps {
        let outcome = trainer.step(&samples, step).unwrap();
        for (what, ours) in [("losses", outcome.loss), ("gradient_norms", outcome.gradient_norm)] {
            let theirs = expected[what][step].as_f64().unwrap();
            assert!((ours - theirs).abs() < TOLERANCE * theirs, "{what} of step {step}: {ours} {theirs}");
        }
    }
    for entry in trainer.adapters().unwrap().entries() {
        let theirs = floats(&tensors, &format!("adamw3.{}", entry.name));
        let difference = relative(trainer.adapters().unwrap().get(&entry.name).unwrap(), &theirs);
        assert!(difference <= TOLERANCE, "{} differs by {difference:.1e}", entry.name);
    }
    assert!(trainer.parameters().flat.data() == before, "the frozen weights are as they were");
}

#[test]
fn adapters_end_where_peft_ends() {
    for folder in ["llama_all", "qwen3_some"] {
        for activation_checkpointing in [false, true] {
            check_against_peft(folder, activation_checkpointing);
        }
    }
}

#[test]
fn adapters_learn_and_after_the_first_step_the_device_allocates_nothing() {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let ids: Vec<u32> = (0..40).map(|index| index * 7 % 61).collect();
    let sequence = Sequence { mask: vec![1; 40], ids, lengths: vec![40] };
    let samples = MemorySamples::new(vec![sequence], 40).unwrap();
    for kind in [OptimiserKind::AdamW, OptimiserKind::Muon] {
        let mut options = TrainOptions { steps: 60, batch_sequences: 2, ..small_options() };
        options.micro_batch_sequences = 1;
        options.optimiser.kind = kind;
        let mut base = Parameters::init(&device, small_config(true), 0);
        // Logits of a frozen table as small as the initial one could not become large.
        let table = base.decoder.layout().embedding();
        table.of_mut(base.flat.data_mut()).iter_mut().for_each(|weight| *weight *= 20.0);
        let adapters = Adapters::init(&device, &base.decoder, &AdapterOptions::default(), 0).unwrap();
        let mut trainer = Trainer::over_frozen(&device, base, adapters, &options).unwrap();
        let first = trainer.step(&samples, 0).unwrap().loss;
        let allocated = device.allocated_bytes();
        let last = (1..options.steps).map(|step| trainer.step(&samples, step).unwrap().loss).last().unwrap();
        assert_eq!(device.allocated_bytes(), allocated, "{kind:?}");
        assert!(first > 3.5 && last < 2.0, "{kind:?}: {first} to {last}");
    }
}

#[test]
fn muon_follows_its_reference() {
    let expected = json(&fixture("muon/expected.json"));
    let bytes = std::fs::read(fixture("muon/expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let device = Device::cpu(2, Isa::detect()).unwrap();
    for (name, shape) in expected["matrices"].as_object().unwrap() {
        let shape = numbers(shape);
        let (rows, cols) = (shape[0] as usize, shape[1] as usize);
        let gradient = floats(&tensors, &format!("{name}.gradient.0"));
        let orthogonal = crate::muon::orthogonalise(&device, device.tensor([rows, cols], &gradient), 5);
        let difference = relative(orthogonal.data(), &floats(&tensors, &format!("{name}.orthogonal")));
        assert!(difference <= MUON_TOLERANCE, "{name}: Newton–Schulz differs by {difference:.1e}");

        for (convention, scale) in
            [("original", MuonScale::Original), ("match_rms_adamw", MuonScale::MatchRmsAdamw)]
        {
            let run = MuonRun { expected: &expected, tensors: &tensors, name, shape: (rows, cols), scale };
            let plain = run.weights(&device, convention, 1.0);
            assert!(
                run.weights(&device, convention, 0.5) == plain,
                "{name} {convention}: gradients twice as large, scaled by a half, are the same gradients"
            );
        }
    }
}

struct MuonRun<'a> {
    expected: &'a serde_json::Value,
    tensors: &'a SafeTensors<'a>,
    name: &'a str,
    shape: (usize, usize),
    scale: MuonScale,
}

impl MuonRun<'_> {
    /// The weights after all steps; momentum and weights are compared on the way. Gradients are divided by
    /// `gradient_scale`, a power of two, which the step takes back.
    fn weights(&self, device: &Device, convention: &str, gradient_scale: f32) -> Vec<f32> {
        let MuonRun { expected, name, shape: (rows, cols), .. } = *self;
        let number = |key: &str| expected[key].as_f64().unwrap();
        let floats = |key: String| floats(self.tensors, &format!("{name}.{key}"));
        let settings = crate::muon::MuonStep {
            learning_rate: number("learning_rate"),
            momentum: number("momentum"),
            weight_decay: number("weight_decay"),
            scale: self.scale,
            iterations: 5,
            gradient_scale,
        };
        let before = floats("weight".into());
        let way = |after: &[f32]| -> Vec<f32> { after.iter().zip(&before).map(|(a, b)| a - b).collect() };
        let mut weights = before.clone();
        let mut momentum = vec![0.0; rows * cols];
        for step in 0..5 {
            let mut gradient = floats(format!("gradient.{step}"));
            gradient.iter_mut().for_each(|value| *value /= gradient_scale);
            let matrix = crate::muon::Matrix {
                rows,
                cols,
                weights: &mut weights,
                gradient: &gradient,
                momentum: &mut momentum,
            };
            crate::muon::step(device, &settings, matrix);
            let difference = relative(&momentum, &floats(format!("momentum.{step}")));
            assert!(difference <= MUON_TOLERANCE, "{name} {step}: momentum differs by {difference:.1e}");
            if step == 0 || step == 4 {
                let theirs = floats(format!("{convention}.{step}"));
                let difference = relative(&way(&weights), &way(&theirs));
                assert!(difference <= MUON_TOLERANCE, "{name} {convention} {step}: {difference:.1e}");
            }
        }
        weights
    }
}

fn small_config(tie_embeddings: bool) -> Config {
    let mut config = Config::llama(61, 24, 2, 3);
    config.kv_heads = 1;
    config.tie_embeddings = tie_embeddings;
    config
}

/// Sequences of random pieces, some with a mask and some not full.
fn small_samples(count: usize, context: usize) -> MemorySamples {
    let mut rng = Rng::new(5, 0);
    let sequence = |_| {
        let mut lengths = Vec::new();
        while lengths.iter().sum::<usize>() + 1 < context {
            let room = context - lengths.iter().sum::<usize>();
            lengths.push(1 + rng.below(room as u64) as usize);
        }
        let tokens: usize = lengths.iter().sum();
        let ids = (0..tokens).map(|_| rng.below(61) as u32).collect();
        let mask = (0..tokens).map(|_| u8::from(rng.below(4) > 0)).collect();
        Sequence { ids, mask, lengths }
    };
    MemorySamples::new((0..count).map(sequence).collect(), context).unwrap()
}

fn small_options() -> TrainOptions {
    let mut options = TrainOptions::new(4, 8, 40);
    options.optimiser.learning_rate = 0.01;
    options
}

#[test]
fn a_clipped_gradient_has_the_norm_asked_for() {
    let cases = [(0.5, 1.0, 1.0), (2.0, 1.0, 0.5), (1e9, 1.0, 1e-9), (7.0, 0.0, 1.0), (0.0, 1.0, 1.0)];
    for (norm, clip, scale) in cases {
        assert!((f64::from(clip_scale(norm, clip)) - scale).abs() < 1e-6 * scale, "{norm} {clip}");
    }
}

#[test]
fn numbers_gone_bad_stop_the_step_and_name_the_tensor() {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let samples = small_samples(11, 40);
    for name in ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"] {
        let mut parameters = Parameters::init(&device, small_config(false), 0);
        let weight = parameters.decoder.layout().find(name).unwrap().weight;
        weight.of_mut(parameters.flat.data_mut())[1] = f32::NAN;
        let before: Vec<u32> = parameters.flat.data().iter().map(|weight| weight.to_bits()).collect();
        let mut trainer = Trainer::new(&device, parameters, &small_options()).unwrap();
        let message = trainer.step(&samples, 2).unwrap_err().to_string();
        assert!(message.contains("step 3: the loss is NaN"), "{message}");
        assert!(message.contains(&format!("the weights of {name}")), "{message}");
        let after: Vec<u32> =
            trainer.parameters().flat.data().iter().map(|weight| weight.to_bits()).collect();
        assert!(before == after, "{name}: the step was not taken");
    }
}

#[test]
fn steps_without_a_target_and_too_long_contexts_are_refused() {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let trainer = |options: &TrainOptions| {
        Trainer::new(&device, Parameters::init(&device, small_config(false), 0), options)
    };
    let silent = Sequence { ids: vec![1; 5], mask: vec![0; 5], lengths: vec![5] };
    let samples = MemorySamples::new(vec![silent], 40).unwrap();
    let mut refused = trainer(&small_options()).unwrap();
    let message = refused.step(&samples, 0).unwrap_err().to_string();
    assert!(message.contains("step 1 has a target"), "{message}");
    assert!(refused.evaluate(&samples, 1).is_err());
    let long = TrainOptions { context: 4096, ..small_options() };
    let message = trainer(&long).err().unwrap().to_string();
    assert!(message.contains("`context` is 4096") && message.contains("2048 positions"), "{message}");
}

#[test]
fn training_learns_what_can_be_learned() {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let ids: Vec<u32> = (0..40).map(|index| index * 7 % 61).collect();
    let sequence = Sequence { mask: vec![1; 40], ids, lengths: vec![40] };
    let samples = MemorySamples::new(vec![sequence], 40).unwrap();
    for kind in [OptimiserKind::AdamW, OptimiserKind::Muon] {
        let mut options = TrainOptions { steps: 60, batch_sequences: 1, ..small_options() };
        options.optimiser.kind = kind;
        let mut trainer =
            Trainer::new(&device, Parameters::init(&device, small_config(true), 0), &options).unwrap();
        let first = trainer.step(&samples, 0).unwrap().loss;
        let last = (1..options.steps).map(|step| trainer.step(&samples, step).unwrap().loss).last().unwrap();
        assert!(first > 3.5 && last < 0.5, "{kind:?}: {first} to {last}");
    }
}

#[test]
fn after_the_first_step_the_device_allocates_nothing() {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let mut options = TrainOptions { micro_batch_sequences: 4, ..small_options() };
    for kind in [OptimiserKind::AdamW, OptimiserKind::Muon] {
        options.optimiser.kind = kind;
        let parameters = Parameters::init(&device, small_config(true), 0);
        let mut trainer = Trainer::new(&device, parameters, &options).unwrap();
        let samples = small_samples(11, options.context);
        trainer.step(&samples, 0).unwrap();
        let allocated = device.allocated_bytes();
        for step in 1..4 {
            trainer.step(&samples, step).unwrap();
        }
        assert_eq!(device.allocated_bytes(), allocated, "{kind:?}");
    }
}
