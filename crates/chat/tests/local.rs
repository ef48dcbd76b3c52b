//! A small random model behind the whole path from messages to messages.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use chat::{
    AnswerEvent, AnswerId, AnswerOptions, ChatModel, ChatRequest, CompletionRequest, Delta, FinishReason,
    Local, LocalOptions, Message, Prompt, Reply, Role, Sampling,
};
use engine::{Device, Isa};
use model::{AdapterOptions, Adapters, Config, Parameters};
use token::{Tokenizer, TrainOptions};

const TEXT: &str =
    "The kiln fires clay; the furnace smelts ore. 陶冶者，烧土为器，炼石成金。To form a mind takes both. ";

/// A model folder with random weights and a tokenizer that knows some Chinese.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { vocab_size: 320, ..TrainOptions::default() };
    let tokenizer = Tokenizer::train(&[TEXT.repeat(20)], &options, 1).unwrap();
    tokenizer.save(folder.path()).unwrap();
    let mut config = Config::llama(tokenizer.vocab_size(), 32, 2, 4);
    config.max_positions = 256;
    let device = Device::cpu(1, Isa::detect()).unwrap();
    Parameters::init(&device, config, 3).save(folder.path()).unwrap();
    folder
}

fn local() -> Local {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    Local::load(
        folder().path(),
        device,
        LocalOptions { name: Some("tiny".into()), ..LocalOptions::default() },
    )
    .unwrap()
}

fn ask(text: &str, options: AnswerOptions) -> ChatRequest {
    ChatRequest { messages: vec![Message::new(Role::User, text)], options, ..ChatRequest::default() }
}

fn sampled(seed: u64, max_tokens: usize) -> AnswerOptions {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed, ..Sampling::default() };
    AnswerOptions { max_tokens: Some(max_tokens), sampling, ..AnswerOptions::default() }
}

#[test]
fn an_adapter_is_merged_when_the_model_is_loaded() {
    let (base, adapter) = (folder(), tempfile::tempdir().unwrap());
    let device = || Device::cpu(1, Isa::detect()).unwrap();
    let mut parameters = Parameters::load(&device(), base.path()).unwrap();
    let mut adapters = Adapters::init(&device(), &parameters.decoder, &AdapterOptions::default(), 1).unwrap();
    adapters.flat.data_mut().iter_mut().enumerate().for_each(|(index, x)| *x += (index as f32).sin());
    adapters.save(adapter.path(), "base").unwrap();
    let reply = |adapter: Option<&std::path::Path>| {
        let options = LocalOptions { adapter: adapter.map(Into::into), ..LocalOptions::default() };
        let mut model = Local::load(base.path(), device(), options)?;
        model.reply(&ask("hello", sampled(1, 20)), &mut |_| ControlFlow::Continue(()))
    };
    let (plain, adapted) = (reply(None).unwrap(), reply(Some(adapter.path())).unwrap());
    let refused = reply(Some(base.path())).unwrap_err().to_string();
    assert!(refused.contains("PEFT folder"), "{refused}");
    adapters.merge(&device(), &mut parameters);
    parameters.save(base.path()).unwrap();
    let merged = reply(None).unwrap();
    assert_eq!(adapted.message.content, merged.message.content);
    assert_ne!(adapted.message.content, plain.message.content);
}

