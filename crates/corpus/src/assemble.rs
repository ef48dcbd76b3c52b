//! A build's second pass: with the sizes of all groups known, splits, holds groups to their share, and writes.
//! It must not know files or steps.

use crate::build::{HELD_OUT_FILE, TRAIN_FILE};
use crate::collect::{Collected, JsonLines, KeptDocument};
use crate::report::{GroupShare, Report, Tally};
use crate::split::{GROUPS_MIN, feasible_share, group_limit_bytes, hold_out, place};
use crate::{Document, Dropped, Options, Reason, Result};
use std::path::Path;

const LARGEST_GROUPS: usize = 20;

/// Runs the second pass over what the first one kept.
pub fn assemble(collected: Collected, options: &Options, folder: &Path) -> Result<Report> {
    let Collected { spool, kept, groups, mut dropped, mut report } = collected;
    let plan = Plan::new(&kept, &groups, options);
    let mut files =
        [JsonLines::create(folder.join(TRAIN_FILE))?, JsonLines::create(folder.join(HELD_OUT_FILE))?];
    // (group, side)
    let mut used = vec![[Tally::default(); 2]; groups.len()];
    let mut han = 0;
    spool.replay(|index, line| {
        let document = &kept[index];
        let side = plan.side(index, document);
        let group = &mut used[document.group as usize][side];
        if group.bytes + document.bytes > plan.limit_bytes[side] {
            let parsed: Document = serde_json::from_slice(line)
                .map_err(|error| base::Error::io("read back a document in", folder, error.into()))?;
            return dropped.push(&Dropped::new(&parsed.path, Reason::OverShare, document.bytes), &mut report);
        }
        group.add(document.bytes);
        report.kinds.entry(document.kind).or_default().add(document.bytes);
        report.characters += document.characters;
        han += document.han;
        files[side].write_line(line)
    })?;
    report.han_share = han as f64 / report.characters.max(1) as f64;
    plan.describe(&mut report, &groups, &used);
    for file in files {
        file.commit()?;
    }
    dropped.commit()?;
    Ok(report)
}

/// Sides are numbered: 0 train, 1 held out.
struct Plan {
    split: Split,
    /// The share that one group may have of each side, and the limit that follows.
    share_max: [f64; 2],
    limit_bytes: [u64; 2],
}

enum Split {
    /// By group number.
    Groups(Vec<bool>),
    /// By the document's index.
    Documents(Vec<bool>),
}

impl Plan {
    fn new(kept: &[KeptDocument], groups: &[String], options: &Options) -> Self {
        // Only groups of which something was kept have a number and take part, but for those that are over budget.
        let mut has_documents = vec![false; groups.len()];
        kept.iter().for_each(|document| has_documents[document.group as usize] = true);
        let group_count = has_documents.iter().filter(|&&has| has).count();
        let split = if group_count >= GROUPS_MIN {
            let places: Vec<f64> = groups.iter().map(|group| place(group)).collect();
            Split::Groups(hold_out(&places, options.held_out_share))
        } else {
            let places: Vec<f64> = kept.iter().map(|document| document.place).collect();
            Split::Documents(hold_out(&places, options.held_out_share))
        };
        let mut plan = Self { split, share_max: [1.0; 2], limit_bytes: [u64::MAX; 2] };
        if options.max_group_share < 1.0 {
            plan.limit_groups(kept, groups.len(), options.max_group_share);
        }
        plan
    }

    fn limit_groups(&mut self, kept: &[KeptDocument], group_count: usize, share: f64) {
        let mut sizes = [vec![0; group_count], vec![0; group_count]];
        for (index, document) in kept.iter().enumerate() {
            sizes[self.side(index, document)][document.group as usize] += document.bytes;
        }
        for (side, sizes) in sizes.iter().enumerate() {
            let groups = sizes.iter().filter(|&&size| size > 0).count();
            self.share_max[side] = feasible_share(share, groups);
            self.limit_bytes[side] = group_limit_bytes(sizes, self.share_max[side]);
        }
    }

    fn side(&self, index: usize, document: &KeptDocument) -> usize {
        usize::from(match &self.split {
            Split::Groups(held_out) => held_out[document.group as usize],
            Split::Documents(held_out) => held_out[index],
        })
    }

    fn describe(&self, report: &mut Report, groups: &[String], used: &[[Tally; 2]]) {
        let add = |sum: &mut Tally, tally: &Tally| {
            sum.documents += tally.documents;
            sum.bytes += tally.bytes;
        };
        let mut shares = Vec::new();
        for (number, [train, held_out]) in used.iter().enumerate() {
            add(&mut report.train, train);
            add(&mut report.held_out, held_out);
            let mut kept = *train;
            add(&mut kept, held_out);
            let held_out = match &self.split {
                Split::Groups(held_out) => Some(held_out[number]),
                Split::Documents(_) => None,
            };
            if kept.documents > 0 {
                shares.push(GroupShare { group: groups[number].clone(), held_out, kept });
            }
        }
        report.groups = shares.len() as u64;
        shares.sort_by(|left, right| (right.kept.bytes, &left.group).cmp(&(left.kept.bytes, &right.group)));
        shares.truncate(LARGEST_GROUPS);
        report.largest_groups = shares;
        report.split_by_group = matches!(self.split, Split::Groups(_));
        [report.train_group_share_max, report.held_out_group_share_max] = self.share_max;
    }
}
