//! What must not change a bit of a trained model: micro-batches, recomputation, threads, instruction set, and
//! how documents are packed into sequences.
//!
//! It holds because every output is one chain of sums in an order that none of these can move (see "Invariants"
//! in docs/ARCHITECTURE.md). Rows of weight zero, as padding has, add exact zeros to every chain.
#![allow(clippy::unwrap_used)]

use base::seed::Rng;
use model::{Config, Family, Parameters, Pass, Rows};
use tensor::{Batch, Device, Isa, Targets};
use train::{MemorySamples, OptimiserKind, Sequence, TrainOptions, Trainer, sequence_index};

/// Longer than one block of 64 keys, and no multiple of a vector's width.
const CONTEXT: usize = 77;
const BATCH: usize = 8;
const STEPS: usize = 3;

/// Every shape that the decoder has, small and odd.
fn shapes() -> Vec<(&'static str, Config, OptimiserKind)> {
    let plain = Config { intermediate_size: 43, ..Config::llama(53, 20, 2, 2) };
    let biased = Config {
        kv_heads: 2,
        head_dim: 6,
        tie_embeddings: true,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        ..Config::llama(37, 24, 2, 4)
    };
    let normed = Config {
        family: Family::Qwen3,
        kv_heads: 1,
        head_dim: 10,
        qk_norm: true,
        tie_embeddings: true,
        ..Config::llama(45, 16, 2, 3)
    };
    let untied = Config { tie_embeddings: false, ..normed.clone() };
    vec![
        ("llama", plain, OptimiserKind::AdamW),
        ("llama, tied, with biases and grouped heads", biased, OptimiserKind::Muon),
        ("qwen3, tied", normed, OptimiserKind::AdamW),
        ("qwen3", untied, OptimiserKind::Muon),
    ]
}

fn options(kind: OptimiserKind) -> TrainOptions {
    let mut options = TrainOptions::new(STEPS, BATCH, CONTEXT);
    options.optimiser.kind = kind;
    options.optimiser.learning_rate = 0.01;
    // Small enough that every step is clipped, so that one bit in one gradient moves every weight.
    options.clip = 0.1;
    options
}

/// A document of `tokens` random ids, a quarter of which are not to be predicted.
fn document(rng: &mut Rng, config: &Config, tokens: usize) -> Sequence {
    Sequence {
        ids: (0..tokens).map(|_| rng.below(config.vocab_size as u64) as u32).collect(),
        mask: (0..tokens).map(|_| u8::from(rng.below(4) > 0)).collect(),
        lengths: vec![tokens],
    }
}

fn pack(documents: &[Sequence]) -> Sequence {
    Sequence {
        ids: documents.iter().flat_map(|document| document.ids.clone()).collect(),
        mask: documents.iter().flat_map(|document| document.mask.clone()).collect(),
        lengths: documents.iter().flat_map(|document| document.lengths.clone()).collect(),
    }
}

/// Sequences of documents of odd lengths, some of which do not fill the context.
fn packed_documents(config: &Config) -> Vec<Vec<Sequence>> {
    let lengths: [&[usize]; 7] = [&[77], &[65, 1, 11], &[3, 71], &[64, 13], &[1], &[30, 17, 29, 1], &[66, 9]];
    let mut rng = Rng::new(5, 0);
    let mut sequence = |lengths: &[usize]| -> Vec<Sequence> {
        lengths.iter().map(|&tokens| document(&mut rng, config, tokens)).collect()
    };
    lengths.map(&mut sequence).into()
}

/// Everything that a run computes, as bits.
#[derive(PartialEq)]
struct Bits {
    weights: Vec<u32>,
    gradients: Vec<u32>,
    /// Loss and gradient norm of each step, then the evaluation's loss and targets.
    figures: Vec<u64>,
}

