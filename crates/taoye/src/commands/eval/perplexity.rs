//! `taoye eval perplexity MODEL FILE`.

use crate::cli::EvalPerplexity;
use crate::commands::load;
use crate::context::Context;
use anyhow::{Context as _, Result};
use base::progress::{Progress, Unit};
use engine::{Chunk, Engine, LogitRows, Options};
use eval::perplexity::{Base, BaseReader, BaseWriter, OnLogits, Options as Windows, perplexity};
use serde_json::json;
use std::fmt::Write;
use token::Tokenizer;

/// Rows whose logits are held at once.
const LOGIT_ROWS: usize = 128;

/// Measures.
///
/// # Errors
/// When the model or a file cannot be read, or the text is too short.
pub fn run(context: &Context, flags: &EvalPerplexity) -> Result<()> {
    let text = base::fs::read_text(&flags.text)?;
    let tokenizer = Tokenizer::load(&load::model(&flags.model)?)?;
    let options =
        Options { max_sequences: 1, context_tokens: Some(flags.window), ..load::options(&flags.load) };
    let loading = load::loading(context, &flags.load)?;
    let mut engine = Engine::load(&load::model(&flags.model)?, context.device()?, options, loading)
        .with_context(|| format!("{}", flags.model.display()))?;
    let mut ids = tokenizer.opening_ids().to_vec();
    let begin_id = ids.first().copied();
    tokenizer.encode_into(&text, &mut ids);
    let base = match (&flags.save_base, &flags.base) {
        (Some(path), _) => Base::Write(BaseWriter::create(path, engine.config().vocab_size)?),
        (None, Some(path)) => Base::Read(BaseReader::open(path)?),
        (None, None) => Base::None,
    };
    let windows_max = flags.windows.unwrap_or(usize::MAX);
    let windows = Windows { context: flags.window, windows_max, begin_id };
    let count = (ids.len() / flags.window.max(1)).min(windows_max);
    let unit = Unit::Count("windows");
    let mut progress = Progress::start(context.progress, "perplexity", unit, Some(count as u64));
    let found = perplexity(&ids, windows, base, |window, first, on_logits| {
        let outcome = score(&mut engine, window, first, on_logits);
        progress.add(1);
        outcome.map_err(|error| error.into_boxed_dyn_error())
    })?;
    progress.finish();
    let mut report = format!(
        "perplexity {:.4} ± {:.4} ({:.4} bits a token) on {} tokens in {} windows of {}",
        found.perplexity,
        found.standard_error,
        found.bits_per_token,
        found.tokens,
        found.windows,
        flags.window
    );
    let bytes_per_token = text.len() as f64 / ids.len() as f64;
    let bits_per_byte = found.bits_per_token / bytes_per_token;
    let _ = write!(
        report,
        "\n{bits_per_byte:.4} bits per byte, at the text's {bytes_per_token:.3} bytes a token"
    );
    if let Some(found) = &found.divergence {
        let _ = write!(
            report,
            "\nbeside a perplexity of {:.4}: KL divergence {:.5} nats (99th percentile {:.4}, largest {:.3}), \
             |log-probability difference| {:.5}, same most probable token {:.2} %",
            found.base_perplexity,
            found.kl_divergence,
            found.kl_divergence_p99,
            found.kl_divergence_max,
            found.log_prob_difference,
            100.0 * found.same_top
        );
    }
    context.print(&report, &json!({"bits_per_byte": bits_per_byte, "perplexity": found}));
    Ok(())
}

/// Computes a window and hands out the logits of the rows from `first` on, but for the last.
fn score(engine: &mut Engine, window: &[u32], first: usize, on_logits: OnLogits<'_>) -> Result<()> {
    let mut sequence = engine.sequence(window.len());
    sequence.extend(&window[..window.len() - 1]);
    while sequence.pending() > 0 {
        let done = sequence.computed();
        let (rows, logits) = match done < first {
            true => (first - done, LogitRows::None),
            false => (sequence.pending().min(LOGIT_ROWS), LogitRows::All),
        };
        let mut chunks = [Chunk { sequence, rows, logits }];
        for (index, row) in engine.step(&mut chunks)?.of(0).iter().enumerate() {
            on_logits(done + index, row)?;
        }
        let [chunk] = chunks;
        sequence = chunk.sequence;
    }
    Ok(())
}
