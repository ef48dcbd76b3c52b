//! GGUF metadata ↔ [`Config`] (keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! Whatever the decoder cannot compute is refused here, by key. It must not know how a tensor is stored.

use crate::{Config, Family, Rope};
use base::gguf::{File, FromValue, Value, Writer};

/// Architectures of llama.cpp, with the families that compute them.
pub(crate) const ARCHITECTURES: [(&str, Family); 3] =
    [("llama", Family::Llama), ("qwen2", Family::Qwen2), ("qwen3", Family::Qwen3)];

/// The configuration of a GGUF file. Errors are sentences that name a key.
pub(crate) fn read(file: &File) -> Result<Config, String> {
    let name: &str = file.require("general.architecture").map_err(plain)?;
    let Some((name, family)) = ARCHITECTURES.iter().find(|known| known.0 == name) else {
        let supported = ARCHITECTURES.map(|known| known.0).join(", ");
        return Err(format!("the architecture `{name}` is not supported; supported: {supported}"));
    };
    let reader = Reader { file, architecture: name };
    reader.refuse_unsupported()?;
    let hidden_size: usize = reader.require("embedding_length")?;
    let heads: usize = reader.each_layer("attention.head_count")?;
    let head_dim = reader.head_dim(hidden_size, heads)?;
    let config = Config {
        family: *family,
        intermediate_size: reader.each_layer("feed_forward_length")?,
        kv_heads: match reader.has("attention.head_count_kv") {
            true => reader.each_layer("attention.head_count_kv")?,
            false => heads,
        },
        head_dim,
        max_positions: reader.require("context_length")?,
        norm_eps: reader.require("attention.layer_norm_rms_epsilon")?,
        rope: Rope::plain(reader.find("rope.freq_base")?.map_or(10_000.0, f32::into)),
        tie_embeddings: file.tensor("output.weight").is_none(),
        qk_norm: *family == Family::Qwen3,
        qkv_bias: file.tensor("blk.0.attn_q.bias").is_some(),
        output_bias: file.tensor("blk.0.attn_output.bias").is_some(),
        mlp_bias: file.tensor("blk.0.ffn_up.bias").is_some(),
        bos_token_id: file.find("tokenizer.ggml.bos_token_id").map_err(plain)?,
        eos_token_ids: ends_of_answers(file)?,
        ..Config::llama(reader.vocab_size()?, hidden_size, reader.require("block_count")?, heads)
    };
    config.validate()?;
    Ok(config)
}

/// Writes what [`read`] reads, but for the tokens, which belong to the tokenizer.
pub(crate) fn write(config: &Config, writer: &mut Writer) {
    let known = ARCHITECTURES.iter().find(|known| known.1 == config.family);
    let architecture = known.expect("every family has an architecture").0;
    writer.set("general.architecture", architecture);
    let mut set = |key: &str, value: Value<'_>| writer.set(&format!("{architecture}.{key}"), value);
    set("block_count", Value::U32(config.layers as u32));
    set("context_length", Value::U32(config.max_positions as u32));
    set("embedding_length", Value::U32(config.hidden_size as u32));
    set("feed_forward_length", Value::U32(config.intermediate_size as u32));
    set("attention.head_count", Value::U32(config.heads as u32));
    set("attention.head_count_kv", Value::U32(config.kv_heads as u32));
    set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps));
    set("attention.key_length", Value::U32(config.head_dim as u32));
    set("attention.value_length", Value::U32(config.head_dim as u32));
    set("rope.freq_base", Value::F32(config.rope.theta as f32));
    set("rope.dimension_count", Value::U32(config.head_dim as u32));
    set("vocab_size", Value::U32(config.vocab_size as u32));
}

/// Texts of tokens that end an answer, whatever a file's own key says: chat models end a turn with one of these.
const END_TEXTS: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<EOT>",
    "<|eot|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// Token types of GGUF that are no text: control, user-defined.
const SPECIAL_TYPES: [i32; 2] = [3, 4];

/// Ids of the tokens that end an answer, ascending.
fn ends_of_answers(file: &File) -> Result<Vec<u32>, String> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(file.find::<u32>(&format!("tokenizer.ggml.{key}")).map_err(plain)?);
    }
    let tokens: Option<base::gguf::Array<'_>> = file.find("tokenizer.ggml.tokens").map_err(plain)?;
    let types: Vec<i32> = file.find("tokenizer.ggml.token_type").map_err(plain)?.unwrap_or_default();
    let tokens = tokens.into_iter().flat_map(|tokens| tokens.iter().enumerate());
    for (id, token) in
        tokens.filter(|(id, _)| types.get(*id).is_some_and(|kind| SPECIAL_TYPES.contains(kind)))
    {
        if <&str>::from_value(token).is_some_and(|text| END_TEXTS.contains(&text)) {
            ids.push(id as u32);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Reads the keys of one architecture.
struct Reader<'a> {
    file: &'a File,
    architecture: &'static str,
}

impl<'a> Reader<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn has(&self, key: &str) -> bool {
        self.file.get(&self.key(key)).is_some()
    }

    fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, String> {
        self.file.require(&self.key(key)).map_err(plain)
    }

    fn find<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, String> {
        self.file.find(&self.key(key)).map_err(plain)
    }

    /// A number that may be stored once for all layers or once for each; it must be the same in all.
    fn each_layer(&self, key: &str) -> Result<usize, String> {
        if !matches!(self.file.get(&self.key(key)), Some(Value::Array(_))) {
            return self.require(key);
        }
        let numbers: Vec<usize> = self.require(key)?;
        match numbers.first() {
            Some(first) if numbers.iter().all(|number| number == first) => Ok(*first),
            _ => Err(format!("`{}` differs from layer to layer, which is not supported", self.key(key))),
        }
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, String> {
        let head_dim = self.find("attention.key_length")?.unwrap_or(hidden_size / heads.max(1));
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.find::<usize>(key)?.filter(|other| *other != head_dim) {
                let key = self.key(key);
                return Err(format!("`{key}` is {other}, the heads' width {head_dim}; it must be the same"));
            }
        }
        Ok(head_dim)
    }

    /// The rows of the embedding table.
    fn vocab_size(&self) -> Result<usize, String> {
        let table =
            self.file.tensor("token_embd.weight").ok_or("the tensor `token_embd.weight` is missing")?;
        Ok(table.dimensions.get(1).copied().unwrap_or(1))
    }

    fn refuse_unsupported(&self) -> Result<(), String> {
        if let Some(kind) = self.find::<&str>("rope.scaling.type")?.filter(|kind| *kind != "none") {
            return Err(format!(
                "`{}` is `{kind}`, which is not supported yet",
                self.key("rope.scaling.type")
            ));
        }
        if self.find::<f32>("rope.scale_linear")?.is_some_and(|factor| factor != 1.0) {
            return Err(format!("`{}` is set, which is not supported", self.key("rope.scale_linear")));
        }
        if self.file.tensor("rope_freqs.weight").is_some() {
            return Err(
                "the tensor `rope_freqs.weight` scales the rotary embedding, which is not supported yet"
                    .into(),
            );
        }
        for key in ["expert_count", "attention.sliding_window"] {
            if self.find::<u64>(key)?.is_some_and(|number| number != 0) {
                return Err(format!("`{}` is set, which is not supported yet", self.key(key)));
            }
        }
        Ok(())
    }
}

/// The sentence of an error without the file's name, which the caller adds.
fn plain(error: base::Error) -> String {
    match error {
        base::Error::Gguf { reason, .. } => reason,
        error => error.to_string(),
    }
}
