//! Between messages and ids: tokenizer, chat template, and the form of answers. May be asked from any thread. Knows neither the
//! engine nor how ids are generated.

use std::sync::Arc;

use token::{
    ChatTemplate, END_OF_TEXT, MESSAGE_END, SpecialTokens, StreamDecoder, TemplateOptions, Tokenizer,
};

use crate::format::AnswerFormat;
use crate::{Error, Message, Prompt, Result};

/// Ids at the end of a prompt in which a mark that begins reasoning is looked for.
const PROMPT_END_IDS: usize = 8;

/// What turns messages into ids and ids into text.
pub struct Codec {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    format: AnswerFormat,
    /// The ids of special tokens that mean something in answers.
    marks: Vec<u32>,
}

/// A conversation as ids, ready to be continued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The ids.
    pub ids: Vec<u32>,
    /// Whether the answer begins in the middle of its reasoning.
    pub in_reasoning: bool,
}

impl Codec {
    /// A tokenizer with its own template.
    ///
    /// # Errors
    /// [`Error::Conversation`] where the template does not compile.
    pub fn new(tokenizer: Tokenizer) -> Result<Codec> {
        let template = tokenizer.chat_template().map_err(|error| Error::Conversation(error.to_string()))?;
        let format = AnswerFormat::of_template(&tokenizer.settings.chat_template);
        let special = tokenizer.special_tokens().iter().filter(|text| format.is_mark(text));
        let marks = special.filter_map(|text| tokenizer.special(text)).collect();
        Ok(Codec { tokenizer: Arc::new(tokenizer), template, format, marks })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(crate) fn shared_tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How answers are written down.
    pub fn format(&self) -> &AnswerFormat {
        &self.format
    }

    /// The ids of special tokens that answers show, since [`crate::format::AnswerParser`] reads them.
    pub fn marks(&self) -> &[u32] {
        &self.marks
    }

    /// The special token with which the template ends answers, the end of a message, and the end of a text: what ends an answer
    /// beside what the model's configuration says.
    pub fn stop_ids(&self) -> Vec<u32> {
        let tokenizer = &self.tokenizer;
        let ends = [tokenizer.special(MESSAGE_END), tokenizer.eos_id(), tokenizer.answer_end(&self.template)];
        ends.into_iter().flatten().chain(tokenizer.end_ids().iter().copied()).collect()
    }

    /// A conversation with the assistant's turn opened.
    ///
    /// # Errors
    /// [`Error::Conversation`] where the template cannot render it.
    pub fn encode(&self, messages: &[Message], options: &TemplateOptions) -> Result<ChatPrompt> {
        let encoded = self.tokenizer.encode_chat_with(&self.template, messages, options, true);
        let ids = encoded.map_err(|error| Error::Conversation(error.to_string()))?.ids;
        let end = &ids[ids.len().saturating_sub(PROMPT_END_IDS)..];
        let in_reasoning = self.format.opens_reasoning(&self.text(end));
        Ok(ChatPrompt { ids, in_reasoning })
    }

    /// A prompt as ids; see [`Prompt`].
    pub fn prompt_ids(&self, prompt: &Prompt) -> Vec<u32> {
        match prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let tokenizer = &self.tokenizer;
                let mut ids = tokenizer.opening_ids().to_vec();
                if ids.is_empty() && text.is_empty() {
                    let begins = [tokenizer.special(END_OF_TEXT), tokenizer.bos_id(), tokenizer.eos_id()];
                    ids.extend(begins.into_iter().flatten().next());
                }
                tokenizer.encode_into(text, &mut ids);
                ids
            }
        }
    }

    /// The ids for [`crate::Dry::breakers`]: ordinary ones whose bytes hold one of the texts; `None`: those that llama.cpp
    /// takes where nothing is said, a line's end, a colon, a quotation mark and an asterisk.
    ///
    /// # Errors
    /// [`Error::Parameter`] where no id holds a text.
    pub fn breaker_ids(&self, texts: Option<&[String]>) -> Result<Vec<u32>> {
        let Some(texts) = texts else {
            return Ok(["\n", ":", "\"", "*"].into_iter().flat_map(|text| self.ids_with(text)).collect());
        };
        let mut ids = Vec::new();
        for text in texts {
            let of = self.ids_with(text);
            if of.is_empty() {
                let reason =
                    format!("no token of this model holds {text:?}; give texts that are short and not empty");
                return Err(Error::Parameter { name: "dry_sequence_breakers", reason });
            }
            ids.extend(of);
        }
        Ok(ids)
    }

    fn ids_with(&self, text: &str) -> Vec<u32> {
        let tokenizer = &self.tokenizer;
        let holds = |id: &u32| {
            let bytes = tokenizer.token_bytes(*id).filter(|_| tokenizer.special_text(*id).is_none());
            bytes.is_some_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        let count = if text.is_empty() { 0 } else { tokenizer.vocab_size() as u32 };
        (0..count).filter(holds).collect()
    }

    /// The text of ids, special tokens shown.
    pub fn text(&self, ids: &[u32]) -> String {
        let mut decoder = StreamDecoder::new(&*self.tokenizer, SpecialTokens::Show);
        let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text + &decoder.finish()
    }
}
