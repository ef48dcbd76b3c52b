//! Which tensors of a Hugging Face folder hold an entry: entries have its names, but for prefixes. It must not know how a
//! tensor is read.

use super::place::{Candidate, Change};
use crate::{Config, Entry, Storage};

/// The tensors of a Hugging Face folder that may hold an entry, the likeliest first.
pub(crate) fn hugging_face(config: &Config, entry: &Entry) -> Vec<Candidate> {
    // Some files leave out or add what all names begin with.
    let prefix = config.family.weight_names().prefix;
    let other =
        entry.name.strip_prefix(prefix).map_or_else(|| format!("{prefix}{}", entry.name), str::to_owned);
    let change = match entry.storage {
        Storage::AsIs => Change::None,
        Storage::LessOne => Change::PlusOne,
        Storage::Transposed => Change::Transposed,
    };
    [entry.name.clone(), other].map(|name| Candidate { change, ..Candidate::whole(name, entry) }).into()
}

/// Whether a tensor of a Hugging Face folder may be there though no entry asks for it, since it carries nothing: a tied
/// model's copy of the embedding table, old exports' rotary tables.
pub(crate) fn is_spare_in_hugging_face(config: &Config, name: &str) -> bool {
    let names = config.family.weight_names();
    let bare = name.strip_prefix(names.prefix).unwrap_or(name);
    (config.tie_embeddings && bare == "lm_head.weight")
        || names.ignored_ends.iter().any(|end| bare.ends_with(end))
        || names.ignored_starts.iter().any(|start| bare.starts_with(start))
}
