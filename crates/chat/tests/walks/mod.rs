//! Answers that no model chose: ids drawn at random among those that a constraint allows.
#![allow(clippy::unwrap_used)]

use engine::{Constraint, Mask};
use token::{Tokenizer, TrainOptions};

const TEXT: &str = "{\"name\": \"clay\", \"items\": [1, 2.5, null, true, false], \"陶冶\": \"烧土为器\"} 2024-01-31T08:00:00Z ";

/// Ids after which a walk is given up.
const IDS_MAX: usize = 600;

/// A tokenizer whose tokens are pieces of JSON and bytes, with further special tokens; an empty template leaves its own.
pub fn tokenizer(template: &str, special: &[&str]) -> Tokenizer {
    let options = TrainOptions { vocab_size: 340, ..TrainOptions::default() };
    let tokenizer = Tokenizer::train(&[TEXT.repeat(30)], &options, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let file = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (id, text) in (tokenizer.vocab_size()..).zip(special) {
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }));
    }
    std::fs::write(&file, json.to_string()).unwrap();
    let mut tokenizer = Tokenizer::load(folder.path()).unwrap();
    if !template.is_empty() {
        tokenizer.settings.chat_template = template.to_owned();
    }
    tokenizer
}

/// A reproducible stream of numbers.
pub struct Draws(pub u64);

impl Draws {
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The ids that come of choosing at random among those that are allowed, those that close something more often as the
/// answer grows, and now and then the beginning of one of `marks`, which is then gone through with. `None` where it has not ended
/// after many ids.
pub fn walk(
    (tokenizer, stop_ids): (&Tokenizer, &[u32]),
    mut constraint: Box<dyn Constraint>,
    marks: &[&str],
    draws: &mut Draws,
) -> Option<Vec<u32>> {
    let (mut mask, mut ids, mut bytes) = (Mask::default(), Vec::new(), Vec::new());
    while ids.len() < IDS_MAX {
        constraint.allowed(&mut mask).unwrap();
        let byte_id = |byte: u8| {
            let is_byte = |id: &u32| tokenizer.token_bytes(*id) == Some(&[byte]) && mask.allows(*id);
            (0..tokenizer.vocab_size() as u32).find(is_byte)
        };
        let hinted = hint(&bytes, marks, draws, &byte_id);
        let id = hinted.unwrap_or_else(|| drawn((tokenizer, stop_ids), &mask, ids.len(), draws));
        if stop_ids.contains(&id) {
            return Some(ids);
        }
        constraint.accept(id).unwrap();
        bytes.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
        ids.push(id);
    }
    None
}

/// The id of the byte by which a mark goes on, or begins.
fn hint(bytes: &[u8], marks: &[&str], draws: &mut Draws, id: &dyn Fn(u8) -> Option<u32>) -> Option<u32> {
    let begun = |mark: &str| {
        let mark = mark.as_bytes();
        let length = (1..mark.len()).rev().find(|&length| bytes.ends_with(&mark[..length]));
        length.filter(|_| !bytes.ends_with(mark))
    };
    let one_of = |count: usize, draws: &mut Draws| (draws.unit() * count as f64) as usize;
    if let Some(longest) = marks.iter().filter_map(|mark| begun(mark)).max() {
        if longest == 1 && draws.unit() < 0.5 {
            // One byte may be the beginning of something else.
            return None;
        }
        let such: Vec<&str> = marks.iter().copied().filter(|mark| begun(mark) == Some(longest)).collect();
        return id(such[one_of(such.len(), draws)].as_bytes()[longest]);
    }
    let possible: Vec<u32> = marks.iter().filter_map(|mark| id(mark.as_bytes()[0])).collect();
    let begins = !possible.is_empty() && draws.unit() < 0.2;
    begins.then(|| possible[one_of(possible.len(), draws)])
}

fn drawn((tokenizer, stop_ids): (&Tokenizer, &[u32]), mask: &Mask, length: usize, draws: &mut Draws) -> u32 {
    let weight = |id: u32| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default();
        let closes = matches!(bytes, b"\"" | b"}" | b"]");
        if stop_ids.contains(&id) {
            1.0 + length as f64 / 40.0
        } else if closes {
            4.0 + length as f64
        } else if tokenizer.special_text(id).is_some() {
            30.0
        } else if bytes.iter().all(u8::is_ascii_whitespace) {
            0.2
        } else {
            1.0
        }
    };
    let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| mask.allows(id)).collect();
    let mut rest = draws.unit() * allowed.iter().map(|&id| weight(id)).sum::<f64>();
    let chosen = allowed.iter().copied().find(|&id| {
        rest -= weight(id);
        rest < 0.0
    });
    chosen.expect("something is allowed")
}