fn train(device: &Device, config: &Config, options: &TrainOptions, samples: &MemorySamples) -> Bits {
    let mut parameters = Parameters::init(device, config.clone(), options.seed);
    let mut rng = Rng::new(9, 9);
    // Large enough that every path of the decoder shows in the result.
    parameters.flat.data_mut().iter_mut().for_each(|weight| *weight += 0.15 * rng.normal());
    let mut trainer = Trainer::new(device, parameters, options).unwrap();
    let mut figures = Vec::new();
    for step in 0..options.steps {
        let outcome = trainer.step(samples, step).unwrap();
        assert!(
            options.clip == 0.0 || outcome.gradient_norm > f64::from(options.clip),
            "it was to be clipped"
        );
        figures.extend([outcome.loss.to_bits(), outcome.gradient_norm.to_bits()]);
    }
    let gradients = bits(trainer.gradients());
    let (loss, targets) = trainer.evaluate(samples, usize::MAX).unwrap();
    figures.extend([loss.to_bits(), targets]);
    Bits { weights: bits(trainer.parameters().flat.data()), gradients, figures }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// (Instruction set, threads, micro-batch, recomputation): all combinations on this machine's instruction set, and
/// on each other one enough for every pair with it. The slow portable one has its pairs divided among the shapes.
fn variants(shape: usize) -> Vec<(Isa, usize, usize, bool)> {
    let micro_batches = [1, 2, 4, 8];
    let mut variants = Vec::new();
    for (index, isa) in Isa::available().into_iter().enumerate() {
        for (place, micro_batch) in micro_batches.into_iter().enumerate() {
            let diagonal = place + index;
            match isa {
                _ if isa == Isa::detect() => {
                    let threads =
                        [1, 2, 3].into_iter().flat_map(|threads| [(threads, false), (threads, true)]);
                    variants.extend(threads.map(|(threads, again)| (isa, threads, micro_batch, again)));
                }
                Isa::Portable if place != shape => {}
                _ => variants.push((isa, 1 + diagonal % 3, micro_batch, diagonal % 2 == 0)),
            }
        }
    }
    variants
}

fn check_variants(shape: usize) {
    let (name, config, kind) = shapes().swap_remove(shape);
    let sequences = packed_documents(&config).iter().map(|documents| pack(documents)).collect();
    let samples = MemorySamples::new(sequences, CONTEXT).unwrap();
    let options = options(kind);
    let expected = train(&Device::cpu(1, Isa::detect()).unwrap(), &config, &options, &samples);
    for (isa, threads, micro_batch_sequences, activation_checkpointing) in variants(shape) {
        let variant = TrainOptions { micro_batch_sequences, activation_checkpointing, ..options.clone() };
        let found = train(&Device::cpu(threads, isa).unwrap(), &config, &variant, &samples);
        assert!(
            found == expected,
            "{name}: {isa}, {threads} threads, {micro_batch_sequences} sequences at once, \
             activation checkpointing {activation_checkpointing}"
        );
    }
    let other = TrainOptions { seed: 1, ..options };
    let found = train(&Device::cpu(2, Isa::detect()).unwrap(), &config, &other, &samples);
    assert!(found != expected, "{name}: another order of the data was to show");
}

// One test a shape, so that they run side by side.
#[test]
fn no_configuration_changes_a_bit_of_llama() {
    check_variants(0);
}

#[test]
fn no_configuration_changes_a_bit_of_llama_with_biases() {
    check_variants(1);
}

#[test]
fn no_configuration_changes_a_bit_of_tied_qwen3() {
    check_variants(2);
}

#[test]
fn no_configuration_changes_a_bit_of_qwen3() {
    check_variants(3);
}

/// `sequences` once for each step, such that the trainer reads them in the order given.
fn in_order(sequences: &[Sequence], seed: u64) -> MemorySamples {
    let count = sequences.len() * STEPS;
    let mut placed = vec![Sequence::default(); count];
    for (sample, sequence) in sequences.iter().cycle().take(count).enumerate() {
        placed[sequence_index(seed, sample as u64, count)] = sequence.clone();
    }
    MemorySamples::new(placed, CONTEXT).unwrap()
}

/// The chains of sums run over the same documents in the same order, whatever their sequences are, and padding
/// adds zeros: so losses, gradients, their norm and the weights after every step are equal in every bit.
#[test]
fn packed_training_is_training_on_the_documents_one_by_one() {
    for (name, config, kind) in shapes() {
        let packed = packed_documents(&config);
        let alone = packed.concat();
        let packed: Vec<Sequence> = packed.iter().map(|documents| pack(documents)).collect();
        let run = |sequences: &[Sequence], micro_batch_sequences: usize, threads: usize| {
            let samples = in_order(sequences, 0);
            let options =
                TrainOptions { batch_sequences: sequences.len(), micro_batch_sequences, ..options(kind) };
            let mut bits = train(&Device::cpu(threads, Isa::detect()).unwrap(), &config, &options, &samples);
            // The evaluation reads the sequences as they lie, which differs.
            bits.figures.truncate(2 * STEPS);
            bits
        };
        let expected = run(&packed, 0, 1);
        assert!(run(&alone, 0, 2) == expected, "{name}: a sequence for each document");
        assert!(run(&alone, 1, 3) == expected, "{name}: one document at a time");
        let mut swapped = packed.clone();
        swapped.swap(0, 1);
        assert!(run(&swapped, 0, 1) != expected, "{name}: another order of the documents was to show");
    }
}

/// A pass over documents without padding, in the order given: log-probabilities of each one's targets and gradients.
fn pass_over(
    device: &Device,
    parameters: &Parameters,
    groups: &[Vec<Sequence>],
) -> (Vec<Vec<u32>>, Vec<f32>) {
    let decoder = &parameters.decoder;
    let mut pass = Pass::new(device, decoder, CONTEXT);
    let mut gradients = vec![0.0; decoder.layout().gradient_len()];
    let mut log_probs = Vec::new();
    for group in groups {
        let Sequence { ids, lengths, .. } = pack(group);
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let documents: Vec<_> = ends.zip(&lengths).map(|(end, length)| end - length..end).collect();
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let targets: Vec<u32> = ids[1..].iter().copied().chain([0]).collect();
        let is_last = |row: usize| documents.iter().any(|rows| rows.end == row + 1);
        let weights: Vec<f32> = (0..ids.len()).map(|row| if is_last(row) { 0.0 } else { 1.0 }).collect();
        let rows = Rows {
            ids: &ids,
            batch: Batch { positions: &positions, documents: &documents },
            targets: Targets { ids: &targets, weights: &weights, scale: 1.0 / 512.0 },
        };
        let mut found = vec![0.0; ids.len()];
        pass.train(decoder, (parameters.flat.data(), &mut gradients), rows, Some(&mut found));
        log_probs.extend(documents.iter().map(|rows| bits(&found[rows.start..rows.end - 1])));
    }
    decoder.layout().finish_gradients(device, &mut gradients);
    gradients.truncate(decoder.layout().len());
    (log_probs, gradients)
}

/// A document's log-probabilities are exact in any company and any order. The gradients are exact whatever the
/// company, as long as the order stays: another order is another chain of sums, equal up to rounding.
#[test]
fn documents_in_any_company_have_their_own_log_probabilities() {
    for (name, config, _) in shapes() {
        let device = Device::cpu(2, Isa::detect()).unwrap();
        let mut parameters = Parameters::init(&device, config.clone(), 3);
        let mut rng = Rng::new(9, 9);
        parameters.flat.data_mut().iter_mut().for_each(|weight| *weight += 0.15 * rng.normal());
        let documents = packed_documents(&config).concat();
        let alone: Vec<Vec<Sequence>> = documents.iter().map(|document| vec![document.clone()]).collect();
        let (expected, gradients) = pass_over(&device, &parameters, &alone);
        for company in [2, 5, documents.len()] {
            let groups: Vec<Vec<Sequence>> = documents.chunks(company).map(<[_]>::to_vec).collect();
            let (log_probs, found) = pass_over(&device, &parameters, &groups);
            assert!(log_probs == expected, "{name}: log-probabilities in a company of {company}");
            assert!(bits(&found) == bits(&gradients), "{name}: gradients in a company of {company}");
        }
        let backwards: Vec<Sequence> = documents.into_iter().rev().collect();
        let (mut log_probs, found) = pass_over(&device, &parameters, &[backwards]);
        log_probs.reverse();
        assert!(log_probs == expected, "{name}: log-probabilities in the opposite order");
        for entry in parameters.decoder.layout().entries() {
            let (ours, theirs) = (entry.weight.of(&found), entry.weight.of(&gradients));
            let difference: f32 = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            let norm = theirs.iter().map(|value| value.powi(2)).sum::<f32>().sqrt();
            // Softmax does not see a key's bias: its gradient is zero but for rounding.
            let allowed = 2e-6 * norm + 1e-8;
            assert!(difference <= allowed, "{name}: {} {difference:e} of {norm:e}", entry.name);
        }
    }
}

#[test]
fn evaluation_does_not_depend_on_what_goes_through_at_once() {
    for (name, config, kind) in shapes() {
        let sequences = packed_documents(&config).iter().map(|documents| pack(documents)).collect();
        let samples = MemorySamples::new(sequences, CONTEXT).unwrap();
        // Seven sequences in all; more are the same as all.
        for count in [1, 3, 6, 7, 100] {
            let evaluate = |micro_batch_sequences, threads, isa| {
                let device = Device::cpu(threads, isa).unwrap();
                let options = TrainOptions { micro_batch_sequences, ..options(kind) };
                let parameters = Parameters::init(&device, config.clone(), 3);
                let mut trainer = Trainer::new(&device, parameters, &options).unwrap();
                let (loss, targets) = trainer.evaluate(&samples, count).unwrap();
                (loss.to_bits(), targets)
            };
            let expected = evaluate(1, 1, Isa::detect());
            for (micro_batch, threads, isa) in
                [(2, 2, Isa::detect()), (4, 3, Isa::detect()), (8, 2, Isa::Emulated16)]
            {
                let found = evaluate(micro_batch, threads, isa);
                assert_eq!(found, expected, "{name}: {count} sequences, {micro_batch} at once on {isa}");
            }
        }
    }
}
