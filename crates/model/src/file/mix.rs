//! Which type each tensor gets when a model is quantised: llama.cpp's mixes by their names.
//!
//! The rules are those of its `src/llama-quant.cpp` without an importance matrix, so that a file of a name has the same types
//! from either program. They go by GGUF's tensor names; this must not know how a tensor is read or written.

use base::gguf::{File, Value};
use tensor::quant::BlockType;

/// A named choice of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    name: &'static str,
    /// What most matrices get.
    kind: BlockType,
    size: Size,
    /// The number of `general.file_type`.
    number: u32,
}

/// How generous a mix of one type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// One type, but for the output projection.
    One,
    Small,
    Medium,
    Large,
}

/// What the rules ask about a tensor and its model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// GGUF's name.
    pub(crate) name: &'a str,
    /// Fastest first.
    pub(crate) dimensions: &'a [usize],
    /// Layers of the model.
    pub(crate) layers: usize,
    /// Query heads for each key and value head.
    pub(crate) group: usize,
    /// Experts of a layer; 0 where there are none.
    pub(crate) experts: usize,
    /// Whether the embedding table is the output projection.
    pub(crate) is_tied: bool,
    /// Whether llama.cpp takes the model for one of 70 billion parameters, which it does by its family and layers.
    pub(crate) is_70b: bool,
}

