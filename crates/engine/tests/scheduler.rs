//! Requests that come and go at any time, with any budget of pages and rows, are answered as each alone.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use engine::{
    Completion, Device, Engine, Error, Event, Finish, FinishReason, Isa, Options, Request, Sampling,
    Scheduler, Ticket, Token, TokenLogProbs,
};
use model::{Config, Parameters};

const VOCABULARY: u32 = 97;

/// A small decoder whose answers depend on every id before; `damage` makes one row of the embedding table
/// something that is no number.
fn engine(options: Options, damage: Option<u32>) -> Engine {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let config = Config {
        kv_heads: 2,
        head_dim: 8,
        intermediate_size: 40,
        max_positions: 512,
        ..Config::llama(VOCABULARY as usize, 24, 2, 4)
    };
    let mut parameters = Parameters::init(&device, config, 5);
    let embedding = parameters.decoder.layout().embedding();
    let weights = parameters.flat.data_mut();
    weights
        .iter_mut()
        .enumerate()
        .for_each(|(index, weight)| *weight = *weight * 8.0 + 0.01 * (index % 7) as f32);
    if let Some(id) = damage {
        let row = id as usize * embedding.cols;
        embedding.of_mut(weights)[row..row + embedding.cols].fill(f32::NAN);
    }
    Engine::new(parameters, device, options).unwrap()
}

/// A reproducible stream of numbers.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Requests of many lengths, of which many begin alike.
fn requests(draws: &mut Draws, count: usize) -> Vec<Request> {
    let stems: Vec<Vec<u32>> = [200, 130, 64]
        .map(|tokens| (0..tokens).map(|_| draws.below(VOCABULARY as usize) as u32).collect())
        .into();
    (0..count)
        .map(|index| {
            let stem = &stems[draws.below(stems.len())];
            let mut prompt = stem[..draws.below(stem.len() + 1)].to_vec();
            prompt.extend((0..1 + draws.below(90)).map(|_| draws.below(VOCABULARY as usize) as u32));
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 0.95, seed: index as u64 };
            Request {
                prompt,
                max_tokens: draws.below(60),
                sampling: if index % 2 == 0 { Sampling::greedy() } else { sampling },
                stop_ids: vec![7],
                logprobs: (index % 4 == 0).then_some(2),
                prompt_logprobs: (index % 5 == 0).then_some(1),
            }
        })
        .collect()
}

/// What has been heard of a request.
#[derive(Default)]
struct Heard {
    prompt_logprobs: Vec<TokenLogProbs>,
    tokens: Vec<Token>,
    finish: Option<Finish>,
    failed: Option<Error>,
}

impl Heard {
    fn take(&mut self, event: Event) {
        assert!(self.finish.is_none() && self.failed.is_none(), "nothing follows the last event");
        match event {
            Event::Prompt(known) => self.prompt_logprobs = known,
            Event::Token(token) => self.tokens.push(token),
            Event::Finished(finish) => self.finish = Some(Finish { cached_tokens: 0, ..finish }),
            Event::Failed(error) => self.failed = Some(error),
        }
    }

    fn completion(self) -> Completion {
        let Self { prompt_logprobs, tokens, finish, .. } = self;
        Completion { prompt_logprobs, tokens, finish: finish.unwrap() }
    }
}

/// Each request by itself, nothing cached.
fn alone(requests: &[Request]) -> Vec<Completion> {
    let options = Options { prefix_cache: false, max_pages: Some(16), ..Options::default() };
    let mut scheduler = Scheduler::new(engine(options, None));
    requests
        .iter()
        .map(|request| scheduler.generate_batch(std::slice::from_ref(request)).unwrap().remove(0))
        .collect()
}

#[test]
fn arrival_pages_and_company_change_no_answer() {
    let mut draws = Draws(3);
    let requests = requests(&mut draws, 40);
    let expected = alone(&requests);
    let mut preemptions = 0;
    for _ in 0..30 {
        let options = Options {
            // The longest request needs six pages.
            max_pages: Some(6 + draws.below(12)),
            max_sequences: 1 + draws.below(9),
            step_rows: 1 + draws.below(150),
            prefix_cache: draws.below(4) > 0,
            ..Options::default()
        };
        let cached = options.prefix_cache;
        let mut scheduler = Scheduler::new(engine(options.clone(), None));
        let mut heard: Vec<(Ticket, usize, Heard)> = Vec::new();
        let mut left: Vec<usize> = (0..requests.len()).collect();
        let mut cancelled = Vec::new();
        while !left.is_empty() || !scheduler.is_idle() {
            for _ in 0..draws.below(5).min(left.len()) {
                let index = left.swap_remove(draws.below(left.len()));
                let ticket = scheduler.submit(requests[index].clone()).unwrap();
                heard.push((ticket, index, Heard::default()));
            }
            if draws.below(40) == 0 && !heard.is_empty() {
                let (ticket, ..) = heard[draws.below(heard.len())];
                if scheduler.cancel(ticket).is_some() {
                    cancelled.push(ticket);
                }
            }
            scheduler.step(&mut |ticket, event| {
                heard.iter_mut().find(|(other, ..)| *other == ticket).unwrap().2.take(event);
                ControlFlow::Continue(())
            });
        }
        for (ticket, index, heard) in heard {
            if cancelled.contains(&ticket) {
                let begun = heard.tokens.len();
                assert!(heard.finish.is_none() && heard.tokens[..] == expected[index].tokens[..begun]);
            } else {
                assert_eq!(heard.completion(), expected[index], "request {index} with {options:?}");
            }
        }
        let counts = scheduler.statistics();
        assert_eq!((counts.running, counts.waiting, counts.pages_used), (0, 0, 0));
        assert_eq!(counts.pages_cached > 0, cached);
        assert_eq!(counts.cached_tokens > 0, cached);
        preemptions += counts.preemptions;
    }
    assert!(preemptions > 30, "{preemptions}");
}

