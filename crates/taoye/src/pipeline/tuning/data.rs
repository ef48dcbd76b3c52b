//! The stage from files to shards of token ids, for a model that exists. What the files hold decides how they are
//! read: documents as a corpus, conversations with the loss on the assistant's turns. It must not know training.

use super::{Base, chat};
use crate::pipeline::prepare::{HELD_OUT_SHARD, TRAIN_SHARD, write_shard};
use crate::pipeline::{Interrupted, Run, documents};
use crate::recipe::{DataKind, Tuning};
use anyhow::{Context as _, Result, bail};
use base::progress::{Progress, Unit};
use corpus::{HELD_OUT_FILE, Listing, Options, TRAIN_FILE, list_folders, read_documents};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use token::shard::{Loss, Writer};
use token::{ChatFile, ChatTemplate, Conversation, Message, Role, Tokenizer};

/// Share of the data that is held out.
const HELD_OUT_SHARE: f64 = 0.05;
/// What the stage leaves beside the shards.
const DATA: &str = "data.json";
/// Folder of the documents of `eval_data`.
const EVALUATION: &str = "evaluation";
/// Prompts that samples are made from.
const PROMPTS: usize = 3;
/// Characters of a document that a sample goes on from.
const PROMPT_CHARACTERS: usize = 160;

/// What the data turned out to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    /// Documents or conversations.
    pub kind: DataKind,
    /// What a person should know of how they were read.
    pub notices: Vec<String>,
    /// Beginnings of held-out data (or of training data, where nothing is held out), for samples.
    pub prompts: Vec<Prompt>,
}

/// What a sample goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A text's beginning.
    Text(String),
    /// A conversation up to the assistant's last turn.
    Messages(Vec<Message>),
}

/// The files to learn from and, where they are given, those to evaluate on.
struct Files {
    train: Listing,
    evaluation: Option<Listing>,
}

impl Run<'_, Tuning> {
    /// Writes the shards, or finds them written.
    pub(super) fn data(&mut self, base: &Base) -> Result<Data> {
        let recipe = &self.recipe;
        let evaluation = (!recipe.eval_data.is_empty()).then(|| list_folders(&recipe.eval_data));
        let files = Files { train: list_folders(&recipe.data)?, evaluation: evaluation.transpose()? };
        let kind = chat::kind_of(&files.train)?;
        if let Some(evaluation) = &files.evaluation
            && chat::kind_of(evaluation)? != kind
        {
            bail!(
                "{} and {} are not of one kind; both must be documents, or both conversations",
                files.train.source,
                evaluation.source
            );
        }
        let fingerprint = self.data_fingerprint(&files, kind, base)?;
        let path = self.folder.join(DATA);
        if self.is_done("data", &fingerprint) {
            return serde_json::from_str(&base::fs::read_text(&path)?)
                .with_context(|| format!("{} is damaged; remove it", path.display()));
        }
        if self.recipe.sized.is_some() {
            self.refuse_changed("data", &files.train.source, &fingerprint)?;
        }
        self.folder.record_input(&files.train.source, &fingerprint)?;
        let data = match kind {
            DataKind::Documents => self.documents_data(&files, base)?,
            DataKind::Chat => self.chat_data(&files, base)?,
        };
        for notice in &data.notices {
            self.context.say(&format!("data: {notice}"));
        }
        base::fs::write_bytes(&path, serde_json::to_string_pretty(&data)?.as_bytes())?;
        let outputs = [TRAIN_SHARD, HELD_OUT_SHARD, DATA].map(PathBuf::from);
        self.folder.mark_stage("data", &fingerprint, &outputs)?;
        Ok(data)
    }

    fn data_fingerprint(&self, files: &Files, kind: DataKind, base: &Base) -> Result<String> {
        let mut parts = vec![base.tokenizer.fingerprint(), base.tokenizer.settings.chat_template.clone()];
        parts.push(format!("{kind:?} {} {}", base.ends.start, base.ends.end));
        // What is longer than the context is cut.
        parts.push(format!("{}", self.recipe.options(1, base.config.max_positions).context));
        let options = self.corpus_options(files.evaluation.is_none());
        parts.push(corpus::fingerprint(&files.train, &options)?);
        if let Some(evaluation) = &files.evaluation {
            parts.push(corpus::fingerprint(evaluation, &self.corpus_options(false))?);
        }
        Ok(base::run::fingerprint(parts.iter().map(String::as_str)))
    }

    fn corpus_options(&self, is_held_out: bool) -> Options {
        let share = if is_held_out { self.recipe.held_out_share.unwrap_or(HELD_OUT_SHARE) } else { 0.0 };
        let max_bytes = self.recipe.max_megabytes.map(|megabytes| megabytes.saturating_mul(1_000_000));
        Options { max_bytes, held_out_share: share, ..Options::default() }
    }

    fn documents_data(&self, files: &Files, base: &Base) -> Result<Data> {
        let folder = self.folder.path();
        let options = self.corpus_options(files.evaluation.is_none());
        let report = documents::build(self.context, &files.train, &options, folder)?;
        self.context.say(&documents::describe(&report));
        let mut held_out = folder.join(HELD_OUT_FILE);
        if let Some(evaluation) = &files.evaluation {
            let folder = folder.join(EVALUATION);
            base::fs::create_folder(&folder)?;
            let report = documents::build(self.context, evaluation, &self.corpus_options(false), &folder)?;
            self.context.say(&documents::describe(&report));
            held_out = folder.join(TRAIN_FILE);
        }
        let train = folder.join(TRAIN_FILE);
        for (documents, shard) in [(&train, TRAIN_SHARD), (&held_out, HELD_OUT_SHARD)] {
            let machinery = (&base.tokenizer, self.context.threads);
            write_shard(documents, &folder.join(shard), machinery, base.ends, &mut |_| {})?;
        }
        let prompt_tokens = self.recipe.options(1, base.config.max_positions).context / 4;
        let mut prompts = text_prompts(&held_out, &base.tokenizer, prompt_tokens)?;
        if prompts.is_empty() {
            prompts = text_prompts(&train, &base.tokenizer, prompt_tokens)?;
        }
        let mut notices = Vec::new();
        if report.dropped_total().documents > 0 {
            notices.push(format!(
                "{} says why each document was dropped",
                folder.join(corpus::DROPPED_FILE).display()
            ));
        }
        Ok(Data { kind: DataKind::Documents, notices, prompts })
    }

    fn chat_data(&self, files: &Files, base: &Base) -> Result<Data> {
        let mut hashes = Vec::new();
        chat::read(&files.train, &mut |_, conversation| {
            hashes.push(chat::hash(&conversation));
            Ok(())
        })?;
        let share = match files.evaluation {
            Some(_) => 0.0,
            None => self.recipe.held_out_share.unwrap_or(HELD_OUT_SHARE),
        };
        let limit = chat::held_out_up_to(hashes, share);
        let encoder = Encoder {
            tokenizer: &base.tokenizer,
            template: base.tokenizer.chat_template()?,
            context: self.recipe.options(1, base.config.max_positions).context,
        };
        let mut train = Conversations::new(&self.folder.join(TRAIN_SHARD), &base.tokenizer);
        let mut held_out = Conversations::new(&self.folder.join(HELD_OUT_SHARD), &base.tokenizer);
        let mut progress =
            Progress::start(self.context.progress, "conversations", Unit::Count("lines"), None);
        chat::read(&files.train, &mut |file, conversation| {
            progress.add(1);
            let is_held_out = limit.is_some_and(|limit| chat::hash(&conversation) <= limit);
            let shard = if is_held_out { &mut held_out } else { &mut train };
            shard.add(&encoder, file, conversation)
        })?;
        if let Some(evaluation) = &files.evaluation {
            chat::read(evaluation, &mut |file, conversation| held_out.add(&encoder, file, conversation))?;
        }
        progress.finish();
        let mut notices =
            vec![format!("{} conversations to learn, {} held out", train.count, held_out.count)];
        notices.extend([&train, &held_out].into_iter().flat_map(|shard| shard.notices(encoder.context)));
        let prompts = if held_out.prompts.is_empty() { train.prompts } else { held_out.prompts };
        train.writer.finish()?;
        held_out.writer.finish()?;
        let prompts = prompts.into_iter().map(Prompt::Messages).collect();
        Ok(Data { kind: DataKind::Chat, notices, prompts })
    }
}