impl Mix {
    const ALL: [Mix; 22] = [
        Mix::new("f32", BlockType::F32, Size::One, 0),
        Mix::new("f16", BlockType::F16, Size::One, 1),
        Mix::new("bf16", BlockType::BF16, Size::One, 32),
        Mix::new("q8_0", BlockType::Q8_0, Size::One, 7),
        Mix::new("q6_k", BlockType::Q6_K, Size::One, 18),
        Mix::new("q5_k_m", BlockType::Q5_K, Size::Medium, 17),
        Mix::new("q5_k_s", BlockType::Q5_K, Size::Small, 16),
        Mix::new("q5_1", BlockType::Q5_1, Size::One, 9),
        Mix::new("q5_0", BlockType::Q5_0, Size::One, 8),
        Mix::new("q4_k_m", BlockType::Q4_K, Size::Medium, 15),
        Mix::new("q4_k_s", BlockType::Q4_K, Size::Small, 14),
        Mix::new("iq4_nl", BlockType::IQ4_NL, Size::One, 25),
        Mix::new("iq4_xs", BlockType::IQ4_XS, Size::One, 30),
        Mix::new("q4_1", BlockType::Q4_1, Size::One, 3),
        Mix::new("q4_0", BlockType::Q4_0, Size::One, 2),
        Mix::new("mxfp4_moe", BlockType::MXFP4, Size::One, 38),
        Mix::new("q3_k_l", BlockType::Q3_K, Size::Large, 13),
        Mix::new("q3_k_m", BlockType::Q3_K, Size::Medium, 12),
        Mix::new("q3_k_s", BlockType::Q3_K, Size::Small, 11),
        Mix::new("q2_k", BlockType::Q2_K, Size::Medium, 10),
        Mix::new("tq2_0", BlockType::TQ2_0, Size::One, 37),
        Mix::new("tq1_0", BlockType::TQ1_0, Size::One, 36),
    ];
    /// All matrices in half precision.
    pub(crate) const F16: Mix = Mix::new("f16", BlockType::F16, Size::One, 1);
    /// Other names of the same mixes.
    const ALIASES: [(&str, &str); 3] = [("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

    const fn new(name: &'static str, kind: BlockType, size: Size, number: u32) -> Mix {
        Mix { name, kind, size, number }
    }

    /// The mix of a name, in either case.
    pub fn from_name(name: &str) -> Option<Mix> {
        let name = name.to_ascii_lowercase();
        let alias = Mix::ALIASES.iter().find(|alias| alias.0 == name);
        let name = alias.map_or(name.as_str(), |alias| alias.1);
        Mix::ALL.into_iter().find(|mix| mix.name == name)
    }

    /// All names, the largest files first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Mix::ALL.into_iter().map(|mix| mix.name)
    }

    /// The name of the mix that a GGUF file says it is.
    pub fn of_file(file: &File) -> Option<&'static str> {
        let number = file.get("general.file_type").and_then(Value::integer)?;
        Mix::ALL.into_iter().find(|mix| i128::from(mix.number) == number).map(|mix| mix.name)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The number in `general.file_type`.
    pub(crate) fn number(self) -> u32 {
        self.number
    }

    /// The type of a tensor.
    pub(crate) fn of(self, facts: Facts<'_>) -> BlockType {
        if !is_quantised(facts) {
            return BlockType::F32;
        }
        if self.kind.block_len() == 1 {
            return self.kind;
        }
        fallback(self.preferred(facts), facts.dimensions[0])
    }

    /// The type of a matrix before its width is looked at.
    fn preferred(self, facts: Facts<'_>) -> BlockType {
        use BlockType::*;
        let (part, layer) = part_and_layer(facts.name);
        let is_output = facts.name == "output.weight" || (facts.is_tied && facts.name == "token_embd.weight");
        if is_output {
            let is_whole = facts.dimensions[0].is_multiple_of(self.kind.block_len());
            return match self.kind {
                MXFP4 | Q8_0 => Q8_0,
                _ if !is_whole => Q8_0,
                _ => Q6_K,
            };
        }
        if self.kind == MXFP4 {
            return if facts.dimensions.len() > 2 { MXFP4 } else { Q8_0 };
        }
        if facts.name == "token_embd.weight" {
            return if matches!(self.kind, TQ1_0 | TQ2_0) { Q4_K } else { self.kind };
        }
        let eight = facts.experts == 8;
        match part {
            "attn_v" | "attn_qkv" if eight => Q8_0,
            "attn_k" if eight => Q8_0,
            "attn_v" | "attn_qkv" => match self.of_values(layer, facts) {
                // Eight query heads share these values, so more bits for them cost little.
                Q3_K | Q4_K if facts.is_70b => Q5_K,
                kind => kind,
            },
            "attn_output" => self.of_attention_output(eight),
            part if part.starts_with("ffn_down") => self.of_down(layer, facts.layers),
            _ => self.kind,
        }
    }

    fn of_values(self, layer: usize, facts: Facts<'_>) -> BlockType {
        use BlockType::*;
        let is_grouped = facts.group >= 4;
        match (self.kind, self.size) {
            (Q2_K, _) => {
                if is_grouped {
                    Q4_K
                } else {
                    Q3_K
                }
            }
            (Q3_K, Size::Medium) => {
                if layer < 2 {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            (Q3_K, Size::Large) => Q5_K,
            (IQ4_NL | IQ4_XS, _) if is_grouped => Q5_K,
            (Q4_K | Q5_K, Size::Medium) if more_bits(layer, facts.layers) => Q6_K,
            (Q4_K, Size::Small) if layer < 4 => Q5_K,
            (kind, _) => kind,
        }
    }

    fn of_attention_output(self, eight_experts: bool) -> BlockType {
        use BlockType::*;
        match (self.kind, self.size) {
            (Q2_K | IQ4_NL | IQ4_XS | Q4_K, _) | (Q3_K, Size::Small | Size::Medium) if eight_experts => Q5_K,
            (kind, _) if eight_experts => kind,
            (Q2_K, _) => Q3_K,
            (Q3_K, Size::Medium) => Q4_K,
            (Q3_K, Size::Large) => Q5_K,
            (kind, _) => kind,
        }
    }

    fn of_down(self, layer: usize, layers: usize) -> BlockType {
        use BlockType::*;
        match (self.kind, self.size) {
            (Q2_K, _) => Q3_K,
            (Q3_K, Size::Medium) => {
                if layer < layers / 16 {
                    Q5_K
                } else {
                    Q4_K
                }
            }
            (Q3_K, Size::Large) => Q5_K,
            (Q4_K | Q5_K, Size::Medium) if more_bits(layer, layers) => Q6_K,
            (IQ4_NL | IQ4_XS, _) if layer < layers / 8 => Q5_K,
            (Q4_K, Size::Small) if layer < layers / 8 => Q5_K,
            (kind, _) => kind,
        }
    }
}

/// Whether a tensor is a matrix that the rules give fewer bits; vectors, norms, routers, positions and token types stay f32.
fn is_quantised(facts: Facts<'_>) -> bool {
    let name = facts.name;
    facts.dimensions.len() >= 2
        && name.ends_with("weight")
        && !["_norm.weight", "ffn_gate_inp.weight"].iter().any(|part| name.contains(part))
        && !["position_embd.weight", "token_types.weight"].contains(&name)
}

/// Layers at both ends and every third between them get more bits.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The type that stands in where rows are no whole number of blocks.
fn fallback(kind: BlockType, columns: usize) -> BlockType {
    use BlockType::*;
    if columns.is_multiple_of(kind.block_len()) {
        return kind;
    }
    let smaller = match kind {
        Q2_K | Q3_K | TQ1_0 | TQ2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        IQ4_XS => IQ4_NL,
        kind => kind,
    };
    if columns.is_multiple_of(smaller.block_len()) { smaller } else { F16 }
}

/// `attn_q` and 3 of `blk.3.attn_q.weight`.
fn part_and_layer(name: &str) -> (&str, usize) {
    let within = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let (layer, part) = within.unwrap_or(("0", name));
    (part.split('.').next().unwrap_or(part), layer.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tensor::quant::can_quantize;

    #[test]
    fn names_are_found_and_every_type_has_an_encoder() {
        for mix in Mix::ALL {
            assert_eq!(Mix::from_name(&mix.name.to_uppercase()), Some(mix));
            assert!(can_quantize(mix.kind), "{}", mix.name);
        }
        assert_eq!(Mix::from_name("Q4_K").unwrap().name(), "q4_k_m");
        assert_eq!(Mix::from_name("q9_9"), None);
    }

    #[test]
    fn tensors_get_llama_cpps_types() {
        let cases = [
            // name, columns, layers, group, experts, tied, mix, type
            ("blk.0.attn_v.weight", 2048, 16, 4, 0, true, "q4_k_m", "q6_k"),
            ("blk.2.attn_v.weight", 2048, 16, 4, 0, true, "q4_k_m", "q4_k"),
            ("blk.4.ffn_down.weight", 8192, 16, 4, 0, true, "q4_k_m", "q6_k"),
            ("blk.4.ffn_up.weight", 2048, 16, 4, 0, true, "q4_k_m", "q4_k"),
            ("token_embd.weight", 2048, 16, 4, 0, true, "q4_k_m", "q6_k"),
            ("token_embd.weight", 2048, 16, 4, 0, false, "q4_k_m", "q4_k"),
            ("output.weight", 2048, 16, 4, 0, false, "q4_k_m", "q6_k"),
            // The columns of Gemma 3 270M: no whole blocks of 256, as in the file that people have.
            ("blk.0.attn_q.weight", 640, 18, 4, 0, true, "q4_k_m", "q5_0"),
            ("blk.0.attn_v.weight", 640, 18, 4, 0, true, "q4_k_m", "q8_0"),
            ("blk.0.attn_output.weight", 1024, 18, 4, 0, true, "q4_k_m", "q4_k"),
            ("token_embd.weight", 640, 18, 4, 0, true, "q4_k_m", "q8_0"),
            ("blk.0.attn_q.weight", 72, 18, 4, 0, true, "q4_k_m", "f16"),
            ("blk.0.attn_norm.weight", 640, 18, 4, 0, true, "q4_k_m", "f32"),
            ("blk.0.ffn_gate_inp.weight", 640, 18, 4, 8, true, "q8_0", "f32"),
            ("blk.3.attn_v.weight", 4096, 32, 4, 8, false, "q4_k_m", "q8_0"),
            ("blk.3.attn_output.weight", 4096, 32, 4, 8, false, "q4_k_s", "q5_k"),
            ("blk.1.attn_v.weight", 4096, 32, 1, 0, false, "q3_k_m", "q5_k"),
            ("blk.1.ffn_down.weight", 4096, 32, 1, 0, false, "q3_k_m", "q5_k"),
            ("blk.9.ffn_down.weight", 4096, 32, 1, 0, false, "q2_k", "q3_k"),
            ("blk.0.ffn_down.weight", 4096, 32, 1, 0, false, "q8_0", "q8_0"),
            ("position_embd.weight", 768, 12, 1, 0, true, "f16", "f32"),
        ];
        for (name, columns, layers, group, experts, is_tied, mix, kind) in cases {
            let both = [columns, 64];
            let dimensions = if name.contains("norm") { &both[..1] } else { &both[..] };
            let facts = Facts { name, dimensions, layers, group, experts, is_tied, is_70b: false };
            let found = Mix::from_name(mix).unwrap().of(facts);
            assert_eq!(found, BlockType::from_name(kind).unwrap(), "{name} in {mix}");
        }
    }
}
