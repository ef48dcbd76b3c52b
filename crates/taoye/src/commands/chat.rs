//! `taoye chat MODEL`.

use super::load;
use crate::cli::{Chat, SamplingFlags};
use crate::context::Context;
use anyhow::Result;
use chat::terminal::{self, TerminalOptions};
use chat::{AnswerOptions, Local, LocalOptions, Sampling};

/// Talks in the terminal until the input ends.
///
/// # Errors
/// When the model cannot be loaded, or the terminal not be used.
pub fn run(context: &Context, flags: &Chat) -> Result<()> {
    let options = LocalOptions {
        adapter: flags.adapter.clone(),
        draft: flags.draft.as_deref().map(load::model).transpose()?,
        engine: load::options(&flags.load),
        loading: load::loading(context, &flags.load)?,
        name: None,
    };
    let mut local = Local::load(&load::model(&flags.model)?, context.device()?, options)?;
    let options = TerminalOptions { system: flags.system.clone(), answer: answer(&flags.sampling) };
    Ok(terminal::run(&mut local, options)?)
}

fn answer(flags: &SamplingFlags) -> AnswerOptions {
    let sampling = Sampling {
        temperature: flags.temperature,
        top_k: flags.top_k,
        top_p: flags.top_p,
        seed: flags.seed,
        ..Sampling::default()
    };
    AnswerOptions { max_tokens: flags.max_tokens, sampling, ..AnswerOptions::default() }
}
