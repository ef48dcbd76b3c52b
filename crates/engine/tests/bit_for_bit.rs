//! The engine gives the same bits however a prompt is cut into chunks, whatever steps along with it, with any
//! number of threads and any instruction set, and these bits are the trainer's.
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use engine::{Chunk, Completion, Device, Engine, Isa, LogitRows, Options, Request, Sampling, Scheduler};
use model::{Config, Family, Parameters, Pass, Rows};
use tensor::{Batch, Targets};

/// A small decoder with grouped heads; odd sizes, so that no kernel sees whole vectors only.
fn config(family: Family) -> Config {
    Config {
        family,
        kv_heads: 2,
        head_dim: 10,
        intermediate_size: 54,
        max_positions: 320,
        qk_norm: family == Family::Qwen3,
        qkv_bias: family == Family::Qwen2,
        tie_embeddings: family == Family::Qwen3,
        ..Config::llama(131, 36, 2, 4)
    }
}

/// Weights well above the usual scale, so that a difference in any sum shows.
fn parameters(device: &Device, family: Family) -> Parameters {
    let mut parameters = Parameters::init(device, config(family), 5);
    for (index, weight) in parameters.flat.data_mut().iter_mut().enumerate() {
        *weight = *weight * 8.0 + 0.01 * (index % 7) as f32;
    }
    parameters
}

fn engine(threads: usize, isa: Isa, family: Family) -> Engine {
    let device = Device::cpu(threads, isa).unwrap();
    let options = Options { page_tokens: 128, max_pages: Some(64), ..Options::default() };
    Engine::new(parameters(&device, family), device, options).unwrap()
}

fn ids(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * index + 31 * index + 17 * seed) % 131).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Logits of every row, (rows, vocabulary), with the ids computed in pieces of the given sizes, the last
/// repeated.
fn logits_in_chunks(engine: &mut Engine, ids: &[u32], sizes: &[usize]) -> Vec<u32> {
    let mut sequence = engine.sequence(ids.len());
    sequence.extend(ids);
    let mut chunks = [Chunk { sequence, rows: 0, logits: LogitRows::All }];
    let mut all = Vec::new();
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(*sizes.last().unwrap()));
    while chunks[0].sequence.pending() > 0 {
        chunks[0].rows = sizes.next().unwrap().min(chunks[0].sequence.pending());
        let logits = engine.step(&mut chunks).unwrap();
        all.extend(logits.of(0).iter().flat_map(bits));
    }
    all
}

/// What the trainer's forward pass gives: logits (rows, vocabulary) and each next id's log-probability.
fn trainer(threads: usize, isa: Isa, family: Family, ids: &[u32]) -> (Vec<u32>, Vec<f32>) {
    let device = Device::cpu(threads, isa).unwrap();
    let Parameters { decoder, flat } = parameters(&device, family);
    let mut pass = Pass::new(&device, &decoder, 320);
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let documents = [0..ids.len()];
    let batch = Batch { positions: &positions, documents: &documents };
    let logits = pass.logits(&decoder, flat.data(), ids, batch);
    let mut next = ids[1..].to_vec();
    next.push(0);
    let weights = vec![1.0; ids.len()];
    let targets = Targets { ids: &next, weights: &weights, scale: 1.0 };
    let mut log_probs = vec![0.0; ids.len()];
    pass.score(&decoder, flat.data(), Rows { ids, batch, targets }, Some(&mut log_probs));
    log_probs.pop();
    (bits(&logits), log_probs)
}

#[test]
fn chunks_of_any_size_give_the_trainers_bits_on_every_machine() {
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        let ids = ids(1, 201);
        let (expected, log_probs) = trainer(1, Isa::available()[0], family, &ids);
        for isa in Isa::available() {
            for threads in 1..=3 {
                assert_eq!(
                    trainer(threads, isa, family, &ids).0,
                    expected,
                    "{family:?} trainer {isa:?} × {threads}"
                );
                let mut engine = engine(threads, isa, family);
                for sizes in [&[201][..], &[1], &[7], &[64], &[100, 1], &[63, 2, 65]] {
                    let logits = logits_in_chunks(&mut engine, &ids, sizes);
                    assert!(logits == expected, "{family:?} {isa:?} × {threads}, chunks {sizes:?}");
                }
                assert_eq!(
                    bits(&Scheduler::new(engine).log_probs(&ids).unwrap()),
                    bits(&log_probs),
                    "{family:?} {isa:?} × {threads}"
                );
            }
        }
    }
}

