//! Whatever a model would like to say, what a structure lets through is valid.
#![allow(clippy::unwrap_used)]

mod walks;

use std::ops::ControlFlow;
use std::path::Path;

use chat::{
    AnswerOptions, ChatModel, ChatRequest, FinishReason, Local, LocalOptions, Message, Role, Sampling,
    Structure,
};
use engine::{Constraint, Device, Isa};
use model::{Config, Parameters};
use serde_json::{Value, json};
use walks::Draws;

/// A random model whose tokens are pieces of JSON and bytes.
fn local() -> Local {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path());
    Local::load(folder.path(), Device::cpu(1, Isa::detect()).unwrap(), LocalOptions::default()).unwrap()
}

fn save(folder: &Path) {
    let tokenizer = walks::tokenizer("", &[]);
    let config = Config { max_positions: 512, ..Config::llama(tokenizer.vocab_size(), 24, 1, 2) };
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let parameters = Parameters::init(&device, config, 3);
    parameters.save(folder).unwrap();
    tokenizer.save(folder).unwrap();
}

/// What says whether a document is valid, formats included.
fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap()
}

/// The text of a walk.
fn walk(model: &Local, constraint: Box<dyn Constraint>, draws: &mut Draws) -> Option<String> {
    let ids = walks::walk((model.tokenizer(), model.stop_ids()), constraint, &[], draws)?;
    Some(model.tokenizer().decode(&ids))
}

#[test]
fn random_walks_through_many_schemas_give_valid_documents() {
    let (model, mut draws) = (local(), Draws(11));
    let (mut ended, mut walks) = (0, 0);
    for line in include_str!("schemas.jsonl").lines() {
        let schema: Value = serde_json::from_str(line).unwrap();
        let validator = validator(&schema);
        let constraint = model.structures().constraint(&Structure::JsonSchema(schema));
        let constraint = constraint.unwrap_or_else(|error| panic!("{error}: {line}"));
        for _ in 0..6 {
            walks += 1;
            let Some(text) = walk(&model, constraint.clone(), &mut draws) else { continue };
            let document: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?} of {line}"));
            if let Err(error) = validator.validate(&document) {
                panic!("{error}: {text} of {line}");
            }
            ended += 1;
        }
    }
    assert!(walks >= 1_000 && ended * 100 >= walks * 95, "{ended} of {walks} walks ended");
}

