//! llama.cpp's architectures: their names, the families that compute them, and the names of their tensors
//! (`gguf-py/gguf/tensor_mapping.py`). It must not know metadata or how a tensor is read.

use super::place::{Candidate, Change, RowOrder};
use crate::{Config, Entry, Family, NormPlace, Role};

/// An architecture as `general.architecture` names it.
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    /// Whether rotated heads have their two halves interleaved, see [`RowOrder::Interleaved`].
    is_interleaved: bool,
}

const ARCHITECTURES: [Architecture; 12] = [
    Architecture { name: "llama", family: Family::Llama, is_interleaved: true },
    Architecture { name: "llama", family: Family::Mistral, is_interleaved: true },
    Architecture { name: "llama", family: Family::Mixtral, is_interleaved: true },
    Architecture { name: "qwen2", family: Family::Qwen2, is_interleaved: false },
    Architecture { name: "qwen3", family: Family::Qwen3, is_interleaved: false },
    Architecture { name: "qwen3moe", family: Family::Qwen3Moe, is_interleaved: false },
    Architecture { name: "gemma", family: Family::Gemma, is_interleaved: false },
    Architecture { name: "gemma2", family: Family::Gemma2, is_interleaved: false },
    Architecture { name: "gemma3", family: Family::Gemma3, is_interleaved: false },
    Architecture { name: "phi3", family: Family::Phi3, is_interleaved: false },
    Architecture { name: "gpt2", family: Family::Gpt2, is_interleaved: false },
    Architecture { name: "bert", family: Family::Bert, is_interleaved: false },
];

impl Architecture {
    /// The first architecture of a name.
    pub(crate) fn find(name: &str) -> Result<&'static Architecture, String> {
        ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
            let mut names: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            names.dedup();
            format!("the architecture `{name}` is not supported; supported: {}", names.join(", "))
        })
    }

    /// The architecture of a family.
    pub(crate) fn of(family: Family) -> &'static Architecture {
        ARCHITECTURES.iter().find(|known| known.family == family).expect("every family has an architecture")
    }
}

/// Where a GGUF file has an entry; `None` where GGUF has no name for it.
pub(crate) fn place(config: &Config, entry: &Entry) -> Option<Candidate> {
    let (name, ending) = entry.name.rsplit_once('.')?;
    let (rows, columns) = (entry.weight.rows, entry.weight.cols);
    let shape = match entry.role {
        Role::Gain | Role::Bias => vec![columns],
        _ => vec![rows, columns],
    };
    let usual = |part: &str| Candidate {
        name: format!("{part}.{ending}"),
        shape,
        first_row: 0,
        order: RowOrder::AsStored,
        change: Change::None,
    };
    let names = config.family.weight_names();
    let outer = [
        (names.embedding, "token_embd"),
        (names.positions, "position_embd"),
        (names.token_types, "token_types"),
        (names.embedding_norm, "token_embd_norm"),
        (names.final_norm, "output_norm"),
        (names.head, "output"),
    ];
    if let Some((_, part)) = outer.into_iter().find(|(own, _)| *own == name) {
        return Some(usual(part));
    }
    let (layer, part) = name.strip_prefix(names.layer)?.split_once('.')?;
    if let Some((expert, part)) = part.strip_prefix(names.expert).and_then(|rest| rest.split_once('.')) {
        let parts = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
        let index = names.expert_parts.iter().position(|own| *own == part)?;
        let count = config.experts.as_ref()?.count;
        let mut place = usual(&format!("blk.{layer}.{}", parts[index]));
        place.shape = vec![count, rows, columns];
        place.first_row = expert.parse::<usize>().ok()? * rows;
        return Some(place);
    }
    let mut place = usual(&format!("blk.{layer}.{}", layer_part(config, part)?));
    let is_turned = names.qkv.len() == 3 && names.qkv[..2].contains(&part);
    if Architecture::of(config.family).is_interleaved && is_turned {
        place.order = RowOrder::Interleaved { head_dim: config.head_dim };
    }
    Some(place)
}

/// Whether a GGUF tensor may be there though no entry asks for it: rotary factors are read with the configuration; an
/// encoder's pooler and heads are not used.
pub(crate) fn is_spare(config: &Config, name: &str) -> bool {
    name.starts_with("rope_f")
        || (config.tie_embeddings && name == "output.weight")
        || (!config.causal && (name.starts_with("cls") || name.starts_with("pooler")))
}

/// What Llama 3 divides each frequency by: (rotated / 2) from the width that is rotated, the base, and the rule's factor,
/// low and high factor and original context, as transformers' `_compute_llama3_parameters` has it.
pub(crate) fn llama3_factors(rotated: usize, theta: f64, rule: [f64; 4]) -> Vec<f64> {
    let [factor, low, high, original] = rule;
    let frequency = |pair: usize| theta.powf(-2.0 * pair as f64 / rotated as f64);
    let divisor = |frequency: f64| {
        let turns = original * frequency / (2.0 * std::f64::consts::PI);
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - kept) / factor + kept)
    };
    (0..rotated / 2).map(|pair| divisor(frequency(pair))).collect()
}

/// llama.cpp's name of a layer's part.
fn layer_part(config: &Config, part: &str) -> Option<&'static str> {
    let names = config.family.weight_names();
    let is_after_sum = config.norm_place == NormPlace::AfterSum;
    let qkv: &[&'static str] =
        if names.qkv.len() == 3 { &["attn_q", "attn_k", "attn_v"] } else { &["attn_qkv"] };
    let gate_up: &[&'static str] =
        if names.gate_up.len() == 2 { &["ffn_gate", "ffn_up"] } else { &["ffn_up"] };
    let several = |own: &[&str], known: &[&'static str]| {
        own.iter().position(|own| *own == part).map(|index| known[index])
    };
    let single = [
        (names.attention_norm, "attn_norm"),
        (names.q_norm, "attn_q_norm"),
        (names.k_norm, "attn_k_norm"),
        (names.output, "attn_output"),
        (names.attention_post_norm, if is_after_sum { "attn_output_norm" } else { "post_attention_norm" }),
        (names.mlp_norm, "ffn_norm"),
        (names.down, "ffn_down"),
        (names.mlp_post_norm, if is_after_sum { "layer_output_norm" } else { "post_ffw_norm" }),
        (names.router, "ffn_gate_inp"),
    ];
    let single = || single.into_iter().find(|(own, _)| *own == part).map(|(_, known)| known);
    several(names.qkv, qkv).or_else(|| several(names.gate_up, gate_up)).or_else(single)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn llama_3s_divisors_go_from_one_to_the_factor() {
        let divisors = llama3_factors(128, 500_000.0, [8.0, 1.0, 4.0, 8192.0]);
        assert_eq!((divisors[0], divisors[63]), (1.0, 8.0));
        assert!(divisors.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn an_unknown_architecture_is_told_what_is_known() {
        let message = Architecture::find("mamba").err().unwrap();
        assert!(message.contains("`mamba` is not supported; supported: llama, qwen2"), "{message}");
    }

    #[test]
    fn interleaved_rows_are_a_permutation_within_each_head() {
        let order = RowOrder::Interleaved { head_dim: 6 };
        let stored: Vec<usize> = (0..12).map(|row| order.stored(row)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert!((0..12).all(|row| order.entry(order.stored(row)) == row));
    }
}
