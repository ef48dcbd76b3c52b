//! What a corpus holds and what was dropped from it, as numbers. It must not know how they came about.

use crate::{Kind, Reason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many documents, and how many bytes of text in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Documents.
    pub documents: u64,
    /// Bytes of UTF-8; for files that never became documents, bytes on disk.
    pub bytes: u64,
}

impl Tally {
    /// Counts one more document.
    pub fn add(&mut self, bytes: u64) {
        self.documents += 1;
        self.bytes += bytes;
    }
}

/// One group's part of the corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupShare {
    /// The group.
    pub group: String,
    /// Whether it is held out; None where single documents are split, not groups.
    pub held_out: Option<bool>,
    /// What was kept of it.
    pub kept: Tally,
}

/// The result of [`crate::build`]. The same input and options give the same report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where the texts came from, for people.
    pub source: String,
    /// Files that were listed for reading, and their bytes on disk.
    pub files: Tally,
    /// Kept for training.
    pub train: Tally,
    /// Kept and held out.
    pub held_out: Tally,
    /// Dropped, by reason.
    pub dropped: BTreeMap<Reason, Tally>,
    /// Kept, by kind.
    pub kinds: BTreeMap<Kind, Tally>,
    /// Groups with at least one kept document.
    pub groups: u64,
    /// The twenty largest groups by kept bytes.
    pub largest_groups: Vec<GroupShare>,
    /// Whether whole groups are held out (twenty groups or more), else single documents.
    pub split_by_group: bool,
    /// The most of the training text that one group may have; 1 where nothing limits it.
    pub train_group_share_max: f64,
    /// The most of the held-out text that one group may have.
    pub held_out_group_share_max: f64,
    /// Characters of the kept text that are not white space.
    pub characters: u64,
    /// How many of them are Han, from 0 to 1.
    pub han_share: f64,
}

impl Report {
    /// Everything that was kept.
    pub fn kept(&self) -> Tally {
        Tally {
            documents: self.train.documents + self.held_out.documents,
            bytes: self.train.bytes + self.held_out.bytes,
        }
    }

    /// Everything that was dropped.
    pub fn dropped_total(&self) -> Tally {
        self.dropped.values().fold(Tally::default(), |sum, tally| Tally {
            documents: sum.documents + tally.documents,
            bytes: sum.bytes + tally.bytes,
        })
    }

    /// The most frequent reasons with their counts, such as "duplicate 12, hidden 3".
    pub fn reasons_text(&self, count: usize) -> String {
        let mut reasons: Vec<_> = self.dropped.iter().collect();
        reasons.sort_by_key(|(reason, tally)| (std::cmp::Reverse(tally.documents), **reason));
        let parts: Vec<String> = reasons
            .iter()
            .take(count)
            .map(|(reason, tally)| format!("{} {}", reason.name(), tally.documents))
            .collect();
        parts.join(", ")
    }
}