#[test]
fn the_deltas_are_the_reply_and_stop_strings_cut_it_wherever_they_fall() {
    let mut model = local();
    for seed in 0..6 {
        let whole = model.reply(&ask("你好", sampled(seed, 60)), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(whole.message.role, Role::Assistant);
        let text = &whole.message.content;
        let characters: Vec<char> = text.chars().collect();
        for (begin, length) in [(0, 1), (3, 2), (10, 5), (characters.len() / 2, 3), (characters.len() - 4, 4)]
        {
            let stop: String = characters[begin..begin + length].iter().collect();
            let options = AnswerOptions {
                stop: vec!["never said".into(), stop.clone()],
                logprobs: Some(0),
                ..sampled(seed, 60)
            };
            let mut streamed = Delta::default();
            let reply = model.reply(&ask("你好", options), &mut |delta| {
                streamed.text += &delta.text;
                streamed.tokens.extend(delta.tokens);
                ControlFlow::Continue(())
            });
            let reply = reply.unwrap();
            let expected = &text[..text.find(&stop).unwrap()];
            assert_eq!(reply.message.content, expected, "stopped at {stop:?}");
            assert_eq!((&streamed.text, &streamed.tokens), (&reply.message.content, &reply.tokens));
            assert_eq!(reply.finish, FinishReason::Stop);
            assert!(reply.usage.completion_tokens <= whole.usage.completion_tokens);
            let said: String = reply.tokens.iter().map(|token| token.text.as_str()).collect();
            assert!(
                said.contains('\u{fffd}') || said.starts_with(expected),
                "{said:?} begins with {expected:?}"
            );
        }
    }
}

#[test]
fn the_reply_ends_where_its_receiver_ends_it_and_at_its_limit() {
    let mut model = local();
    let mut count = 0;
    let reply = model.reply(&ask("a", sampled(1, 50)), &mut |_| {
        count += 1;
        if count == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let reply = reply.unwrap();
    assert_eq!((reply.finish, reply.usage.completion_tokens, count), (FinishReason::Cancelled, 5, 5));
    let reply = model.reply(&ask("a", sampled(1, 7)), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((reply.finish, reply.usage.completion_tokens), (FinishReason::Length, 7));
}

#[test]
fn many_conversations_are_answered_as_each_alone() {
    let mut model = local();
    let requests: Vec<ChatRequest> =
        (0..40).map(|seed| ask(&"ore ".repeat(1 + seed % 9), sampled(seed as u64, 5 + seed % 20))).collect();
    let mut together = model.reply_many(&requests).unwrap();
    for (request, reply) in requests.iter().zip(&mut together) {
        let mut alone = model.reply(request, &mut |_| ControlFlow::Continue(())).unwrap();
        // What the cache knew is the one thing that depends on who came before.
        (alone.usage.cached_tokens, reply.usage.cached_tokens) = (0, 0);
        assert_eq!(alone, *reply);
    }
}

#[test]
fn answers_that_begin_and_end_at_any_time_are_those_of_each_alone() {
    let mut model = local();
    let requests: Vec<ChatRequest> =
        (0..12).map(|seed| ask(&"clay ".repeat(1 + seed % 5), sampled(seed as u64, 4 + seed))).collect();
    let mut begun = Vec::new();
    let mut found: Vec<(AnswerId, String, Option<Reply>)> = Vec::new();
    let cancelled = 7;
    for request in &requests {
        begun.extend(model.begin_reply(request, 1).unwrap());
        if begun.len() == cancelled + 3 {
            model.cancel(begun[cancelled]);
        }
        step(&mut model, &mut found);
    }
    // One that is waited for leaves the others' pieces to those who step on.
    let alone = model.reply(&requests[3], &mut |_| ControlFlow::Continue(())).unwrap();
    while !model.is_idle() {
        step(&mut model, &mut found);
    }
    for (index, (request, id)) in requests.iter().zip(begun).enumerate() {
        let (_, text, reply) = found.iter().find(|(other, ..)| *other == id).unwrap();
        let expected = model.reply(request, &mut |_| ControlFlow::Continue(())).unwrap();
        if index == cancelled {
            assert!(reply.is_none() && expected.message.content.starts_with(text.as_str()));
        } else {
            assert_eq!((&expected.message.content, text), (&reply.as_ref().unwrap().message.content, text));
            assert_eq!(*text, expected.message.content);
        }
        if index == 3 {
            assert_eq!(alone.message, expected.message);
        }
    }
}

fn step(model: &mut Local, found: &mut Vec<(AnswerId, String, Option<Reply>)>) {
    model.step(&mut |id, event| {
        let place = found.iter().position(|(other, ..)| *other == id).unwrap_or_else(|| {
            found.push((id, String::new(), None));
            found.len() - 1
        });
        match event {
            AnswerEvent::Delta(delta) => found[place].1 += &delta.text,
            AnswerEvent::Reply(reply) => found[place].2 = Some(reply),
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    });
}

#[test]
fn a_draft_model_changes_no_answer_and_one_that_does_not_load_is_named() {
    let (base, mut model) = (folder(), local());
    let load = |draft: &std::path::Path| {
        let device = Device::cpu(1, Isa::detect()).unwrap();
        Local::load(
            base.path(),
            device,
            LocalOptions { draft: Some(draft.into()), ..LocalOptions::default() },
        )
    };
    let mut guessing = load(base.path()).unwrap();
    for text in ["clay", "ore", "陶冶", "a"] {
        let options = AnswerOptions { max_tokens: Some(40), ignore_end: true, ..AnswerOptions::default() };
        let request = ask(text, options);
        let reply = model.reply(&request, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(guessing.reply(&request, &mut |_| ControlFlow::Continue(())).unwrap(), reply);
    }
    assert!(guessing.statistics().guessed_tokens > 20);
    let empty = tempfile::tempdir().unwrap();
    let message = load(empty.path()).err().unwrap().to_string();
    assert!(message.contains(&empty.path().display().to_string()), "{message}");
}

#[test]
fn ids_that_end_answers_and_answers_that_do_not_end() {
    let mut model = local();
    let options = AnswerOptions { ignore_end: true, ..sampled(3, 100) };
    let long = model.reply(&ask("ore", options), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((long.usage.completion_tokens, long.finish), (100, FinishReason::Length));
    let stop_ids = (0..model.tokenizer().vocab_size() as u32).collect();
    let options = AnswerOptions { stop_ids, ignore_end: true, ..sampled(3, 100) };
    let none = model.reply(&ask("ore", options), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((none.usage.completion_tokens, none.finish), (0, FinishReason::Stop));
}

#[test]
fn choices_have_the_seeds_that_follow_each_other() {
    let mut model = local();
    let request = ask("ore", sampled(20, 12));
    let ids = model.begin_reply(&request, 4).unwrap();
    let mut found = Vec::new();
    while !model.is_idle() {
        step(&mut model, &mut found);
    }
    for (choice, id) in ids.into_iter().enumerate() {
        let alone =
            model.reply(&ask("ore", sampled(20 + choice as u64, 12)), &mut |_| ControlFlow::Continue(()));
        let (.., reply) = found.iter().find(|(other, ..)| *other == id).unwrap();
        assert_eq!(reply.as_ref().unwrap().message, alone.unwrap().message);
    }
    assert!(model.statistics().cached_tokens > 0, "the choices share their prompt's pages");
}

#[test]
fn what_cannot_be_answered_is_refused_with_its_numbers() {
    let mut model = local();
    let used = model.count_tokens(&[Message::new(Role::User, "hello")]).unwrap();
    let mut check = |text: &str, options: AnswerOptions, expected: &str| {
        let message =
            model.reply(&ask(text, options), &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let expected =
        format!("context is 256 tokens, but {} were requested ({used} in the prompt, 256 for", used + 256);
    check("hello", sampled(0, 256), &expected);
    check(&"烧".repeat(700), AnswerOptions::default(), "context is 256 tokens, but ");
    check("hello", AnswerOptions { stop: vec![String::new()], ..sampled(0, 5) }, "stop: ");
    let hot = Sampling { temperature: -1.0, ..Sampling::default() };
    check("hello", AnswerOptions { sampling: hot, ..sampled(0, 5) }, "temperature: -1 is not possible");
}

#[test]
fn without_a_limit_the_answer_may_fill_the_context() {
    let mut model = local();
    let request = ask("hello", AnswerOptions { max_tokens: None, ..sampled(2, 0) });
    let reply = model.reply(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let total = reply.usage.prompt_tokens + reply.usage.completion_tokens;
    assert!(reply.finish == FinishReason::Stop || total == 256, "{reply:?}");
}

#[test]
fn a_completion_echoes_its_prompt_with_offsets_into_the_text() {
    let mut model = local();
    let prompt = "陶冶 the ore. é";
    let options = AnswerOptions { logprobs: Some(2), ..sampled(4, 30) };
    let request = CompletionRequest { prompt: Prompt::Text(prompt.into()), echo: true, options };
    let mut streamed = Delta::default();
    let reply = model.complete(&request, &mut |delta| {
        streamed.text += &delta.text;
        streamed.tokens.extend(delta.tokens);
        ControlFlow::Continue(())
    });
    let reply = reply.unwrap();
    assert!(reply.text.starts_with(prompt));
    assert_eq!((&streamed.text, &streamed.tokens), (&reply.text, &reply.tokens));
    assert_eq!(reply.tokens.len(), reply.usage.prompt_tokens + reply.usage.completion_tokens);
    let bytes: Vec<u8> = reply.tokens.iter().flat_map(|token| token.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), reply.text, "the tokens' bytes are the text");
    assert_eq!(reply.tokens[0].logprob, None);
    for token in &reply.tokens[1..] {
        assert!(
            token.logprob.unwrap() < 0.0
                && token.top.len() == 2
                && token.top[0].logprob >= token.top[1].logprob
        );
        let rest: String = reply.text.chars().skip(token.text_offset).collect();
        assert!(
            token.text.contains('\u{fffd}') || rest.trim_start_matches('\u{fffd}').starts_with(&token.text),
            "{token:?} stands at its offset"
        );
    }
    // Scoring alone gives the same values as scoring and continuing.
    let score = CompletionRequest {
        options: AnswerOptions { max_tokens: Some(0), ..request.options.clone() },
        ..request
    };
    let scored = model.complete(&score, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(scored.text, prompt);
    assert_eq!(scored.tokens, reply.tokens[..scored.tokens.len()]);
    // The same prompt as ids, not echoed, gives the same continuation.
    let ids = model.tokenizer().encode(prompt);
    let plain = CompletionRequest { prompt: Prompt::Ids(ids), echo: false, options: sampled(4, 30) };
    let continued = model.complete(&plain, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(continued.text, reply.text[prompt.len()..]);
}

#[test]
fn a_folder_without_a_model_is_named() {
    let device = || Device::cpu(1, Isa::detect()).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let message = Local::load(empty.path(), device(), LocalOptions::default()).err().unwrap().to_string();
    assert!(
        message.contains(&empty.path().display().to_string()) && message.contains("tokenizer.json"),
        "{message}"
    );
    let folder = folder();
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let message = Local::load(folder.path(), device(), LocalOptions::default()).err().unwrap().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}
