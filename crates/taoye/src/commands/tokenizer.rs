//! `taoye tokenizer train | encode`.

use super::texts;
use crate::cli::{Tokenizer as Command, TokenizerEncode, TokenizerTrain};
use crate::context::Context;
use anyhow::Result;
use serde_json::json;
use std::io::Read;
use token::{Tokenizer, TrainOptions, WordCounts};

/// Texts are counted in batches of about this many bytes, so that memory holds one batch and the different words.
const BATCH_BYTES: usize = 16 << 20;

/// Runs one of the commands.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn run(context: &Context, command: &Command) -> Result<()> {
    match command {
        Command::Train(flags) => train(context, flags),
        Command::Encode(flags) => encode(context, flags),
    }
}

fn train(context: &Context, flags: &TokenizerTrain) -> Result<()> {
    let options = TrainOptions { vocab_size: flags.vocab_size, ..TrainOptions::default() };
    let (mut words, mut batch, mut batch_bytes) = (WordCounts::default(), Vec::new(), 0);
    let bytes = texts::visit(context, &flags.inputs, u64::MAX, &mut |text| {
        batch_bytes += text.len();
        batch.push(text);
        if batch_bytes >= BATCH_BYTES {
            words.add(&batch, options.digits, context.threads);
            batch.clear();
            batch_bytes = 0;
        }
    })?;
    words.add(&batch, options.digits, context.threads);
    let tokenizer = Tokenizer::train_on_counts(words, &options)?;
    base::fs::create_folder(&flags.out)?;
    tokenizer.save(&flags.out)?;
    let out = flags.out.display();
    let text = format!("{out}: {} entries from {:.1} MB of text", tokenizer.vocab_size(), bytes as f64 / 1e6);
    context.print(&text, &json!({"vocab_size": tokenizer.vocab_size(), "bytes": bytes, "out": flags.out}));
    Ok(())
}

fn encode(context: &Context, flags: &TokenizerEncode) -> Result<()> {
    let tokenizer = Tokenizer::load(&flags.tokenizer)?;
    let text = match &flags.text {
        Some(text) => text.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
    };
    let ids = tokenizer.encode(&text);
    let pieces: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id])).collect();
    let lines: Vec<String> =
        ids.iter().zip(&pieces).map(|(id, piece)| format!("{id:>7}  {piece:?}")).collect();
    let summary = format!("{}\n{} tokens, {} bytes", lines.join("\n"), ids.len(), text.len());
    context.print(&summary, &json!({"ids": ids, "tokens": pieces, "bytes": text.len()}));
    Ok(())
}
