//! A step that generates allocates nothing once its room is there.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use engine::{Device, Engine, Isa, Options, Request, Sampling, Scheduler};
use model::{AdapterOptions, Adapters, Config, Parameters};
use tensor::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations of steps in which some answers are generated, after the first ones.
fn allocations(guess_rows: usize, adapter: Option<&str>, sampling: &Sampling) -> u64 {
    // One thread, since it is chance when two first have a buffer on loan at once.
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let mut config = Config::llama(97, 64, 2, 4);
    config.max_positions = 512;
    let parameters = Parameters::init(&device, config, 5);
    let mut adapters = Adapters::init(&device, &parameters.decoder, &AdapterOptions::default(), 4).unwrap();
    adapters.flat.data_mut().iter_mut().for_each(|element| *element += 0.01);
    let folder = tempfile::tempdir().unwrap();
    adapters.save(folder.path(), "base").unwrap();
    let options = Options { guess_rows, max_pages: Some(64), ..Options::default() };
    let mut engine = Engine::new(parameters, device, options).unwrap();
    let read = engine.adapter_reader().read("red", folder.path()).unwrap();
    engine.insert_adapter(read).unwrap();
    let mut scheduler = Scheduler::new(engine);
    for index in 0..5u32 {
        let request = Request {
            prompt: (0..20 + 9 * index).map(|place| (place * place + index) % 97).collect(),
            max_tokens: 300,
            sampling: sampling.clone(),
            adapter: adapter.filter(|_| index % 2 == 0).map(str::to_owned),
            ..Request::default()
        };
        scheduler.submit(request).unwrap();
    }
    let mut step = || scheduler.step(&mut |_, _| ControlFlow::Continue(()));
    (0..100).for_each(|_| step());
    let before = CountingAllocator::count();
    (0..60).for_each(|_| step());
    let allocations = CountingAllocator::count() - before;
    assert_eq!(scheduler.statistics().running, 5, "all are under way to the end");
    allocations
}

#[test]
fn generating_allocates_nothing() {
    let sampled = Sampling {
        temperature: 0.8,
        top_k: 20,
        top_p: 0.9,
        repetition_penalty: 1.1,
        frequency_penalty: 0.1,
        ..Sampling::default()
    };
    for (name, guess_rows, adapter, sampling) in [
        ("greedy", 0, None, &Sampling::greedy()),
        ("with adapters", 0, Some("red"), &Sampling::greedy()),
        ("with guesses", 4, None, &Sampling::greedy()),
        ("sampled", 0, None, &sampled),
    ] {
        assert_eq!(allocations(guess_rows, adapter, sampling), 0, "{name}");
    }
}
