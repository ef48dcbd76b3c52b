//! What the engine refuses, with the numbers that say why, and that a refusal changes nothing.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use engine::{Chunk, Device, Engine, FinishReason, Isa, Options, Request, Sampling, Scheduler};
use model::{Config, Parameters};

fn device() -> Device {
    Device::cpu(1, Isa::detect()).unwrap()
}

/// A small decoder over 50 ids with a context of 200 tokens; every weight is multiplied with `factor`.
fn engine(device: Device, max_pages: usize, factor: f32) -> Engine {
    let config = Config { max_positions: 200, ..Config::llama(50, 32, 2, 2) };
    let mut parameters = Parameters::init(&device, config, 1);
    parameters.flat.data_mut().iter_mut().for_each(|weight| *weight *= factor);
    Engine::new(parameters, device, Options { max_pages: Some(max_pages), ..Options::default() }).unwrap()
}

fn scheduler(max_pages: usize, factor: f32) -> Scheduler {
    Scheduler::new(engine(device(), max_pages, factor))
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { prompt, max_tokens, ..Request::default() }
}

#[test]
fn requests_that_cannot_be_answered() {
    let mut scheduler = scheduler(2, 1.0);
    let mut check = |request: Request, expected: &str| {
        let message = scheduler.generate_batch(&[request]).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(scheduler.statistics().pages_used, 0, "no page is lost");
    };
    check(request(vec![], 5), "the prompt holds no tokens");
    check(
        request(vec![1; 150], 51),
        "150 prompt tokens + 51 tokens to generate exceed the model's context of 200 tokens",
    );
    check(request(vec![1; 201], 0), "201 prompt tokens + 0 tokens to generate exceed");
    check(request(vec![1; 5], usize::MAX), "exceed the model's context");
    check(request(vec![1, 50], 5), "token id 50 at position 1 is outside the model's vocabulary of 50 ids");
    check(request(vec![1; 100], 100), "4 more pages of 64 tokens are needed and 2 of 2 are free");
    let sampling = Sampling { top_p: 2.0, ..Sampling::default() };
    check(Request { sampling, ..request(vec![1], 1) }, "top_p is 2");
    assert_eq!(scheduler.generate_batch(&[request(vec![1; 100], 28)]).unwrap()[0].tokens.len(), 28);
}

#[test]
fn a_batch_larger_than_the_cache_waits_for_pages_and_is_answered() {
    let mut small = scheduler(3, 1.0);
    let requests: Vec<Request> =
        (0..9).map(|index| request(vec![index; 30 + 10 * index as usize], 10)).collect();
    let answers = small.generate_batch(&requests).unwrap();
    assert_eq!(answers, scheduler(100, 1.0).generate_batch(&requests).unwrap());
}

#[test]
fn weights_that_are_not_numbers_are_found_out() {
    let mut engine = scheduler(4, f32::NAN);
    let message = engine.generate_batch(&[request(vec![1, 2, 3], 4)]).unwrap_err().to_string();
    assert!(message.contains("not finite after 3 tokens"), "{message}");
    assert!(engine.log_probs(&[1, 2, 3]).unwrap_err().to_string().contains("not finite after 1 tokens"));
    assert_eq!(engine.engine().pages().free(), 4);
}

#[test]
fn a_step_that_fails_leaves_its_sequences_as_they_were() {
    let mut engine = engine(device(), 1, 1.0);
    let mut sequence = engine.sequence(100);
    sequence.extend(&[1; 60]);
    let mut chunks = [Chunk::new(sequence)];
    engine.step(&mut chunks).unwrap();
    chunks[0].sequence.extend(&[1; 5]);
    chunks[0].rows = 5;
    assert!(engine.step(&mut chunks).err().unwrap().to_string().contains("1 more pages of 64 tokens"));
    assert_eq!((chunks[0].sequence.computed(), chunks[0].sequence.pending()), (60, 5));
    chunks[0].rows = 4;
    assert_eq!(engine.step(&mut chunks).unwrap().of(0).len(), 1);
}

#[test]
fn answers_end_by_stop_ids_limits_and_their_receiver() {
    let mut engine = scheduler(8, 1.0);
    let free = engine.generate_batch(&[request(vec![3, 4], 20)]).unwrap().remove(0);
    assert_eq!((free.finish.reason, free.finish.completion_tokens), (FinishReason::Length, 20));
    let stop = free.ids()[7];
    let first = free.ids().iter().position(|&id| id == stop).unwrap();
    let stopped = Request { stop_ids: vec![stop], ..request(vec![3, 4], 20) };
    let answer = engine.generate_batch(&[stopped]).unwrap().remove(0);
    assert_eq!(
        (answer.ids(), answer.finish.reason),
        (free.ids()[..first].to_vec(), FinishReason::StopId(stop))
    );
    let mut given = 0;
    let finish = engine.generate(&request(vec![3, 4], 20), &mut |_| {
        given += 1;
        if given == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(finish.unwrap().reason, FinishReason::Cancelled);
    assert_eq!((given, engine.statistics().pages_used), (3, 0));
    let nothing = engine.generate_batch(&[request(vec![3, 4], 0)]).unwrap().remove(0);
    assert_eq!((nothing.tokens.len(), nothing.finish.reason), (0, FinishReason::Length));
}

#[test]
fn the_buffers_of_the_first_steps_serve_all_later_ones() {
    let device = device();
    let mut engine = engine(device.clone(), 8, 1.0);
    let mut sequence = engine.sequence(200);
    sequence.extend(&[1; 40]);
    let mut chunks = [Chunk::new(sequence)];
    let mut held = Vec::new();
    for _ in 0..150 {
        engine.step(&mut chunks).unwrap();
        held.push(device.allocated_bytes());
        chunks[0].sequence.push(2);
        chunks[0].rows = 1;
    }
    assert!(held[1..].iter().all(|&bytes| bytes == held[1]), "{held:?}");
}

#[test]
fn options_outside_their_range_are_named() {
    let check = |options: Options, expected: &str| {
        let device = device();
        let parameters = Parameters::init(&device, Config::llama(50, 32, 1, 2), 1);
        let message = Engine::new(parameters, device, options).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(
        Options { page_tokens: 100, ..Options::default() },
        "page_tokens is 100; it must be a multiple of the 64",
    );
    check(Options { max_sequences: 0, ..Options::default() }, "max_sequences is 0");
    check(Options { step_rows: 0, ..Options::default() }, "step_rows is 0");
}
