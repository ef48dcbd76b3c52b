//! `taoye eval bits | tasks | perplexity`.

mod perplexity;

use super::texts;
use crate::cli::{Eval, EvalBits, EvalTasks};
use crate::commands::load;
use crate::context::Context;
use crate::pipeline::scores;
use anyhow::Result;
use chat::{Local, LocalOptions};
use eval::{bits, tasks};
use model::Parameters;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use token::Tokenizer;

/// Scores a model.
///
/// # Errors
/// When the model or the input cannot be read.
pub fn run(context: &Context, command: &Eval) -> Result<()> {
    base::interrupt::install()?;
    match command {
        Eval::Bits(flags) => bits_per_byte(context, flags),
        Eval::Tasks(flags) => tasks_accuracy(context, flags),
        Eval::Perplexity(flags) => perplexity::run(context, flags),
    }
}

fn bits_per_byte(context: &Context, flags: &EvalBits) -> Result<()> {
    let texts = texts::read(context, &flags.inputs, u64::MAX)?;
    let lengths: Vec<u64> = texts.iter().map(|text| text.len() as u64).collect();
    let chosen = bits::choose_documents(&lengths, flags.kilobytes.saturating_mul(1000), 1);
    let texts: Vec<String> = chosen.into_iter().map(|index| texts[index].clone()).collect();
    let device = context.device()?;
    let parameters = Parameters::load(&device, &load::model(&flags.model)?)?;
    let tokenizer = Tokenizer::load(&load::model(&flags.model)?)?;
    let found =
        scores::bits_of(&device, &parameters, &tokenizer, &texts, scores::widest(&parameters, &tokenizer)?)?;
    let text = format!(
        "{:.4} bits per byte ({:.3} × zstd -19: {:.4}) on {} documents, {} bytes, {} tokens",
        found.bits_per_byte,
        found.ratio,
        found.zstd_bits_per_byte,
        found.documents,
        found.bytes,
        found.tokens
    );
    context.print(&text, &serde_json::to_value(found)?);
    Ok(())
}

fn tasks_accuracy(context: &Context, flags: &EvalTasks) -> Result<()> {
    let mut local = Local::load(&load::model(&flags.model)?, context.device()?, LocalOptions::default())?;
    let items = tasks::test_items(flags.seed, flags.items);
    let (report, exchanges) = scores::ask(&mut local, &items)?;
    let mut text = String::new();
    for score in &report.families {
        let (family, percent) = (score.family.name(), 100.0 * score.accuracy());
        let _ = writeln!(text, "{family:<20}{percent:>6.1} %  ({} of {})", score.correct, score.items);
    }
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    for (item, exchange) in items.iter().zip(&exchanges) {
        let count = shown.entry(item.family.name()).or_default();
        if exchange.correct == Some(false) && *count < flags.show_wrong {
            *count += 1;
            let _ = writeln!(
                text,
                "\n{}\nexpected:\n{}\nfound:\n{}",
                item.question, item.answer, exchange.answer
            );
        }
    }
    let mean = report.mean_accuracy();
    let _ = write!(text, "{:<20}{:>6.1} %", "mean", 100.0 * mean);
    context.print(&text, &json!({"accuracy": mean, "families": report}));
    Ok(())
}
