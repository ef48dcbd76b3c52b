//! What must not change a single bit: threads, instruction set, packing, accumulation, checkpointing.
#![allow(clippy::unwrap_used)]

mod common;

use base::seed::Rng;
use common::{Packed, loss_and_gradients};
use model::{Config, ExpertLayers, Family, Parameters, Pass};
use tensor::{Device, ExpertWeighting, Isa};

/// Small and odd configurations of each shape.
fn configs() -> Vec<Config> {
    let mut llama = Config::llama(61, 40, 2, 4);
    llama.intermediate_size = 56;
    let mut grouped = Config::llama(37, 24, 2, 6);
    (grouped.kv_heads, grouped.head_dim, grouped.tie_embeddings) = (2, 10, true);
    (grouped.qkv_bias, grouped.output_bias, grouped.mlp_bias) = (true, true, true);
    let mut qwen3 = Config::llama(45, 32, 3, 2);
    (qwen3.family, qwen3.qk_norm, qwen3.tie_embeddings) = (Family::Qwen3, true, true);
    (qwen3.head_dim, qwen3.kv_heads) = (18, 1);
    // A table that has room for some of what checkpointing keeps, and not for all.
    let roomy = Config { vocab_size: 2_000, layers: 4, ..llama.clone() };
    let mut experts = Config::llama(53, 32, 3, 4);
    experts.family = Family::Qwen3Moe;
    experts.qk_norm = true;
    experts.experts = Some(ExpertLayers {
        count: 5,
        top_k: 2,
        intermediate_size: 24,
        weighting: ExpertWeighting::OfAll,
        layers: vec![true, false, true],
    });
    vec![llama, grouped, qwen3, roomy, experts]
}

fn documents(vocab: usize) -> Vec<Vec<u32>> {
    let mut rng = Rng::new(5, 0);
    [70, 3, 1, 129, 17, 64, 2, 33]
        .map(|len| (0..len).map(|_| rng.below(vocab as u64) as u32).collect())
        .to_vec()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn parameters(device: &Device, config: &Config) -> Parameters {
    let mut parameters = Parameters::init(device, config.clone(), 3);
    let mut rng = Rng::new(9, 9);
    // Large enough that every path of the decoder shows in the result.
    parameters.flat.data_mut().iter_mut().for_each(|weight| *weight += 0.2 * rng.normal());
    parameters
}

/// Loss and gradients with a number of threads and an instruction set.
fn run(
    config: &Config,
    threads: usize,
    isa: Isa,
    micro_batches: usize,
    checkpoints: bool,
) -> (f64, Vec<u32>) {
    let device = Device::cpu(threads, isa).unwrap();
    let parameters = parameters(&device, config);
    let documents = documents(config.vocab_size);
    let batches: Vec<Packed> = documents.chunks(documents.len() / micro_batches).map(Packed::new).collect();
    let (loss, gradients) =
        loss_and_gradients(&device, &parameters.decoder, parameters.flat.data(), &batches, checkpoints);
    (loss, bits(&gradients))
}

#[test]
fn threads_and_instruction_sets_change_nothing() {
    for config in configs() {
        let expected = run(&config, 1, Isa::Portable, 1, false);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let found = run(&config, threads, isa, 1, false);
                assert_eq!(found.0.to_bits(), expected.0.to_bits(), "{isa} with {threads} threads: loss");
                assert!(found.1 == expected.1, "{isa} with {threads} threads: gradients");
            }
        }
    }
}

#[test]
fn accumulation_and_checkpointing_change_no_gradient() {
    for config in configs() {
        let expected = run(&config, 2, Isa::detect(), 1, false);
        for (micro_batches, checkpoints) in [(8, false), (4, false), (1, true), (2, true)] {
            let found = run(&config, 2, Isa::detect(), micro_batches, checkpoints);
            assert!((found.0 - expected.0).abs() < 1e-12, "{micro_batches} {checkpoints}: loss");
            assert!(
                found.1 == expected.1,
                "{micro_batches} micro-batches, checkpoints {checkpoints}: gradients"
            );
        }
    }
}

#[test]
fn idle_gradients_take_in_what_checkpoints_keep() {
    let mut config = Config::llama(2_000, 40, 4, 4);
    config.intermediate_size = 56;
    let packed = Packed::new(&documents(config.vocab_size));
    let run = |gradients_are_zero: bool| {
        let device = Device::cpu(1, Isa::detect()).unwrap();
        let parameters = parameters(&device, &config);
        let decoder = &parameters.decoder;
        let mut pass = Pass::new(&device, decoder, 256).with_checkpoints();
        let mut gradients = vec![0.0; decoder.layout().gradient_len()];
        if gradients_are_zero {
            pass.gradients_are_zero();
        }
        pass.train(decoder, (parameters.flat.data(), &mut gradients), packed.rows(1.0), None);
        (device.allocated_bytes(), bits(&gradients))
    };
    let (parked, kept) = (run(true), run(false));
    assert!(parked.1 == kept.1, "gradients");
    assert!(parked.0 < kept.0, "{} bytes, without parking {}", parked.0, kept.0);
}

#[test]
fn a_packed_batch_equals_its_documents_alone() {
    for config in configs() {
        let device = Device::cpu(2, Isa::detect()).unwrap();
        let parameters = parameters(&device, &config);
        let (decoder, weights) = (&parameters.decoder, parameters.flat.data());
        let documents = documents(config.vocab_size);
        let mut pass = Pass::new(&device, decoder, 256);
        let packed = Packed::new(&documents);
        let together = pass.logits(decoder, weights, &packed.ids, packed.batch());
        for (document, rows) in documents.iter().zip(&packed.documents) {
            let alone = Packed::new(std::slice::from_ref(document));
            let alone = pass.logits(decoder, weights, &alone.ids, alone.batch());
            let vocab = config.vocab_size;
            assert!(bits(&alone) == bits(&together[rows.start * vocab..rows.end * vocab]));
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for mut config in configs() {
        // Where the choice of experts changes, the loss jumps.
        if let Some(experts) = &mut config.experts {
            experts.top_k = experts.count;
        }
        let device = Device::cpu(1, Isa::detect()).unwrap();
        let parameters = parameters(&device, &config);
        let decoder = &parameters.decoder;
        let mut weights = parameters.flat.data().to_vec();
        let batch = || [Packed::new(&documents(config.vocab_size)[..2])];
        let (_, gradients) = loss_and_gradients(&device, decoder, &weights, &batch(), false);
        let mut rng = Rng::new(1, 2);
        for entry in decoder.layout().entries() {
            // Along a random direction, so that one slope tests every element of the parameter.
            let direction: Vec<f32> = (0..entry.weight.len()).map(|_| rng.normal()).collect();
            let size = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
            let step = 2e-2 / size;
            let mut loss_at = |factor: f32| {
                let saved = entry.weight.of(&weights).to_vec();
                let moved = entry.weight.of_mut(&mut weights);
                moved.iter_mut().zip(&direction).for_each(|(weight, d)| *weight += factor * step * d);
                let loss = loss_and_gradients(&device, decoder, &weights, &batch(), false).0;
                entry.weight.of_mut(&mut weights).copy_from_slice(&saved);
                loss
            };
            let slope = (loss_at(1.0) - loss_at(-1.0)) / (2.0 * f64::from(step));
            let expected: f64 =
                entry.weight.of(&gradients).iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let tolerance = 2e-2 * expected.abs() + 2e-3 * f64::from(size);
            assert!(
                (slope - expected).abs() <= tolerance,
                "{}: slope {slope}, gradient {expected}",
                entry.name
            );
        }
    }
}
