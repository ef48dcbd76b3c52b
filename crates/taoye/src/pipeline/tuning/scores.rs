//! What a model says and how well it predicts held-out text, before it is trained and after. It must not know how
//! it is trained.

use super::data::{Data, Prompt};
use super::{Base, STAGE};
use crate::pipeline::Run;
use crate::pipeline::scores::{Exchange, bits_of, choose};
use crate::recipe::{DataKind, Tuning};
use anyhow::Result;
use chat::{AnswerOptions, ChatModel, ChatRequest, CompletionRequest, Local, LocalOptions, Sampling};
use corpus::{HELD_OUT_FILE, TRAIN_FILE};
use eval::bits::{self, BitsPerByte};
use model::Parameters;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// Most held-out text that is scored, in bytes.
const HELD_OUT_BYTES: u64 = 100_000;
/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 48;

/// Figures of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scores {
    /// On held-out documents; none for conversations, or where nothing was held out.
    pub bits: Option<BitsPerByte>,
    /// What it answers, or how it goes on.
    pub samples: Vec<Exchange>,
}

impl Run<'_, Tuning> {
    /// Scores the model to start from.
    pub(super) fn scores_before(&mut self, base: &Base, data: &Data) -> Result<Scores> {
        let after = [base.hash.clone(), self.fingerprint_of("data")].join(" ");
        self.cached("scores before", &after, "scores-before.json", |run| run.scores(&base.folder, base, data))
    }

    /// Scores the trained model.
    pub(super) fn scores_after(&mut self, base: &Base, data: &Data) -> Result<Scores> {
        let after = self.fingerprint_of(STAGE);
        let folder = self.folder.model();
        self.cached("scores after", &after, "scores-after.json", |run| run.scores(&folder, base, data))
    }

    fn scores(&self, folder: &Path, base: &Base, data: &Data) -> Result<Scores> {
        let bits = match data.kind {
            DataKind::Documents => self.bits(folder, base)?,
            DataKind::Chat => None,
        };
        let mut local = Local::load(folder, self.device.clone(), LocalOptions::default())?;
        let samples = data.prompts.iter().map(|prompt| sample(&mut local, prompt)).collect::<Result<_>>()?;
        Ok(Scores { bits, samples })
    }

    fn bits(&self, folder: &Path, base: &Base) -> Result<Option<BitsPerByte>> {
        let file = match self.recipe.eval_data.is_empty() {
            true => self.folder.join(HELD_OUT_FILE),
            false => self.folder.join("evaluation").join(TRAIN_FILE),
        };
        let documents = choose(&file, HELD_OUT_BYTES)?;
        if documents.is_empty() {
            return Ok(None);
        }
        let parameters = Parameters::load(&self.device, folder)?;
        let context = self.recipe.options(1, base.config.max_positions).context;
        let options = bits::Options { start_id: base.ends.start, context };
        Ok(Some(bits_of(&self.device, &parameters, &base.tokenizer, &documents, options)?))
    }
}

/// What a model makes of a prompt, always taking the most probable token.
fn sample(local: &mut Local, prompt: &Prompt) -> Result<Exchange> {
    let prompt_tokens = match prompt {
        Prompt::Text(text) => local.tokenizer().encode(text).len() + 1,
        Prompt::Messages(messages) => local.count_tokens(messages)?,
    };
    let room = local.context_tokens().saturating_sub(prompt_tokens);
    let options = AnswerOptions {
        max_tokens: Some(SAMPLE_TOKENS.min(room).max(1)),
        sampling: Sampling::greedy(),
        ..AnswerOptions::default()
    };
    let mut go_on = |_| ControlFlow::Continue(());
    let (prompt, answer) = match prompt {
        Prompt::Text(text) => {
            let prompt = chat::Prompt::Text(text.clone());
            let request = CompletionRequest { prompt, echo: false, options };
            (text.clone(), local.complete(&request, &mut go_on)?.text)
        }
        Prompt::Messages(messages) => {
            let request = ChatRequest { messages: messages.clone(), options, ..ChatRequest::default() };
            let lines =
                messages.iter().map(|message| format!("{}: {}", message.role.name(), message.content));
            (lines.collect::<Vec<_>>().join("\n"), local.reply(&request, &mut go_on)?.message.content)
        }
    };
    Ok(Exchange { prompt, answer, correct: None })
}
