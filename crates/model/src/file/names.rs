//! Which tensors of a file hold an entry: Hugging Face's names and llama.cpp's.
//!
//! Entries have Hugging Face's names; GGUF's are in llama.cpp's `gguf-py/gguf/tensor_mapping.py`. It must not know how a
//! tensor is read.

use super::place::{Candidate, Change, RowOrder};
use crate::{Config, Entry, Family, Storage};

/// Parts of a layer: Hugging Face's name without its `weight` or `bias`, llama.cpp's.
const LAYER_PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Parts outside the layers.
const OUTER_PARTS: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

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

/// The tensors of a GGUF file that may hold an entry, the likeliest first; empty where GGUF has no name for it.
pub(crate) fn gguf(config: &Config, entry: &Entry) -> Vec<Candidate> {
    let Some(name) = gguf_name(entry) else { return Vec::new() };
    let mut candidate = Candidate::whole(name, entry);
    candidate.order = gguf_row_order(config, &entry.name);
    vec![candidate]
}

/// Whether a GGUF tensor may be there though no entry asks for it: rotary factors are read with the configuration.
pub(crate) fn is_spare_in_gguf(config: &Config, name: &str) -> bool {
    name.starts_with("rope_f") || (config.tie_embeddings && name == "output.weight")
}

/// The order in which llama.cpp wants an entry's rows.
pub(crate) fn gguf_row_order(config: &Config, name: &str) -> RowOrder {
    let turned = [".self_attn.q_proj.", ".self_attn.k_proj."].iter().any(|part| name.contains(part));
    match config.family {
        Family::Llama | Family::Mistral | Family::Mixtral if turned => {
            RowOrder::Interleaved { head_dim: config.head_dim }
        }
        _ => RowOrder::AsStored,
    }
}

/// llama.cpp's name of an entry: `blk.3.attn_q.weight` for `model.layers.3.self_attn.q_proj.weight`.
pub(crate) fn gguf_name(entry: &Entry) -> Option<String> {
    let (name, ending) = entry.name.rsplit_once('.')?;
    let known = |table: &[(&'static str, &'static str)], name: &str| {
        table.iter().find(|part| part.0 == name).map(|part| part.1)
    };
    if let Some(part) = known(&OUTER_PARTS, name) {
        return Some(format!("{part}.{ending}"));
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    known(&LAYER_PARTS, part).map(|part| format!("blk.{layer}.{part}.{ending}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Layout;

    #[test]
    fn every_entry_has_a_name_of_its_own() {
        let mut config = Config::llama(100, 32, 2, 4);
        (config.qk_norm, config.qkv_bias, config.output_bias, config.mlp_bias) = (true, true, true, true);
        let layout = Layout::new(&config);
        let names: std::collections::BTreeSet<String> =
            layout.entries().iter().map(|entry| gguf_name(entry).unwrap()).collect();
        assert_eq!(names.len(), layout.entries().len());
        for name in ["token_embd.weight", "blk.1.attn_q.bias", "blk.0.ffn_gate.weight", "output.weight"] {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn interleaved_rows_are_a_permutation_within_each_head() {
        let order = RowOrder::Interleaved { head_dim: 6 };
        let stored: Vec<usize> = (0..12).map(|row| order.stored(row)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
