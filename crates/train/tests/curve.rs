//! 200 steps beside PyTorch's, from the same weights and data: the curves of loss and gradient norm, step by step.
//!
//! Weights and documents are formulas, which `fixtures/make_curve_fixture.py` has too; the fixture holds PyTorch's
//! curves in f32 and, with every operation in f64, the curve that rounding leads both away from.
#![allow(clippy::unwrap_used)]

use base::seed::mix;
use model::{Config, Family, Parameters, Role};
use serde_json::Value;
use std::path::Path;
use tensor::{Device, Isa};
use train::{
    Decay, MemorySamples, OptimiserKind, Schedule, ScheduleKind, Sequence, TrainOptions, Trainer,
    sequence_index,
};

/// What the curves may differ by at any step: a loss from PyTorch's in f32, a loss from f64, a gradient norm from
/// PyTorch's in f32. Measured, the same bits on every instruction set: 4.9e-7, 2.4e-7 and 1.8e-7 under AdamW; 1.5e-6,
/// 1.6e-6 and 3.6e-5 under Muon. PyTorch's f32 itself is as far from f64: 5.1e-7 and 1.6e-6 (loss).
const ALLOWED: [(&str, [f64; 3]); 2] =
    [("qwen3_adamw", [8e-7, 5e-7, 4e-7]), ("llama_muon", [3e-6, 3e-6, 8e-5])];

/// In [-1, 1), a multiple of 2⁻²³.
fn unit(stream: u64, index: u64) -> f32 {
    (mix((stream << 32) | index) >> 40) as f32 / 8_388_608.0 - 1.0
}

fn weight(role: Role, stream: u64, index: u64) -> f32 {
    match role {
        // Gains lie about 1, on multiples of 2⁻²⁰.
        Role::Gain => 1.0 + (unit(stream, index) * 131_072.0).floor() / 1_048_576.0,
        _ => unit(stream, index) / 8.0,
    }
}

/// Two documents that fill a sequence: the next id is 3 times the last plus 7, but for one in eight.
fn sequence(stream: u64, context: u64, vocabulary: u64) -> Sequence {
    let draw = |place: u64| mix((stream << 32) | place);
    let first = 9 + draw(context) % 50;
    let mut ids: Vec<u32> = Vec::new();
    for place in 0..context {
        let is_free = place == 0 || place == first || draw(place).is_multiple_of(8);
        let last = ids.last().map_or(0, |&id| u64::from(id));
        ids.push(if is_free { (draw(place) >> 8) % vocabulary } else { (3 * last + 7) % vocabulary } as u32);
    }
    Sequence { mask: vec![1; ids.len()], ids, lengths: vec![first as usize, (context - first) as usize] }
}

fn config(name: &str, vocabulary: usize, context: usize) -> Config {
    let shape =
        Config { intermediate_size: 48, max_positions: context, ..Config::llama(vocabulary, 32, 2, 4) };
    match name {
        "qwen3_adamw" => Config {
            family: Family::Qwen3,
            heads: 3,
            kv_heads: 1,
            head_dim: 12,
            norm_eps: 1e-6,
            qk_norm: true,
            tie_embeddings: true,
            ..shape
        },
        _ => Config { kv_heads: 2, ..shape },
    }
}

fn options(expected: &Value, settings: &Value) -> TrainOptions {
    let number = |name: &str| settings[name].as_f64().unwrap();
    let whole = |value: &Value| value.as_u64().unwrap() as usize;
    let mut options = TrainOptions::new(
        whole(&expected["steps"]),
        whole(&expected["sequences"]),
        whole(&expected["context"]),
    );
    options.clip = number("clip") as f32;
    options.schedule = Schedule {
        kind: match settings["schedule"].as_str().unwrap() {
            "cosine" => ScheduleKind::Cosine,
            _ => ScheduleKind::WarmupStableDecay,
        },
        warmup_steps: whole(&settings["warmup_steps"]),
        decay_steps: whole(&settings["decay_steps"]),
        decay: Decay::Linear,
        floor: number("floor"),
    };
    let optimiser = &mut options.optimiser;
    optimiser.learning_rate = number("learning_rate");
    (optimiser.beta1, optimiser.beta2) = (number("beta1"), number("beta2"));
    (optimiser.eps, optimiser.weight_decay) = (number("eps"), number("weight_decay"));
    if settings["muon"] == true {
        optimiser.kind = OptimiserKind::Muon;
        optimiser.muon_learning_rate = number("muon_learning_rate");
        optimiser.muon_momentum = number("muon_momentum");
        optimiser.muon_weight_decay = number("muon_weight_decay");
    }
    options
}

/// A trainer with the formulas' weights. Their streams follow the names in ascending order.
fn trainer(config: Config, options: &TrainOptions) -> Trainer {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let mut parameters = Parameters::init(&device, config, 0);
    let mut entries = parameters.decoder.layout().entries().to_vec();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    for (stream, entry) in entries.iter().enumerate() {
        let elements = entry.weight.of_mut(parameters.flat.data_mut()).iter_mut();
        elements.zip(0..).for_each(|(element, index)| *element = weight(entry.role, stream as u64, index));
    }
    Trainer::new(&device, parameters, options).unwrap()
}

/// The documents of every step, such that the trainer reads them in their order.
fn samples(options: &TrainOptions, vocabulary: usize) -> MemorySamples {
    let count = options.steps * options.batch_sequences;
    let mut placed = vec![Sequence::default(); count];
    for sample in 0..count as u64 {
        placed[sequence_index(options.seed, sample, count)] =
            sequence(1000 + sample, options.context as u64, vocabulary as u64);
    }
    MemorySamples::new(placed, options.context).unwrap()
}

#[test]
fn two_hundred_steps_lie_on_torchs_curves() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/curve/expected.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vocabulary = expected["vocabulary"].as_u64().unwrap() as usize;
    for (name, allowed) in ALLOWED {
        let run = &expected["runs"][name];
        let options = options(&expected, &run["settings"]);
        let mut trainer = trainer(config(name, vocabulary, options.context), &options);
        let samples = samples(&options, vocabulary);
        let mut losses = Vec::new();
        let mut largest = [0.0; 3];
        for step in 0..options.steps {
            let outcome = trainer.step(&samples, step).unwrap();
            let beside = |ours: f64, curve: &str| (ours - run[curve][step].as_f64().unwrap()).abs();
            let differences = [
                beside(outcome.loss, "losses"),
                beside(outcome.loss, "losses_f64"),
                beside(outcome.gradient_norm, "gradient_norms"),
            ];
            for (largest, difference) in largest.iter_mut().zip(differences) {
                *largest = f64::max(*largest, difference);
            }
            losses.push(outcome.loss);
        }
        println!(
            "{name}: {:.1e} from f32, {:.1e} from f64, norms {:.1e}",
            largest[0], largest[1], largest[2]
        );
        assert!(losses.len() == 200 && losses[0] > 4.0 && losses[199] < 1.0, "{name}: it learns, {losses:?}");
        for (largest, allowed) in largest.into_iter().zip(allowed) {
            assert!(largest <= allowed, "{name}: {largest:e} is more than {allowed:e}");
        }
    }
}
