//! The families: their names in files, and the functions that read and write what is peculiar to each. One row a family;
//! nothing else asks for a family by name.

use super::Config;
use super::read::{self, Reader};
use super::write;
use serde_json::Value;

/// Families whose configuration is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3; SmolLM, Yi and many others say that they are Llamas.
    Llama,
    /// Mistral: a sliding window in every layer, or none.
    Mistral,
    /// Mixtral: Mistral with experts.
    Mixtral,
    /// Qwen2 and Qwen2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: query and key norms.
    Qwen3,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// Gemma: gains stored less one, scaled embeddings.
    Gemma,
    /// Gemma 2: norms before and after, soft caps, every other layer with a window.
    Gemma2,
    /// Gemma 3, text: query and key norms, two rotary embeddings.
    Gemma3,
    /// Phi-3 and Phi-4: fused projections, longrope, partial rotation.
    Phi3,
    /// GPT-2: layer norms, learned positions.
    Gpt2,
    /// BERT-shaped encoders.
    Bert,
}

/// What is known of a family.
pub(super) struct Row {
    family: Family,
    pub model_type: &'static str,
    pub architecture: &'static str,
    names: &'static Names,
    pub read: fn(&Reader<'_>) -> Result<Config, String>,
    pub write: fn(&Config, &mut Value),
}

/// Names of weights in a family's files. An empty name says that the family has no such weight.
pub(crate) struct Names {
    /// What all names begin with in some files and not in others.
    pub prefix: &'static str,
    pub embedding: &'static str,
    pub positions: &'static str,
    pub token_types: &'static str,
    pub embedding_norm: &'static str,
    /// A layer's names follow this, its number and a dot.
    pub layer: &'static str,
    pub attention_norm: &'static str,
    /// One name where the three are one tensor.
    pub qkv: &'static [&'static str],
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub output: &'static str,
    /// The norm after attention: of its result, or of the sum.
    pub attention_post_norm: &'static str,
    pub mlp_norm: &'static str,
    /// Gate and up projection, or one name where they are one tensor or there is no gate.
    pub gate_up: &'static [&'static str],
    pub down: &'static str,
    pub mlp_post_norm: &'static str,
    pub router: &'static str,
    /// An expert's names follow this, its number and a dot.
    pub expert: &'static str,
    /// Its gate, up and down projection.
    pub expert_parts: [&'static str; 3],
    pub final_norm: &'static str,
    pub head: &'static str,
    /// Whether the files hold gains less one.
    pub gains_less_one: bool,
    /// Whether the files hold the layers' matrices transposed.
    pub is_transposed: bool,
    /// Tensors that may be there and carry nothing, by the end of their names.
    pub ignored_ends: &'static [&'static str],
    /// The same by their beginning, after the prefix.
    pub ignored_starts: &'static [&'static str],
}

const LLAMA: Names = Names {
    prefix: "",
    embedding: "model.embed_tokens",
    positions: "",
    token_types: "",
    embedding_norm: "",
    layer: "model.layers.",
    attention_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    attention_post_norm: "",
    mlp_norm: "post_attention_layernorm",
    gate_up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    mlp_post_norm: "",
    router: "mlp.gate",
    expert: "mlp.experts.",
    expert_parts: ["gate_proj", "up_proj", "down_proj"],
    final_norm: "model.norm",
    head: "lm_head",
    gains_less_one: false,
    is_transposed: false,
    ignored_ends: &["rotary_emb.inv_freq"],
    ignored_starts: &[],
};

const MIXTRAL: Names = Names {
    router: "block_sparse_moe.gate",
    expert: "block_sparse_moe.experts.",
    expert_parts: ["w1", "w3", "w2"],
    ..LLAMA
};

const GEMMA: Names = Names { gains_less_one: true, ..LLAMA };

const GEMMA2: Names = Names {
    attention_post_norm: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_post_norm: "post_feedforward_layernorm",
    ..GEMMA
};

const PHI3: Names = Names { qkv: &["self_attn.qkv_proj"], gate_up: &["mlp.gate_up_proj"], ..LLAMA };

const GPT2: Names = Names {
    prefix: "transformer.",
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    layer: "transformer.h.",
    attention_norm: "ln_1",
    qkv: &["attn.c_attn"],
    output: "attn.c_proj",
    mlp_norm: "ln_2",
    gate_up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    final_norm: "transformer.ln_f",
    is_transposed: true,
    ignored_ends: &["attn.bias", "attn.masked_bias"],
    ..LLAMA
};

const BERT: Names = Names {
    prefix: "bert.",
    embedding: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    attention_norm: "",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    attention_post_norm: "attention.output.LayerNorm",
    mlp_norm: "",
    gate_up: &["intermediate.dense"],
    down: "output.dense",
    mlp_post_norm: "output.LayerNorm",
    final_norm: "",
    head: "",
    ignored_ends: &["position_ids"],
    ignored_starts: &["pooler.", "cls."],
    ..LLAMA
};

macro_rules! row {
    ($family:ident, $type:literal, $architecture:literal, $names:ident, $function:ident) => {
        Row {
            family: Family::$family,
            model_type: $type,
            architecture: $architecture,
            names: &$names,
            read: read::$function,
            write: write::$function,
        }
    };
}

const ROWS: [Row; 12] = [
    row!(Llama, "llama", "LlamaForCausalLM", LLAMA, llama),
    row!(Mistral, "mistral", "MistralForCausalLM", LLAMA, mistral),
    row!(Mixtral, "mixtral", "MixtralForCausalLM", MIXTRAL, mixtral),
    row!(Qwen2, "qwen2", "Qwen2ForCausalLM", LLAMA, qwen2),
    row!(Qwen3, "qwen3", "Qwen3ForCausalLM", LLAMA, qwen3),
    row!(Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM", LLAMA, qwen3_moe),
    row!(Gemma, "gemma", "GemmaForCausalLM", GEMMA, gemma),
    row!(Gemma2, "gemma2", "Gemma2ForCausalLM", GEMMA2, gemma2),
    row!(Gemma3, "gemma3_text", "Gemma3ForCausalLM", GEMMA2, gemma3),
    row!(Phi3, "phi3", "Phi3ForCausalLM", PHI3, phi3),
    row!(Gpt2, "gpt2", "GPT2LMHeadModel", GPT2, gpt2),
    row!(Bert, "bert", "BertModel", BERT, bert),
];

impl Family {
    /// Every family, in the order of the table.
    pub fn all() -> impl Iterator<Item = Family> {
        ROWS.iter().map(|row| row.family)
    }

    /// The name in `model_type`.
    pub fn model_type(self) -> &'static str {
        self.row().model_type
    }

    /// The name in `architectures`.
    pub fn architecture(self) -> &'static str {
        self.row().architecture
    }

    /// The family of a `model_type`.
    ///
    /// # Errors
    /// A sentence that names what is supported.
    pub fn from_model_type(name: &str) -> Result<Family, String> {
        let row = ROWS.iter().find(|row| row.model_type == name);
        row.map(|row| row.family).ok_or_else(|| {
            format!("the architecture `{name}` is not supported; supported: {}", Family::names())
        })
    }

    /// All names, for messages.
    pub fn names() -> String {
        let names: Vec<&str> = ROWS.iter().map(|row| row.model_type).collect();
        names.join(", ")
    }

    pub(crate) fn weight_names(self) -> &'static Names {
        self.row().names
    }

    pub(super) fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.family == self).expect("every family is listed")
    }
}
