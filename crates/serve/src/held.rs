//! What an answer is held to: the structure that a request asks for, calls that it forces, the schemas of its strict tools. Knows
//! neither how fields are read nor how ids are chosen.

use std::sync::Arc;

use chat::format::{Beside, CallRules};
use chat::{AnswerOptions, Structure};

use crate::models::ChatModel;
use crate::wire::{ApiError, Conversation, Tools, Wanted};

/// A conversation whose answer is held to what the request asks for. Where the prompt has begun the reasoning, that is as free as
/// ever, and the structure begins after it.
///
/// # Errors
/// What cannot be enforced, by the name of its field.
pub(crate) async fn held(
    chat: &ChatModel,
    mut conversation: Conversation,
    tools: &Tools,
    in_reasoning: bool,
) -> Result<Conversation, ApiError> {
    let Some(mut wanted) = wanted(chat, conversation.wanted.take(), tools)? else { return Ok(conversation) };
    if in_reasoning {
        let tokenizer = chat.codec.tokenizer();
        wanted.structure =
            chat.codec.format().after_reasoning(wanted.structure, &|text| tokenizer.special(text));
    }
    let constraint = Some(constrained(chat, wanted).await?);
    let options = AnswerOptions { constraint, ..conversation.options };
    Ok(Conversation { options, ..conversation })
}

/// What the answer must be, put together of what the request says of it and of its tools.
fn wanted(chat: &ChatModel, wanted: Option<Wanted>, tools: &Tools) -> Result<Option<Wanted>, ApiError> {
    let forced = tools.forced();
    let strict = tools.tools.iter().position(|tool| tool["function"]["strict"] == true);
    let (field, beside, callable) = match (forced, wanted, strict) {
        (Some(_), Some(wanted), _) => {
            let message = format!(
                "'tool_choice' cannot force a call where '{}' says what the answer must be; leave one of them out.",
                wanted.field
            );
            return Err(ApiError::invalid(Some("tool_choice"), message));
        }
        (Some(forced), None, _) => ("tool_choice".to_owned(), Beside::Nothing, forced),
        (None, Some(wanted), _) if tools.tools.is_empty() => return Ok(Some(wanted)),
        (None, Some(wanted), _) => (wanted.field, Beside::Structure(wanted.structure), tools.tools.clone()),
        (None, None, Some(index)) => (format!("tools[{index}].strict"), Beside::Text, tools.tools.clone()),
        (None, None, None) => return Ok(None),
    };
    let blamed = if matches!(beside, Beside::Structure(_)) { field.clone() } else { "tools".to_owned() };
    let structure = calls(chat, &field, CallRules { tools: &callable, parallel: tools.parallel, beside })?;
    Ok(Some(Wanted { field: blamed, structure }))
}

/// The structure of answers that call tools so.
fn calls(chat: &ChatModel, field: &str, rules: CallRules<'_>) -> Result<Structure, ApiError> {
    let tokenizer = chat.codec.tokenizer();
    let special = |text: &str| tokenizer.special(text);
    match chat.codec.format().call_structure(&rules, &special) {
        Ok(Some(structure)) => Ok(structure),
        Ok(None) => {
            let family = chat.codec.format().family();
            let message = format!(
                "'{field}' is not possible together with 'tools' for this model, whose way of writing calls ('{family}') \
                 cannot be enforced; leave it out."
            );
            Err(ApiError::invalid(Some(field), message).with_code("unsupported_parameter"))
        }
        Err(error) => Err(refused("tools", &error)),
    }
}

/// What holds an answer to a structure. Large schemas and the first structure for a model take a while, so it is not made where
/// other sockets wait.
///
/// # Errors
/// What is wrong or cannot be enforced, by the name of the field.
pub(crate) async fn constrained(
    chat: &ChatModel,
    wanted: Wanted,
) -> Result<Box<dyn engine::Constraint>, ApiError> {
    let structures = Arc::clone(&chat.structures);
    let Wanted { field, structure } = wanted;
    let made = tokio::task::spawn_blocking(move || structures.constraint(&structure)).await;
    made.map_err(|_| ApiError::internal("The structure of the answer could not be prepared."))?
        .map_err(|error| refused(&field, &error))
}

fn refused(field: &str, error: &chat::Error) -> ApiError {
    ApiError::invalid(Some(field), format!("Invalid '{field}': {error}.")).with_code("invalid_value")
}
