//! The stages from documents to shards: the tokenizer, and documents and tasks as token ids.

use super::{Interrupted, Run, save_tokenizer};
use anyhow::{Context as _, Result, bail};
use base::progress::{Progress, Unit};
use corpus::{HELD_OUT_FILE, TRAIN_FILE, read_documents};
use eval::{accuracy, tasks};
use std::path::{Path, PathBuf};
use token::shard::{Loss, Writer};
use token::{Tokenizer, TrainOptions};

/// Shard of the documents to train on.
pub const TRAIN_SHARD: &str = "train.shard";
/// Shard of the held-out documents.
pub const HELD_OUT_SHARD: &str = "heldout.shard";
/// Shard of task conversations.
pub const TASKS_SHARD: &str = "tasks.shard";
/// Documents that are tokenised at once.
const DOCUMENTS_AT_ONCE: usize = 512;
/// Task conversations that the tokenizer's training text holds.
const TASKS_IN_SAMPLE: u64 = 4000;

impl Run<'_> {
    /// Trains the tokenizer, or reads the one trained before.
    pub(super) fn tokenizer(&mut self) -> Result<Tokenizer> {
        let part = self.recipe.tokenizer.clone();
        let stated = format!("{part:?} {}", self.recipe.seed);
        let fingerprint = base::run::fingerprint([self.fingerprint_of("documents").as_str(), &stated]);
        let folder = self.tokenizer_folder();
        if self.is_done("tokenizer", &fingerprint) {
            return Ok(Tokenizer::load(&folder)?);
        }
        let sample = self.tokenizer_sample(part.sample_megabytes.saturating_mul(1_000_000))?;
        let options = TrainOptions { vocab_size: part.vocab_size, ..TrainOptions::default() };
        let mut tokenizer = Tokenizer::train(&sample, &options, self.context.threads)?;
        tokenizer.settings.model_max_length = Some(self.recipe.model.max_positions);
        save_tokenizer(&tokenizer, &folder)?;
        let bytes: usize = sample.iter().map(String::len).sum();
        let text = format!("tokenizer: {} entries from {:.1} MB", tokenizer.vocab_size(), bytes as f64 / 1e6);
        self.context.say(&text);
        self.folder.mark_stage("tokenizer", &fingerprint, &[PathBuf::from("tokenizer")])?;
        Ok(tokenizer)
    }

    /// Documents spread evenly over the corpus, and tasks with each of their characters on its own.
    fn tokenizer_sample(&self, budget_bytes: u64) -> Result<Vec<String>> {
        let path = self.folder.join(TRAIN_FILE);
        let mut total_bytes = 0;
        for document in read_documents(&path)? {
            total_bytes += document?.text.len() as u64;
        }
        let share = budget_bytes as f64 / total_bytes.max(1) as f64;
        let (mut sample, mut seen, mut taken) = (Vec::new(), 0.0, 0.0);
        for document in read_documents(&path)? {
            let text = document?.text;
            seen += text.len() as f64;
            if share >= 1.0 || taken + text.len() as f64 / 2.0 <= seen * share {
                taken += text.len() as f64;
                sample.push(text);
            }
        }
        for index in 0..TASKS_IN_SAMPLE {
            let item = tasks::train_item(self.recipe.seed, index);
            sample.push(tasks::tokenizer_text(&item));
        }
        for character in tasks::characters() {
            sample.push(format!("{character}\n").repeat(500));
        }
        Ok(sample)
    }

    /// Writes the documents as token ids.
    pub(super) fn shards(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let parts = [self.fingerprint_of("documents"), tokenizer.fingerprint()];
        let fingerprint = base::run::fingerprint(parts.iter().map(String::as_str));
        if self.is_done("shards", &fingerprint) {
            return Ok(());
        }
        let ends = Ends::of(tokenizer)?;
        let mut progress = Progress::start(self.context.progress, "tokens", Unit::Bytes, None);
        let mut bytes = 0;
        for (documents, shard) in [(TRAIN_FILE, TRAIN_SHARD), (HELD_OUT_FILE, HELD_OUT_SHARD)] {
            let (documents, shard) = (self.folder.join(documents), self.folder.join(shard));
            write_shard(&documents, &shard, (tokenizer, self.context.threads), ends, &mut |more| {
                bytes += more;
                progress.set(bytes);
            })?;
        }
        progress.finish();
        self.folder.mark_stage("shards", &fingerprint, &[TRAIN_SHARD, HELD_OUT_SHARD].map(PathBuf::from))?;
        Ok(())
    }

    /// Writes task conversations as token ids, enough for `tokens`, with the loss on the answers only.
    pub(super) fn task_shard(&self, tokenizer: &Tokenizer, tokens: u64) -> Result<PathBuf> {
        let template = tokenizer.chat_template()?;
        let path = self.folder.join(TASKS_SHARD);
        let mut writer = Writer::new(&path, tokenizer, Loss::Masked);
        let items = self.recipe.finetune.items as u64;
        let mut index = 0;
        while (items > 0 && index < items) || (items == 0 && writer.tokens() < tokens) {
            if base::interrupt::requested() {
                bail!(Interrupted);
            }
            let item = tasks::train_item(self.recipe.seed, index);
            let ids = tokenizer.encode_chat(&template, &accuracy::conversation(&item), false)?;
            writer.add(&ids.ids, &ids.loss_mask)?;
            index += 1;
        }
        writer.finish()?;
        Ok(path)
    }
}

/// What encloses each document in a shard: a model learns from the first id what begins a document, and to end one
/// with the second.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub start: u32,
    pub end: u32,
}

impl Ends {
    /// `<|endoftext|>` on both sides.
    fn of(tokenizer: &Tokenizer) -> Result<Ends> {
        let end = tokenizer.eos_id().context("the tokenizer has no end-of-text token")?;
        Ok(Ends { start: end, end })
    }
}

/// Writes documents as token ids, each between its ends.
///
/// # Errors
/// When a file cannot be read or written; Ctrl-C is [`Interrupted`].
pub(super) fn write_shard(
    documents: &Path,
    shard: &Path,
    (tokenizer, threads): (&Tokenizer, usize),
    ends: Ends,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut writer = Writer::new(shard, tokenizer, Loss::Everywhere);
    let mut documents = read_documents(documents)?;
    loop {
        if base::interrupt::requested() {
            bail!(Interrupted);
        }
        let texts = documents.by_ref().take(DOCUMENTS_AT_ONCE).map(|document| Ok(document?.text));
        let texts = texts.collect::<Result<Vec<String>>>()?;
        if texts.is_empty() {
            break;
        }
        for mut ids in tokenizer.encode_batch(&texts, threads) {
            ids.insert(0, ends.start);
            ids.push(ends.end);
            writer.add(&ids, &[])?;
        }
        on_bytes(texts.iter().map(|text| text.len() as u64).sum());
    }
    Ok(writer.finish()?)
}
