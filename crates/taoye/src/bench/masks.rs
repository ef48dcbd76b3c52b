//! `taoye bench masks`: what constrained decoding costs for each token of an answer, at a model's vocabulary.

use crate::cli::BenchMasks;
use crate::commands::load;
use crate::context::Context;
use anyhow::{Context as _, Result, ensure};
use base::seed::Rng;
use chat::{Codec, Structure, Structures};
use engine::{Constraint, Mask};
use serde_json::{Value, json};
use std::time::Instant;
use token::Tokenizer;

/// Tokens of an answer after which a walk is given up.
const TOKENS_MAX: usize = 400;
/// The stream of random numbers, apart from every other use of the same seed.
const STREAM: u64 = 0x6d61_736b;
/// What is measured where no schema is given: a record such as data is extracted into.
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 80},
        "kind": {"enum": ["invoice", "receipt", "contract", "letter", "合同", "发票"]},
        "date": {"type": "string", "format": "date"},
        "total": {"type": "number", "minimum": 0},
        "paid": {"type": "boolean"},
        "reference": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4,8}$"},
        "parties": {"type": "array", "minItems": 1, "maxItems": 4, "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "role": {"enum": ["buyer", "seller", "other"]},
                "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]}
            },
            "required": ["name", "role"],
            "additionalProperties": false
        }},
        "notes": {"type": "array", "maxItems": 5, "items": {"type": "string"}},
        "extra": {"type": "object", "additionalProperties": {"type": ["string", "integer", "null"]}}
    },
    "required": ["title", "kind", "date", "total", "parties"],
    "additionalProperties": false
}"#;

/// Microseconds of what was timed.
#[derive(Default)]
struct Times {
    tokens: Vec<f64>,
    prepare: Vec<f64>,
}

/// Measures and prints.
///
/// # Errors
/// When the tokenizer or the schema cannot be read, or the schema not be enforced.
pub fn run(context: &Context, flags: &BenchMasks) -> Result<()> {
    ensure!(flags.answers > 0, "--answers: at least one is needed");
    let codec = Codec::new(Tokenizer::load(&load::model(&flags.model)?)?)?;
    let structures = Structures::new(&codec, codec.stop_ids());
    let schema = match &flags.schema {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?,
        None => SCHEMA.to_owned(),
    };
    let structure =
        Structure::JsonSchema(serde_json::from_str::<Value>(&schema).context("the schema is no JSON")?);
    let started = Instant::now();
    structures.constraint(&Structure::Regex("a".into()))?;
    let sort_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut times = Times::default();
    for answer in 0..flags.answers {
        let started = Instant::now();
        let constraint = structures.constraint(&structure)?;
        times.prepare.push(started.elapsed().as_secs_f64() * 1e6);
        walk(&codec, constraint, (flags.seed, answer), &mut times)?;
    }
    times.tokens.sort_by(f64::total_cmp);
    times.prepare.sort_by(f64::total_cmp);
    let (p50, p99) = (quantile(&times.tokens, 0.5), quantile(&times.tokens, 0.99));
    let prepare_ms = quantile(&times.prepare, 0.5) / 1e3;
    let vocabulary = codec.tokenizer().vocab_size();
    let json = json!({
        "cpu": base::machine::cpu_name(), "isa": context.isa().name(), "vocabulary": vocabulary,
        "answers": flags.answers, "tokens": times.tokens.len(), "p50_us": p50, "p99_us": p99,
        "max_us": times.tokens.last(), "prepare_ms": prepare_ms, "sort_ms": sort_ms,
    });
    let text = format!(
        "{}\n{} tokens of {} answers over a vocabulary of {vocabulary}: p50 {p50:.1} µs, p99 {p99:.1} µs a token\n\
         once for the model {sort_ms:.0} ms, once for an answer {prepare_ms:.2} ms",
        base::machine::cpu_name(),
        times.tokens.len(),
        flags.answers,
    );
    context.print(&text, &json);
    Ok(())
}

/// Goes through one answer whose tokens are drawn at random among those that are allowed, those that close something more and
/// more often.
fn walk(
    codec: &Codec,
    mut constraint: Box<dyn Constraint>,
    (seed, answer): (u64, usize),
    times: &mut Times,
) -> Result<()> {
    let (tokenizer, ends, mut mask) = (codec.tokenizer(), codec.stop_ids(), Mask::default());
    let failed = |reason: String| anyhow::anyhow!("the walk through answer {answer} failed: {reason}");
    for index in 0..TOKENS_MAX {
        let started = Instant::now();
        constraint.allowed(&mut mask).map_err(failed)?;
        let masked = started.elapsed();
        let closes = |id: &u32| {
            let bytes = tokenizer.token_bytes(*id).unwrap_or_default();
            !bytes.is_empty() && bytes.iter().all(|byte| b"\"}],".contains(byte))
        };
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| mask.allows(id)).collect();
        let closing: Vec<u32> = allowed.iter().copied().filter(closes).collect();
        let mut draw = Rng::at(seed, STREAM, (answer * TOKENS_MAX + index) as u64);
        let of = if !closing.is_empty() && draw.uniform_f64() < 0.3 { &closing } else { &allowed };
        let id = of.get((draw.uniform_f64() * of.len() as f64) as usize).copied();
        let id = id.ok_or_else(|| failed("no token is allowed".to_owned()))?;
        if ends.contains(&id) {
            return Ok(());
        }
        let started = Instant::now();
        constraint.accept(id).map_err(failed)?;
        times.tokens.push((masked + started.elapsed()).as_secs_f64() * 1e6);
    }
    Ok(())
}

/// What this share of all, in ascending order, stays at or below.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let index = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
}
