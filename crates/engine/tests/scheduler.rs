//! Requests that come and go at any time, with any budget of pages and rows, are answered as each alone.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use engine::{
    Completion, Constraint, Device, Engine, Error, Event, Finish, FinishReason, Isa, Mask, Options, Request,
    Sampling, Scheduler, Ticket, Token, TokenLogProbs,
};
use model::{Config, Parameters};

const VOCABULARY: u32 = 97;

/// A small decoder whose answers depend on every id before; `change` is added to its weights.
fn parameters(device: &Device, change: impl Fn(usize) -> f32) -> Parameters {
    let config = Config {
        kv_heads: 2,
        head_dim: 8,
        intermediate_size: 40,
        max_positions: 512,
        ..Config::llama(VOCABULARY as usize, 24, 2, 4)
    };
    let mut parameters = Parameters::init(device, config, 5);
    let weights = parameters.flat.data_mut().iter_mut().enumerate();
    weights.for_each(|(index, weight)| *weight = *weight * 8.0 + 0.01 * (index % 7) as f32 + change(index));
    parameters
}

/// With `damage`, one row of the embedding table is no number.
fn engine(options: Options, damage: Option<u32>) -> Engine {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let mut parameters = parameters(&device, |_| 0.0);
    let embedding = parameters.decoder.layout().embedding();
    if let Some(id) = damage {
        let row = id as usize * embedding.cols;
        embedding.of_mut(parameters.flat.data_mut())[row..row + embedding.cols].fill(f32::NAN);
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
            let sampling = Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 0.95,
                seed: index as u64,
                ..Sampling::default()
            };
            Request {
                prompt,
                max_tokens: draws.below(60),
                sampling: if index % 2 == 0 { Sampling::greedy() } else { sampling },
                stop_ids: vec![7],
                constraint: None,
                logprobs: (index % 4 == 0).then_some(2),
                adapter: None,
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
    let options = Options { prefix_cache: false, guess_rows: 0, max_pages: Some(16), ..Options::default() };
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
    let mut counts = [0; 3];
    for round in 0..30 {
        let options = Options {
            // The longest request needs six pages.
            max_pages: Some(6 + draws.below(12)),
            max_sequences: 1 + draws.below(9),
            step_rows: 1 + draws.below(150),
            prefix_cache: draws.below(4) > 0,
            guess_rows: draws.below(30),
            ..Options::default()
        };
        let cached = options.prefix_cache;
        let mut scheduler = match round % 3 {
            0 => Scheduler::new(engine(options.clone(), None)),
            1 => Scheduler::with_draft(engine(options.clone(), None), draft(60)).unwrap(),
            // Too small for most, so that some answers have guesses and others none.
            _ => Scheduler::with_draft(engine(options.clone(), None), draft(5)).unwrap(),
        };
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
        let found = scheduler.statistics();
        assert_eq!((found.running, found.waiting, found.pages_used), (0, 0, 0));
        assert_eq!(found.pages_cached > 0, cached);
        assert_eq!(found.cached_tokens > 0, cached);
        assert!(found.right_tokens <= found.guessed_tokens);
        for (sum, value) in
            counts.iter_mut().zip([found.preemptions, found.guessed_tokens, found.right_tokens])
        {
            *sum += value;
        }
    }
    assert!(counts.iter().all(|&count| count > 30), "preemptions, guesses, right ones: {counts:?}");
}

/// A model that guesses as the damaged one of the same seed would go on: often right, not always.
fn draft(pages: usize) -> Engine {
    let options = Options { max_pages: Some(pages), ..Options::default() };
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let parameters = parameters(&device, |index| if index % 50 == 0 { 0.02 } else { 0.0 });
    Engine::new(parameters, device, options).unwrap()
}

#[test]
fn guesses_that_are_right_save_steps_and_a_draft_model_must_have_the_same_ids() {
    let request = Request { prompt: vec![5, 6, 7], max_tokens: 200, ..Request::default() };
    let options = |guess_rows| Options { guess_rows, max_pages: Some(40), ..Options::default() };
    let mut plain = Scheduler::new(engine(options(0), None));
    let expected = plain.generate_batch(std::slice::from_ref(&request)).unwrap();
    assert_eq!(plain.statistics().steps, 200);
    let itself = engine(options(0), None);
    let mut drafted = Scheduler::with_draft(engine(options(16), None), itself).unwrap();
    assert_eq!(drafted.generate_batch(std::slice::from_ref(&request)).unwrap(), expected);
    let counts = drafted.statistics();
    assert_eq!(counts.right_tokens, counts.guessed_tokens, "the model guesses itself");
    assert!(counts.steps < 200 / 6, "{counts:?}");

    let device = Device::cpu(1, Isa::detect()).unwrap();
    let other = Parameters::init(&device, Config::llama(50, 32, 1, 2), 1);
    let other = Engine::new(other, device, Options::default()).unwrap();
    let message = Scheduler::with_draft(engine(options(16), None), other).err().unwrap().to_string();
    assert!(message.contains("vocabulary has 50 ids and the model's 97"), "{message}");
}

/// Lets an answer consist of ids that are one more or one less than the id before, and end after `left` of them.
#[derive(Clone, Debug)]
struct Neighbours {
    last: u32,
    left: usize,
}

const END: u32 = 7;

impl Constraint for Neighbours {
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), String> {
        let mut words = vec![0u32; VOCABULARY.div_ceil(32) as usize];
        let ids = if self.left == 0 { vec![END] } else { vec![self.last + 1, self.last - 1] };
        ids.into_iter().for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
        mask.set(&words);
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        (self.last, self.left) = (id, self.left.checked_sub(1).ok_or("nothing follows")?);
        Ok(())
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[test]
fn a_constraint_decides_over_every_id_with_guesses_and_without() {
    let request = |seed: u64, temperature: f32| Request {
        prompt: vec![50],
        max_tokens: 40,
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        stop_ids: vec![END],
        constraint: Some(Box::new(Neighbours { last: 50, left: 20 })),
        ..Request::default()
    };
    let requests: Vec<Request> = (0..12).map(|seed| request(seed, 0.3 * (seed % 4) as f32)).collect();
    let answers = |guess_rows| {
        let options = Options { guess_rows, max_pages: Some(40), ..Options::default() };
        let mut scheduler = Scheduler::new(engine(options, None));
        let mut answers = scheduler.generate_batch(&requests).unwrap();
        answers.iter_mut().for_each(|answer| answer.finish.cached_tokens = 0);
        (answers, scheduler.statistics().guessed_tokens)
    };
    let ((plain, none), (guessed, some)) = (answers(0), answers(16));
    assert!(none == 0 && some > 20, "{some}");
    assert_eq!(plain, guessed);
    for answer in &plain {
        let ids = [&[50][..], &answer.ids()].concat();
        assert!(ids.windows(2).all(|pair| pair[0].abs_diff(pair[1]) == 1), "{ids:?}");
        assert_eq!((ids.len(), answer.finish.reason), (21, FinishReason::StopId(END)));
    }
    assert!(plain.iter().any(|answer| answer.tokens != plain[0].tokens), "the seeds differ");
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
