//! What one client's answer costs in steps, whoever else is there: counted, so that no clock is needed.
#![allow(clippy::unwrap_used)]

use std::task::{Context, Poll, Waker};

use chat::{LocalOptions, Sampling};
use engine::{Device, Isa};
use model::{Config, Parameters};
use token::{END_OF_TEXT, MESSAGE_END, Tokenizer, TrainOptions};

use super::*;

const TOKENS: usize = 120;

/// A random model whose greedy answers do not end by themselves.
fn model() -> Local {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    let tokenizer = Tokenizer::train(&["clay and ore, 陶冶 ".repeat(40)], &options, 1).unwrap();
    tokenizer.save(folder.path()).unwrap();
    let config = Config { max_positions: 512, ..Config::llama(tokenizer.vocab_size(), 32, 1, 2) };
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let mut parameters = Parameters::init(&device, config, 3);
    let head = parameters.decoder.head();
    for id in [END_OF_TEXT, MESSAGE_END].map(|text| tokenizer.special(text).unwrap() as usize) {
        head.of_mut(parameters.flat.data_mut())[id * head.cols..(id + 1) * head.cols].fill(0.0);
    }
    parameters.save(folder.path()).unwrap();
    let engine = engine::Options { max_sequences: 32, guess_rows: 0, ..engine::Options::default() };
    Local::load(folder.path(), device, LocalOptions { engine, ..LocalOptions::default() }).unwrap()
}

fn desk() -> Desk {
    let model = model();
    let (publish, _) = watch::channel(model.statistics());
    Desk {
        model,
        letters: unbounded_channel().1,
        give_up: Arc::default(),
        publish,
        metrics: Arc::default(),
        orders: Vec::new(),
        by_answer: HashMap::new(),
    }
}

/// Has an answer begun, of which the events come here.
fn ask(desk: &mut Desk, prompt: u32, options: AnswerOptions) -> Events {
    let (events, receiver) = outbox();
    let ids = (0..24).map(|place| (prompt * 31 + place * 7) % 250).collect();
    let place = Place::take(&Arc::default(), 1).unwrap();
    desk.begin(Job { work: Work::Chat(ids, Box::new(options), 1), events, _place: place });
    receiver
}

fn options(max_tokens: usize) -> AnswerOptions {
    AnswerOptions { max_tokens: Some(max_tokens), sampling: Sampling::greedy(), ..AnswerOptions::default() }
}

/// What a client that reads has got after each step, as ids and text, and how its answer ended.
fn read_to_the_end(desk: &mut Desk, others: &mut dyn FnMut(&mut Desk, usize)) -> Vec<(usize, String)> {
    let mut events = ask(desk, 0, options(TOKENS));
    let (mut context, mut steps, mut ended) = (Context::from_waker(Waker::noop()), Vec::new(), false);
    while !ended {
        others(desk, steps.len());
        desk.drop_abandoned();
        desk.step();
        let mut got = (0, String::new());
        while let Poll::Ready(Some(event)) = events.poll_recv(&mut context) {
            match event {
                Event::Delta(_, delta) => got = (got.0 + delta.ids, got.1 + &delta.text),
                Event::Chat(_, reply, ids) => {
                    assert_eq!(reply.usage.completion_tokens, TOKENS);
                    (got.0, ended) = (got.0 + ids, true);
                }
                other => panic!("{other:?}"),
            }
        }
        steps.push(got);
        assert!(steps.len() < 4 * TOKENS, "the answer comes to no end");
    }
    steps
}

#[test]
fn a_client_that_reads_gets_a_token_with_each_step_whoever_else_is_there() {
    let alone = read_to_the_end(&mut desk(), &mut |_, _| {});
    assert_eq!(alone.iter().map(|(ids, _)| ids).sum::<usize>(), TOKENS);
    assert_eq!(alone.len(), TOKENS, "one step for the prompt and its first token, one for each other");
    let mut desk = desk();
    let (mut silent, mut gone) = (Vec::new(), 0);
    let beside = read_to_the_end(&mut desk, &mut |desk, step| {
        if step % 12 == 0 {
            // It never reads, and each of its events is large.
            let large = AnswerOptions { logprobs: Some(20), ..options(400) };
            silent.push(ask(desk, 1 + step as u32, large));
        }
        if step % 3 == 0 {
            // It leaves before the next step, or while its answer is under way.
            let leaves = ask(desk, 1000 + step as u32, options(400));
            gone += 1;
            if step % 2 == 0 {
                drop(leaves)
            } else {
                silent.push(leaves)
            }
            if silent.len() > 14 {
                silent.truncate(4);
            }
        }
    });
    assert_eq!(beside, alone, "the same pieces after the same steps");
    assert!(silent.len() >= 4 && gone >= 30, "{} silent clients, {gone} that left", silent.len());
    // Who has left holds nothing any more.
    drop(silent);
    desk.drop_abandoned();
    desk.step();
    let left = desk.model.statistics();
    assert!(desk.orders.is_empty() && desk.by_answer.is_empty());
    assert_eq!((left.running, left.waiting, left.pages_used), (0, 0, 0));
}
