//! An item as a conversation: what a model is taught, and what it is asked.
//!
//! It must not know how a reply is made.

use crate::tasks::Item;
use token::{Message, Role};

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