/// What turns conversations into ids.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    context: usize,
}

/// A shard of conversations being written.
struct Conversations {
    writer: Writer,
    /// Conversations in the shard.
    count: usize,
    /// Of these, how many are longer than the context.
    cut: usize,
    /// Conversations without an answer inside the context, which are left out.
    left_out: usize,
    /// The first few, without their last answer.
    prompts: Vec<Vec<Message>>,
}

impl Conversations {
    fn new(path: &Path, tokenizer: &Tokenizer) -> Conversations {
        let writer = Writer::new(path, tokenizer, Loss::Masked);
        Conversations { writer, count: 0, cut: 0, left_out: 0, prompts: Vec::new() }
    }

    fn add(&mut self, encoder: &Encoder<'_>, file: &ChatFile, conversation: Conversation) -> Result<()> {
        if base::interrupt::requested() {
            bail!(Interrupted);
        }
        let encoded = encoder.tokenizer.encode_conversation(&encoder.template, &conversation);
        let mut ids = encoded.map_err(|error| file.refuse(error.to_string()))?;
        let is_long = ids.ids.len() > encoder.context;
        ids.ids.truncate(encoder.context);
        ids.loss_mask.truncate(encoder.context);
        if !ids.loss_mask.iter().skip(1).any(|counts| *counts > 0) {
            self.left_out += 1;
            return Ok(());
        }
        self.count += 1;
        self.cut += usize::from(is_long);
        self.writer.add(&ids.ids, &ids.loss_mask)?;
        if self.prompts.len() < PROMPTS && !is_long {
            let mut messages = conversation.messages;
            let last = messages.iter().rposition(|message| message.role == Role::Assistant).unwrap_or(0);
            messages.truncate(last);
            // Some conversations begin with an answer.
            self.prompts.extend((!messages.is_empty()).then_some(messages));
        }
        Ok(())
    }

    fn notices(&self, context: usize) -> Vec<String> {
        let (cut, left_out) = (self.cut, self.left_out);
        let mut notices = Vec::new();
        if cut > 0 {
            notices.push(format!("{cut} of {} are cut to the context of {context} tokens", self.count));
        }
        if left_out > 0 {
            notices.push(format!(
                "{left_out} more are left out: no answer begins within {context} tokens; a longer --context takes them in"
            ));
        }
        notices
    }
}

/// Beginnings of the first documents of a file, each of so many tokens at most.
fn text_prompts(documents: &Path, tokenizer: &Tokenizer, tokens_max: usize) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for document in read_documents(documents)?.take(PROMPTS) {
        let beginning: String = document?.text.chars().take(PROMPT_CHARACTERS).collect();
        let mut ids = tokenizer.encode(&beginning);
        ids.truncate(tokens_max.max(1));
        // The last character may have been cut in two.
        prompts.push(Prompt::Text(tokenizer.decode(&ids).trim_end_matches('\u{fffd}').to_owned()));
    }
    Ok(prompts)
}
