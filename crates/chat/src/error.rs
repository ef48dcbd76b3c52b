//! What can go wrong between messages and messages. Knows no transport.

use std::path::PathBuf;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer, or no model to give one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt, or the prompt and the answer asked for, exceed the context.
    #[error(
        "this model's context is {context_tokens} tokens, but {requested} were requested \
         ({prompt_tokens} in the prompt, {answer_tokens} for the answer); \
         shorten the prompt or ask for a shorter answer",
        requested = prompt_tokens + answer_tokens
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the answer: as many as were asked for, and at least one.
        answer_tokens: usize,
        /// The most tokens that both may take together.
        context_tokens: usize,
    },
    /// A value that makes no sense, by the name that the caller knows it by.
    #[error("{name}: {reason}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// A structure that is wrong or cannot be enforced.
    #[error("{0}")]
    Structure(String),
    /// A conversation that the template cannot render.
    #[error("the conversation does not fit the model's chat template: {0}")]
    Conversation(String),
    /// The folder holds no usable model.
    #[error("the model in {folder} cannot be loaded: {reason}")]
    Load {
        /// The model's folder.
        folder: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(engine::Error),
    /// The terminal failed.
    #[error("the terminal cannot be read or written: {0}")]
    Terminal(#[from] std::io::Error),
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        match error {
            engine::Error::Parameter { name, value, allowed } => {
                Self::Parameter { name, reason: format!("{value} is not possible; it must be {allowed}") }
            }
            engine::Error::ContextLength { prompt_tokens, generated_tokens, context_tokens } => {
                Self::ContextLength { prompt_tokens, answer_tokens: generated_tokens, context_tokens }
            }
            other => Self::Engine(other),
        }
    }
}
