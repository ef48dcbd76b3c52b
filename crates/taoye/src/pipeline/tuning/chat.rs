//! Files of conversations: told from files of documents, read in order, split into training and held-out ones. It must
//! not know tokens.

use crate::recipe::DataKind;
use anyhow::{Result, bail};
use base::fs::open_lines;
use corpus::Listing;
use corpus::source::FileType;
use serde_json::Value;
use std::path::Path;
use token::{ChatFile, Conversation};

/// Whether files hold documents or conversations, by the first line of each that is JSON lines.
///
/// # Errors
/// When there is some of each, or a file is empty or cannot be read.
pub fn kind_of(listing: &Listing) -> Result<DataKind> {
    let (mut chats, mut others) = (Vec::new(), Vec::new());
    for file in &listing.files {
        let is_chat = file.file_type == FileType::JsonLines && begins_with_messages(&file.path)?;
        if is_chat { &mut chats } else { &mut others }.push(file.path.display());
    }
    match (chats.first(), others.first()) {
        (Some(chat), Some(other)) => {
            bail!("{chat} holds conversations, but {other} does not; train on one or the other at a time")
        }
        (Some(_), None) => Ok(DataKind::Chat),
        (None, _) => Ok(DataKind::Documents),
    }
}

/// Reads every conversation in order and hands it over with the file, which names its line in errors.
///
/// # Errors
/// Names the file and the line that is no conversation; what `take` returns.
pub fn read(listing: &Listing, take: &mut dyn FnMut(&ChatFile, Conversation) -> Result<()>) -> Result<()> {
    for file in &listing.files {
        let mut lines = ChatFile::open(&file.path)?;
        while let Some(conversation) = lines.next() {
            take(&lines, conversation?)?;
        }
    }
    Ok(())
}

/// A hash of what is said, whatever else its line holds.
pub fn hash(conversation: &Conversation) -> u128 {
    let said = conversation.messages.iter().map(|message| (message.role.name(), message.content.as_str()));
    base::hash::hash_128(format!("{:?}", said.collect::<Vec<_>>()).as_bytes())
}

/// The greatest hash of the conversations that are held out: those of the lowest hashes, so that the choice does not
/// depend on their order, and equal ones stay together. None where nothing is held out, or nothing would be left.
pub fn held_out_up_to(mut hashes: Vec<u128>, share: f64) -> Option<u128> {
    hashes.sort_unstable();
    let count = (share * hashes.len() as f64).round() as usize;
    let count = if share > 0.0 && hashes.len() > 1 { count.max(1) } else { count };
    let limit = hashes[count.checked_sub(1)?];
    Some(limit).filter(|limit| hashes.last().is_some_and(|last| last > limit))
}

fn begins_with_messages(path: &Path) -> Result<bool> {
    for line in open_lines(path)? {
        let line = line?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            let first: Option<Value> = serde_json::from_str(line).ok();
            return Ok(first.is_some_and(|first| first.get("messages").is_some()));
        }
    }
    bail!("{} is empty", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_hashes_are_held_out() {
        let hashes: Vec<u128> = (0..20).rev().collect();
        for (share, expected) in [(0.0, None), (0.05, Some(0)), (0.26, Some(4)), (0.001, Some(0))] {
            assert_eq!(held_out_up_to(hashes.clone(), share), expected, "{share}");
        }
        for alone in [vec![3], vec![3, 3, 3]] {
            assert_eq!(held_out_up_to(alone, 0.4), None, "a single one is for training");
        }
    }
}