#[test]
fn company_in_a_step_changes_nothing() {
    let mut engine = engine(2, Isa::detect(), Family::Llama);
    let prompts: Vec<Vec<u32>> =
        [150, 1, 64, 65, 33, 128].into_iter().zip(1..).map(|(n, seed)| ids(seed, n)).collect();
    let alone: Vec<_> = prompts.iter().map(|ids| logits_in_chunks(&mut engine, ids, &[200])).collect();
    for round in 1..5usize {
        let mut chunks: Vec<Chunk> = prompts
            .iter()
            .map(|ids| {
                let mut sequence = engine.sequence(ids.len());
                sequence.extend(ids);
                Chunk { sequence, rows: 0, logits: LogitRows::All }
            })
            .collect();
        let mut together: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        while chunks.iter().any(|chunk| chunk.sequence.pending() > 0) {
            for (index, chunk) in chunks.iter_mut().enumerate() {
                // Sizes that differ from sequence to sequence and leave some out of some steps.
                chunk.rows =
                    ((chunk.sequence.computed() + index * 13) % (round * 29)).min(chunk.sequence.pending());
                if chunk.sequence.pending() == 1 || chunks_are_stuck(chunk, index, round) {
                    chunk.rows = 1;
                }
            }
            let logits = engine.step(&mut chunks).unwrap();
            for (index, all) in together.iter_mut().enumerate() {
                all.extend(logits.of(index).iter().flat_map(bits));
            }
        }
        assert!(together == alone, "round {round}");
    }
}

/// Whether the sizes above would leave a sequence out for ever.
fn chunks_are_stuck(chunk: &Chunk, index: usize, round: usize) -> bool {
    (chunk.sequence.computed() + index * 13).is_multiple_of(round * 29) && chunk.sequence.pending() > 0
}

#[test]
fn a_batch_answers_as_each_request_alone() {
    let mut engine = Scheduler::new(engine(2, Isa::detect(), Family::Qwen3));
    let sampled = |seed| Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, seed, ..Sampling::default() };
    let requests: Vec<Request> = (0..50u32)
        .map(|index| Request {
            prompt: ids(index, 1 + (index as usize * 37) % 190),
            max_tokens: 1 + (index as usize * 11) % 30,
            sampling: if index % 3 == 0 { Sampling::greedy() } else { sampled(u64::from(index)) },
            stop_ids: vec![7, 8],
            constraint: None,
            logprobs: (index % 4 == 0).then_some(3),
            adapter: None,
            prompt_logprobs: (index % 5 == 0).then_some(2),
        })
        .collect();
    let alone: Vec<_> =
        requests.iter().map(|request| answer(&mut engine, std::slice::from_ref(request)).remove(0)).collect();
    assert!(alone.iter().any(|answer| answer.tokens.len() > 20));
    assert_eq!(answer(&mut engine, &requests), alone);
    assert_eq!(engine.statistics().pages_used, 0, "every page has come back");
}

/// The answers, without what the cache knew.
fn answer(scheduler: &mut Scheduler, requests: &[Request]) -> Vec<Completion> {
    let mut answers = scheduler.generate_batch(requests).unwrap();
    answers.iter_mut().for_each(|answer| answer.finish.cached_tokens = 0);
    answers
}

#[test]
fn a_generated_ids_log_probability_is_that_of_scoring_it() {
    let mut engine = Scheduler::new(engine(1, Isa::detect(), Family::Llama));
    let request = Request { prompt: ids(3, 50), max_tokens: 40, logprobs: Some(0), ..Request::default() };
    let answer = engine.generate_batch(&[request]).unwrap().remove(0);
    let mut all = ids(3, 50);
    all.extend(answer.ids());
    let scored = engine.log_probs(&all).unwrap();
    let generated: Vec<f32> =
        answer.tokens.iter().map(|token| token.logprobs.as_ref().unwrap().chosen.logprob).collect();
    assert_eq!(bits(&generated), bits(&scored[49..]));
}

#[test]
fn a_forked_sequence_goes_on_like_its_origin() {
    let mut engine = engine(1, Isa::detect(), Family::Llama);
    let all = ids(9, 300);
    let expected = logits_in_chunks(&mut engine, &all, &[300]);
    let mut sequence = engine.sequence(300);
    sequence.extend(&all[..200]);
    let mut chunks = [Chunk::new(sequence)];
    engine.step(&mut chunks).unwrap();
    let free = engine.pages().free();
    let mut fork = chunks[0].sequence.fork();
    assert_eq!((fork.computed(), engine.pages().free()), (128, free), "the full page is shared");
    fork.extend(&all[200..]);
    let mut forked = [Chunk { logits: LogitRows::All, ..Chunk::new(fork) }];
    let logits = engine.step(&mut forked).unwrap();
    assert!(logits.of(0).iter().flat_map(bits).eq(expected[128 * 131..].iter().copied()));
}
