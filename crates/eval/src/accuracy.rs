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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;

    use super::*;
    use crate::tasks::{Family, test_items};

    #[test]
    fn replies_are_scored_item_by_item() {
        let items = test_items(4, 5);
        let mut asked = 0;
        let outcome = ask_all(&items, |messages: &[Message]| {
            let item = &items[asked];
            assert_eq!(messages, [Message::new(Role::User, item.question.as_str())]);
            asked += 1;
            let is_known = item.family != Family::Sort;
            Ok::<_, Infallible>(if is_known { item.answer.clone() } else { "no idea".to_owned() })
        })
        .unwrap();
        assert_eq!(outcome.replies.len(), items.len());
        for entry in &outcome.report.families {
            let expected = if entry.family == Family::Sort { 0 } else { 5 };
            assert_eq!((entry.items, entry.correct), (5, expected), "{entry:?}");
        }
        assert!((outcome.report.mean_accuracy() - 6.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_failing_model_names_the_item() {
        let items = test_items(4, 1);
        let error = ask_all(&items, |_: &[Message]| Err("no memory")).unwrap_err().to_string();
        assert!(error.starts_with("the model failed on item 0 (add_digits)"), "{error}");
    }
}
