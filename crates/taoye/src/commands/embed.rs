//! `taoye embed MODEL [TEXT…]`: texts into vectors, one JSON line each.

use super::load;
use crate::cli::Embed;
use crate::context::{Context, put};
use anyhow::{Context as _, Result};
use engine::Encoder;
use serde_json::json;
use std::io::BufRead;
use token::Tokenizer;

/// Texts that are computed together.
const BATCH_TEXTS: usize = 32;

/// Prints the vector of each text, or of each line of the standard input.
///
/// # Errors
/// When the model cannot be read, or a text is empty or longer than the model's context.
pub fn run(context: &Context, flags: &Embed) -> Result<()> {
    let loading = load::loading(context, &flags.load)?;
    let mut encoder = Encoder::load(&load::model(&flags.model)?, context.device()?, loading)?;
    let tokenizer = Tokenizer::load(&load::model(&flags.model)?)?;
    let mut number = 0;
    let mut embed = |texts: &[String]| -> Result<()> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| whole(&tokenizer, text)).collect();
        let documents: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let vectors = encoder.embed(&documents);
        let vectors = vectors.with_context(|| format!("texts {} to {}", number + 1, number + texts.len()))?;
        for (vector, ids) in vectors.iter().zip(&ids) {
            put(&json!({"index": number, "tokens": ids.len(), "embedding": vector}));
            number += 1;
        }
        Ok(())
    };
    if !flags.texts.is_empty() {
        return flags.texts.chunks(BATCH_TEXTS).try_for_each(embed);
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let batch: Vec<String> = lines.by_ref().take(BATCH_TEXTS).collect::<std::io::Result<_>>()?;
        if batch.is_empty() {
            return Ok(());
        }
        embed(&batch)?;
    }
}

/// The ids of a text with what the model expects around it.
fn whole(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = tokenizer.opening_ids().to_vec();
    tokenizer.encode_into(text, &mut ids);
    ids.extend_from_slice(tokenizer.closing_ids());
    ids
}