#[test]
fn one_that_fails_fails_alone() {
    let damaged = VOCABULARY - 1;
    let mut scheduler =
        Scheduler::new(engine(Options { max_pages: Some(30), ..Options::default() }, Some(damaged)));
    let request = |last: u32| Request { prompt: vec![1, 2, last], max_tokens: 20, ..Request::default() };
    let expected = scheduler.generate_batch(&[request(3)]).unwrap().remove(0);
    let tickets = [3, damaged, 3].map(|last| scheduler.submit(request(last)).unwrap());
    let mut heard: [Heard; 3] = Default::default();
    while !scheduler.is_idle() {
        scheduler.step(&mut |ticket, event| {
            heard[tickets.binary_search(&ticket).unwrap()].take(event);
            ControlFlow::Continue(())
        });
    }
    let [first, failed, last] = heard;
    assert!(matches!(failed.failed, Some(Error::NotFinite { position: 3 })), "{:?}", failed.failed);
    assert_eq!((first.tokens, last.tokens), (expected.tokens.clone(), expected.tokens));
    assert_eq!(scheduler.statistics().pages_used, 0);
}

#[test]
fn a_known_beginning_is_not_computed_again() {
    let mut scheduler = Scheduler::new(engine(Options { max_pages: Some(40), ..Options::default() }, None));
    let prompt = |tail: u32| (0..300).map(|index| index % VOCABULARY).chain([tail, tail]).collect::<Vec<_>>();
    let request = |tail| Request { prompt: prompt(tail), max_tokens: 3, ..Request::default() };
    let cached = |scheduler: &mut Scheduler, request: Request| {
        let rows = scheduler.statistics().rows;
        let finish = scheduler.generate_batch(&[request]).unwrap().remove(0).finish;
        (finish.cached_tokens, scheduler.statistics().rows - rows)
    };
    assert_eq!(cached(&mut scheduler, request(1)), (0, 304));
    // A page that is shared in part is copied, so the whole common beginning is known.
    assert_eq!(cached(&mut scheduler, request(2)), (300, 4));
    // All but the last id, whose logits are needed.
    assert_eq!(cached(&mut scheduler, request(2)), (301, 3));
    // Sixteen that come at once: one computes what they share, the others take it over.
    let rows = scheduler.statistics().rows;
    let fresh: Vec<Request> = (0..16)
        .map(|tail| Request { prompt: [&[50; 200][..], &[tail, tail]].concat(), max_tokens: 1, ..request(0) })
        .collect();
    scheduler.generate_batch(&fresh).unwrap();
    assert_eq!(scheduler.statistics().rows - rows, 202 + 15 * 2);
}

#[test]
fn short_prompts_pass_a_long_one_and_a_long_one_is_not_passed_for_ever() {
    let options = Options { max_pages: Some(64), step_rows: 40, ..Options::default() };
    let mut scheduler = Scheduler::new(engine(options, None));
    let request =
        |tokens: usize, id: u32| Request { prompt: vec![id; tokens], max_tokens: 1, ..Request::default() };
    let long = scheduler.submit(request(400, 1)).unwrap();
    let mut ended = Vec::new();
    let (mut short_before, mut equal) = (0, Vec::new());
    for round in 0..40 {
        if round > 0 {
            equal.push(scheduler.submit(request(30, 2 + round)).unwrap());
        }
        scheduler.step(&mut |ticket, event| {
            if matches!(event, Event::Finished(_)) {
                short_before += usize::from(!ended.contains(&long));
                ended.push(ticket);
            }
            ControlFlow::Continue(())
        });
    }
    let place = ended.iter().position(|&ticket| ticket == long).expect("the long one is answered");
    assert!((3..=14).contains(&place), "{place} short ones passed the long one");
    let shorts: Vec<Ticket> = ended.iter().copied().filter(|&ticket| ticket != long).collect();
    assert!(shorts.is_sorted(), "equals are served in the order of their coming");
}

#[test]
fn a_receiver_that_breaks_ends_its_answer_alone() {
    let mut scheduler = Scheduler::new(engine(Options { max_pages: Some(40), ..Options::default() }, None));
    let request = |id| Request { prompt: vec![id; 5], max_tokens: 9, ..Request::default() };
    let (first, second) = (scheduler.submit(request(1)).unwrap(), scheduler.submit(request(2)).unwrap());
    let (mut tokens, mut finishes) = (Vec::new(), Vec::new());
    while !scheduler.is_idle() {
        scheduler.step(&mut |ticket, event| {
            match event {
                Event::Token(token) => tokens.push((ticket, token.index)),
                Event::Finished(finish) => finishes.push((ticket, finish.reason, finish.completion_tokens)),
                other => panic!("{other:?}"),
            }
            if ticket == first && tokens.len() > 4 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
    }
    assert_eq!(finishes, [(first, FinishReason::Cancelled, 3), (second, FinishReason::Length, 9)]);
    assert_eq!(scheduler.statistics().generated_tokens, 12);
    assert_eq!(scheduler.cancel(second), None);
}
