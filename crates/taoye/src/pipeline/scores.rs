//! The stages that score: bits per byte on held-out documents, exact answers to tasks, samples.

use super::Run;
use super::training::BASE_MODEL;
use anyhow::{Context as _, Result};
use chat::{AnswerOptions, ChatModel, ChatRequest, CompletionRequest, Local, LocalOptions, Prompt, Sampling};
use corpus::{HELD_OUT_FILE, read_documents};
use eval::bits::{self, BitsPerByte};
use eval::tasks::{self, Item, Report};
use eval::{accuracy, samples};
use model::{Parameters, Pass, Rows};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tensor::{Batch, Device, Targets};
use token::Tokenizer;

/// An answer may have this many times the tokens of the longest right one before it is cut off.
const ANSWER_ROOM: f64 = 1.25;
/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 48;
/// Conversations that are answered together.
const ASKED_TOGETHER: usize = 64;
/// Seed of the test questions, whatever the run's seed: every run answers the same ones.
const TEST_SEED: u64 = 1;

/// Figures of a pretrained model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BaseScores {
    /// On held-out documents; none where nothing was held out.
    pub bits: Option<BitsPerByte>,
    /// On tasks that it was not taught.
    pub tasks: Report,
    /// What it writes.
    pub samples: Vec<Exchange>,
}

/// Figures of a fine-tuned model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinalScores {
    /// On tasks.
    pub tasks: Report,
    /// Questions with its answers, one a family.
    pub samples: Vec<Exchange>,
}

/// What went in and what came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    pub prompt: String,
    pub answer: String,
    /// Whether the answer is right; none for free text.
    pub correct: Option<bool>,
}

impl Run<'_> {
    /// Scores the pretrained model.
    pub(super) fn base_scores(&mut self, tokenizer: &Tokenizer, base: &Parameters) -> Result<BaseScores> {
        let folder = self.folder.join(BASE_MODEL);
        let after = self.scored_after("pretrain");
        self.cached("scores before", &after, "scores-before.json", |run| {
            let documents = run.held_out()?;
            let bits = match documents.is_empty() {
                true => None,
                false => Some(bits_of(&run.device, base, tokenizer, &documents, widest(base, tokenizer)?)?),
            };
            let mut local = Local::load(&folder, run.device.clone(), LocalOptions::default())?;
            let items = tasks::test_items(TEST_SEED, run.recipe.evaluate.items_per_family);
            let (tasks, _) = ask(&mut local, &items)?;
            let samples = continuations(&mut local)?;
            Ok(BaseScores { bits, tasks, samples })
        })
    }

    /// Scores the fine-tuned model.
    pub(super) fn final_scores(&mut self) -> Result<FinalScores> {
        let folder = self.folder.model();
        let after = self.scored_after("finetune");
        self.cached("scores after", &after, "scores-after.json", |run| {
            let mut local = Local::load(&folder, run.device.clone(), LocalOptions::default())?;
            let items = tasks::test_items(TEST_SEED, run.recipe.evaluate.items_per_family);
            let (tasks, mut samples) = ask(&mut local, &items)?;
            let mut seen = std::collections::BTreeSet::new();
            let mut family = items.iter().map(|item| item.family);
            samples.retain(|_| family.next().is_some_and(|family| seen.insert(family)));
            Ok(FinalScores { tasks, samples })
        })
    }

    /// What decides the scores of a stage's model.
    fn scored_after(&self, stage: &str) -> String {
        format!("{} {:?}", self.fingerprint_of(stage), self.recipe.evaluate)
    }

    /// Held-out documents within the budget.
    fn held_out(&self) -> Result<Vec<String>> {
        let path = self.folder.join(HELD_OUT_FILE);
        choose(&path, self.recipe.evaluate.held_out_kilobytes.saturating_mul(1000))
    }
}

impl<R> Run<'_, R> {
    /// What was scored before under the same decisions, or scores and keeps it.
    pub(super) fn cached<T: Serialize + for<'de> Deserialize<'de>>(
        &mut self,
        stage: &'static str,
        decided_by: &str,
        file: &str,
        score: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let fingerprint = base::run::fingerprint([decided_by]);
        let path = self.folder.join(file);
        if self.is_done(stage, &fingerprint) {
            let text = base::fs::read_text(&path)?;
            return serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; remove it", path.display()));
        }
        let scores = score(self)?;
        base::fs::write_bytes(&path, serde_json::to_string_pretty(&scores)?.as_bytes())?;
        self.folder.mark_stage(stage, &fingerprint, &[PathBuf::from(file)])?;
        Ok(scores)
    }
}