#[test]
fn regular_expressions_and_grammars_hold_too() {
    let (model, mut draws) = (local(), Draws(5));
    let mut check = |structure: Structure, valid: &dyn Fn(&str) -> bool| {
        for _ in 0..20 {
            let text = walk(&model, model.structures().constraint(&structure).unwrap(), &mut draws).unwrap();
            assert!(valid(&text), "{text:?} of {structure:?}");
        }
    };
    check(Structure::Regex("(red|green|blue)[0-9]{1,3}".into()), &|text| {
        let digits = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        ["red", "green", "blue"].contains(&&text[..text.len() - digits.len()])
            && (1..=3).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    let sum = "start: term (\"+\" term)*\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]{1,2}/\n";
    check(Structure::Lark(sum.into()), &|text| {
        let depth = text.chars().try_fold(0i32, |depth, c| match c {
            '(' => Some(depth + 1),
            ')' => (depth > 0).then_some(depth - 1),
            '+' | '0'..='9' => Some(depth),
            _ => None,
        });
        depth == Some(0) && !text.contains("++") && !text.contains("()")
    });
    check(Structure::JsonObject, &|text| {
        serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
    });
}

#[test]
fn what_cannot_be_enforced_is_named_with_its_place() {
    let model = local();
    let check = |structure: Structure, expected: &str| {
        let message = model.structures().constraint(&structure).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let keyword = |name: &str, value: Value| {
        let inner = json!({"type": "array", name: value});
        let schema = json!({"type": "object", "properties": {"tags": inner}});
        let expected = format!("the schema's keyword `{name}` at #/properties/tags cannot be enforced");
        check(Structure::JsonSchema(schema), &expected);
    };
    keyword("uniqueItems", json!(true));
    keyword("contains", json!({"type": "string"}));
    keyword("not", json!({}));
    keyword("if", json!({}));
    keyword("dependentRequired", json!({}));
    keyword("unevaluatedItems", json!(false));
    keyword("maxLenght", json!(3));
    keyword("x-guidance", json!({"lenient": true}));
    keyword("exclusiveMinimum", json!(true));
    check(Structure::JsonSchema(json!({"type": "string", "format": "semver"})), "semver");
    check(Structure::JsonSchema(json!("text")), "the schema at # is no object");
    check(Structure::JsonSchema(json!({"$ref": "#/$defs/nowhere"})), "nowhere");
    check(Structure::Regex("(unclosed".into()), "");
    check(Structure::Lark("begin: \"a\"".into()), "start");
    let options = AnswerOptions {
        ignore_end: true,
        constraint: Some(model.structures().constraint(&Structure::JsonObject).unwrap()),
        ..AnswerOptions::default()
    };
    let request =
        ChatRequest { messages: vec![Message::new(Role::User, "a")], options, ..ChatRequest::default() };
    let message = local().reply(&request, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(message.starts_with("ignore_eos: "), "{message}");
}

#[test]
fn answers_of_a_model_have_their_structure() {
    let mut model = local();
    let schema = json!({
        "type": "object",
        "properties": {"kind": {"enum": ["ore", "clay"]}, "count": {"type": "integer", "minimum": 3, "maximum": 40}},
        "required": ["kind", "count"],
        "additionalProperties": false,
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let requests: Vec<ChatRequest> = (0..10)
        .map(|seed| {
            let sampling = Sampling { temperature: (seed % 3) as f32, seed, ..Sampling::default() };
            let structure = Structure::JsonSchema(schema.clone());
            let constraint = Some(model.structures().constraint(&structure).unwrap());
            let options =
                AnswerOptions { max_tokens: Some(300), sampling, constraint, ..AnswerOptions::default() };
            let messages = vec![Message::new(Role::User, "How much?")];
            ChatRequest { messages, options, ..ChatRequest::default() }
        })
        .collect();
    let replies = model.reply_many(&requests).unwrap();
    let ended: Vec<_> = replies.iter().filter(|reply| reply.finish == FinishReason::Stop).collect();
    assert!(ended.len() >= 8, "{replies:?}");
    for reply in ended {
        let document: Value = serde_json::from_str(&reply.message.content).unwrap();
        assert!(validator.is_valid(&document), "{document}");
    }
}

#[test]
fn guesses_change_no_answer_that_has_a_structure() {
    // Records of a few words, which repeat themselves, so that looking them up is often right.
    let item = json!({"type": "object", "properties": {"kind": {"enum": ["ore", "clay"]}, "hard": {"const": true}},
        "required": ["kind", "hard"], "additionalProperties": false});
    let schema = json!({"type": "array", "items": item, "minItems": 6, "maxItems": 8});
    let validator = validator(&schema);
    let folder = tempfile::tempdir().unwrap();
    save(folder.path());
    let replies = |guess_rows: usize, draft: bool| {
        let engine = engine::Options { guess_rows, ..engine::Options::default() };
        let draft = draft.then(|| folder.path().to_owned());
        let options = LocalOptions { engine, draft, ..LocalOptions::default() };
        let mut model = Local::load(folder.path(), Device::cpu(1, Isa::detect()).unwrap(), options).unwrap();
        let requests: Vec<ChatRequest> = (0..6)
            .map(|seed| {
                let sampling = Sampling { temperature: (seed % 2) as f32, seed, ..Sampling::default() };
                let constraint =
                    model.structures().constraint(&Structure::JsonSchema(schema.clone())).unwrap();
                let constraint = Some(constraint);
                let options =
                    AnswerOptions { max_tokens: Some(460), sampling, constraint, ..AnswerOptions::default() };
                ChatRequest {
                    messages: vec![Message::new(Role::User, "Which?")],
                    options,
                    ..ChatRequest::default()
                }
            })
            .collect();
        (model.reply_many(&requests).unwrap(), model.statistics())
    };
    let (plain, statistics) = replies(0, false);
    assert_eq!(statistics.guessed_tokens, 0);
    let ended = plain.iter().filter(|reply| reply.finish == FinishReason::Stop);
    let valid =
        |reply: &&chat::Reply| validator.is_valid(&serde_json::from_str(&reply.message.content).unwrap());
    assert!(ended.clone().count() >= 4 && ended.clone().all(|reply| valid(&reply)), "{plain:?}");
    for draft in [false, true] {
        let (guessed, statistics) = replies(16, draft);
        assert_eq!(guessed, plain);
        assert!(statistics.guessed_tokens > 0, "{statistics:?}");
        assert!(draft || statistics.right_tokens > 0, "{statistics:?}");
    }
}

#[test]
fn hostile_structures_are_refused_or_bounded() {
    let model = local();
    let mut draws = Draws(1);
    let nested = |depth: usize| {
        (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}))
    };
    let structures = [
        Structure::JsonSchema(json!({"$ref": "#"})),
        Structure::JsonSchema(json!({"allOf": [{"$ref": "#"}]})),
        Structure::JsonSchema(json!({"anyOf": [{"$ref": "#"}, {"$ref": "#/anyOf/0"}]})),
        Structure::JsonSchema(
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        Structure::JsonSchema(
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ),
        Structure::JsonSchema(nested(100)),
        Structure::JsonSchema(json!({"type": "string", "pattern": "^(a{1000}){1000}$"})),
        Structure::JsonSchema(json!({"type": "string", "minLength": 1_000_000_000})),
        Structure::JsonSchema(json!({"type": "array", "items": {"type": "null"}, "minItems": 1_000_000_000})),
        Structure::JsonSchema(json!({"type": "integer", "multipleOf": 1e-300})),
        Structure::JsonSchema(json!({"type": "integer", "minimum": 5, "maximum": 4})),
        Structure::Regex("(a|aa)*".repeat(200)),
        Structure::Regex("((a{100}){100}){100}".into()),
        Structure::Lark("start: start".into()),
        Structure::Lark("start: start start | \"\"".into()),
        Structure::Lark(format!("start: {}\"a\"{}", "(".repeat(2_000), ")".repeat(2_000))),
        Structure::Choice(Vec::new()),
        Structure::Choice(vec![String::new()]),
    ];
    for structure in structures {
        let begin = std::time::Instant::now();
        // What is not refused must be harmless to walk through for a while.
        if let Ok(mut constraint) = model.structures().constraint(&structure) {
            let mut mask = engine::Mask::default();
            for _ in 0..20 {
                let Ok(()) = constraint.allowed(&mut mask) else { break };
                let allowed: Vec<u32> =
                    (0..model.tokenizer().vocab_size() as u32).filter(|&id| mask.allows(id)).collect();
                let Some(&id) = allowed.get((draws.unit() * allowed.len() as f64) as usize) else { break };
                if model.stop_ids().contains(&id) || constraint.accept(id).is_err() {
                    break;
                }
            }
        }
        assert!(begin.elapsed().as_secs() < 20, "{structure:?}");
    }
}
