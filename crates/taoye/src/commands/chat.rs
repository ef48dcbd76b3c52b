//! `taoye chat MODEL`.

use super::load;
use crate::cli::{Chat, SamplingFlags, StructureFlags};
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use chat::terminal::{self, TerminalOptions};
use chat::{AnswerOptions, Dry, Local, LocalOptions, Sampling, Structure};
use engine::Options;
use std::path::Path;

/// Talks in the terminal until the input ends.
///
/// # Errors
/// When the model cannot be loaded, an answer cannot be held to the structure, or the terminal not be used.
pub fn run(context: &Context, flags: &Chat) -> Result<()> {
    let options = LocalOptions {
        adapter: flags.adapter.clone(),
        draft: flags.draft.as_deref().map(load::model).transpose()?,
        engine: Options { guess_rows: flags.draft_max, ..load::options(&flags.load) },
        loading: load::loading(context, &flags.load)?,
        name: None,
    };
    // A mistake in a file is to be known before a large model is read.
    let structure = structure(&flags.structure)?;
    let mut local = Local::load(&load::model(&flags.model)?, context.device()?, options)?;
    let mut answer = answer(&local, &flags.sampling)?;
    if let Some((flag, structure)) = structure {
        if answer.ignore_end {
            bail!("--ignore-eos: an answer that {flag} holds to a structure ends where the structure does");
        }
        answer.constraint = Some(local.structures().constraint(&structure).context(flag)?);
    }
    let options = TerminalOptions { system: flags.system.clone(), answer };
    Ok(terminal::run(&mut local, options)?)
}

fn answer(local: &Local, flags: &SamplingFlags) -> Result<AnswerOptions> {
    let breakers = Some(&flags.dry_sequence_breakers[..]).filter(|texts| !texts.is_empty());
    let dry = match flags.dry_multiplier == 0.0 {
        true => None,
        false => Some(Dry {
            multiplier: flags.dry_multiplier,
            base: flags.dry_base,
            allowed_length: flags.dry_allowed_length,
            last_n: flags.dry_penalty_last_n,
            breakers: local.codec().breaker_ids(breakers)?,
        }),
    };
    let sampling = Sampling {
        temperature: flags.temperature,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        typical_p: flags.typical_p,
        repetition_penalty: flags.repeat_penalty,
        presence_penalty: flags.presence_penalty,
        frequency_penalty: flags.frequency_penalty,
        logit_bias: flags.logit_bias.clone(),
        dry,
        seed: flags.seed,
    };
    Ok(AnswerOptions {
        max_tokens: flags.max_tokens,
        sampling,
        stop: flags.stop.clone(),
        stop_ids: flags.stop_token_ids.clone(),
        ignore_end: flags.ignore_eos,
        ..AnswerOptions::default()
    })
}

/// What answers are held to, and the flag that says so.
fn structure(flags: &StructureFlags) -> Result<Option<(&'static str, Structure)>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("{}", path.display()));
    let schema = |text: &str, flag: &'static str| -> Result<_> {
        Ok((
            flag,
            Structure::JsonSchema(serde_json::from_str(text).with_context(|| format!("{flag} is no JSON"))?),
        ))
    };
    Ok(Some(if let Some(text) = &flags.json_schema {
        schema(text, "--json-schema")?
    } else if let Some(path) = &flags.json_schema_file {
        schema(&read(path)?, "--json-schema-file")?
    } else if let Some(text) = &flags.grammar {
        ("--grammar", Structure::Lark(text.clone()))
    } else if let Some(path) = &flags.grammar_file {
        ("--grammar-file", Structure::Lark(read(path)?))
    } else if let Some(pattern) = &flags.regex {
        ("--regex", Structure::Regex(pattern.clone()))
    } else {
        return Ok(None);
    }))
}
