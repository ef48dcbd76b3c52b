//! Asks a model every test item and counts exact answers.
//!
//! It must not know how a reply is made: a closure turns messages into text.

use crate::tasks::{Item, Report, score};
use crate::{Error, Result};
use token::{Message, Role};

/// What came out of asking every item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Counts per family.
    pub report: Report,
    /// The model's replies, one for each item in their order.
    pub replies: Vec<String>,
}

/// Asks each item as a conversation of its own with one user message, and scores the reply.
///
/// # Errors
/// If the model fails on an item; the error names it.
pub fn ask_all<E>(
    items: &[Item],
    mut reply: impl FnMut(&[Message]) -> std::result::Result<String, E>,
) -> Result<Outcome>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut report = Report::default();
    let mut replies = Vec::with_capacity(items.len());
    for (number, item) in items.iter().enumerate() {
        let text = reply(&[question(item)]).map_err(|error| Error::Model {
            what: format!("item {number} ({}): {:?}", item.family.name(), item.question),
            source: error.into(),
        })?;
        report.add(item.family, score(item, &text));
        replies.push(text);
    }
    Ok(Outcome { report, replies })
}

/// The conversation that teaches an item: the question and the worked answer.
#[must_use]
pub fn conversation(item: &Item) -> Vec<Message> {
    vec![question(item), Message::new(Role::Assistant, item.answer.as_str())]
}

/// The question alone, as a user's message.
#[must_use]
pub fn question(item: &Item) -> Message {
    Message::new(Role::User, item.question.as_str())
}