/// Documents of a file, chosen evenly up to a budget.
///
/// # Errors
/// When the file cannot be read.
pub fn choose(path: &Path, budget_bytes: u64) -> Result<Vec<String>> {
    let mut lengths = Vec::new();
    for document in read_documents(path)? {
        lengths.push(document?.text.len() as u64);
    }
    let chosen = bits::choose_documents(&lengths, budget_bytes, TEST_SEED);
    let mut texts = Vec::with_capacity(chosen.len());
    for (index, document) in read_documents(path)?.enumerate() {
        if chosen.binary_search(&index).is_ok() {
            texts.push(document?.text);
        }
    }
    Ok(texts)
}

/// Windows as long as the model's context, from its end-of-text token on.
///
/// # Errors
/// When the tokenizer has no such token.
pub fn widest(parameters: &Parameters, tokenizer: &Tokenizer) -> Result<bits::Options> {
    let start_id = tokenizer.eos_id().context("the tokenizer has no end-of-text token")?;
    Ok(bits::Options { start_id, context: parameters.decoder.config().max_positions })
}

/// Bits per byte of a model on documents, each on its own.
///
/// # Errors
/// When there is no text.
pub fn bits_of(
    device: &Device,
    parameters: &Parameters,
    tokenizer: &Tokenizer,
    documents: &[String],
    options: bits::Options,
) -> Result<BitsPerByte> {
    let mut scorer = Scorer::new(device, parameters, options.context);
    Ok(bits::bits_per_byte(documents, tokenizer, options, |ids| scorer.log_probs(ids))?)
}

/// Log-probabilities by the trainer's own forward pass.
struct Scorer<'a> {
    parameters: &'a Parameters,
    pass: Pass,
    positions: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Scorer<'_> {
    fn new<'a>(device: &Device, parameters: &'a Parameters, context: usize) -> Scorer<'a> {
        Scorer {
            parameters,
            pass: Pass::new(device, &parameters.decoder, context),
            positions: (0..context as u32).collect(),
            targets: Vec::new(),
            weights: vec![1.0; context],
        }
    }

    /// ln p of each id but the first.
    fn log_probs(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let rows = ids.len() - 1;
        self.targets.clear();
        self.targets.extend_from_slice(&ids[1..]);
        let document = 0..rows;
        let batch = Batch { positions: &self.positions[..rows], documents: std::slice::from_ref(&document) };
        let targets = Targets { ids: &self.targets, weights: &self.weights[..rows], scale: 1.0 };
        let mut log_probs = vec![0.0; rows];
        let rows = Rows { ids: &ids[..rows], batch, targets };
        let (decoder, weights) = (&self.parameters.decoder, self.parameters.flat.data());
        self.pass.score(decoder, weights, rows, Some(&mut log_probs));
        Ok(log_probs)
    }
}

/// Asks every item and counts exact answers; also what was asked and answered.
///
/// # Errors
/// When the model cannot answer.
pub fn ask(local: &mut Local, items: &[Item]) -> Result<(Report, Vec<Exchange>)> {
    let longest =
        items.iter().map(|item| local.tokenizer().encode(&item.answer).len() + 1).max().unwrap_or(1);
    let room = (longest as f64 * ANSWER_ROOM) as usize;
    let options = AnswerOptions {
        max_tokens: Some(room.min(local.context_tokens() / 2)),
        sampling: Sampling::greedy(),
        ..AnswerOptions::default()
    };
    let mut report = Report::default();
    let mut exchanges = Vec::with_capacity(items.len());
    for items in items.chunks(ASKED_TOGETHER) {
        if base::interrupt::requested() {
            anyhow::bail!(super::Interrupted);
        }
        let requests: Vec<ChatRequest> = items
            .iter()
            .map(|item| ChatRequest {
                messages: vec![accuracy::question(item)],
                options: options.clone(),
                ..ChatRequest::default()
            })
            .collect();
        for (item, reply) in items.iter().zip(local.reply_many(&requests)?) {
            let answer = reply.message.content;
            let correct = tasks::score(item, &answer);
            report.add(item.family, correct);
            exchanges.push(Exchange { prompt: item.question.clone(), answer, correct: Some(correct) });
        }
    }
    Ok((report, exchanges))
}

/// How the model goes on from a few beginnings.
fn continuations(local: &mut Local) -> Result<Vec<Exchange>> {
    let options = AnswerOptions {
        max_tokens: Some(SAMPLE_TOKENS),
        sampling: Sampling { temperature: 0.7, top_k: 40, seed: TEST_SEED, ..Sampling::greedy() },
        ..AnswerOptions::default()
    };
    let found = samples::continue_all(|prompt| -> Result<String> {
        let prompt = Prompt::Text(prompt.to_owned());
        let request = CompletionRequest { prompt, echo: false, options: options.clone() };
        Ok(local.complete(&request, &mut |_| ControlFlow::Continue(()))?.text)
    })?;
    let exchange = |sample: samples::Sample| Exchange {
        prompt: sample.prompt,
        answer: sample.continuation,
        correct: None,
    };
    Ok(found.into_iter().map(exchange).collect())
}
