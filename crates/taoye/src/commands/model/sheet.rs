//! A model's data sheet: what its configuration, its tensors and its metadata say. It must not know flags.

use anyhow::Result;
use base::gguf;
use model::{Config, Layout, Mix, ModelFile, Positions, RopeScaling};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// What is known of a model.
#[derive(Serialize)]
pub struct Sheet {
    name: String,
    format: String,
    file_bytes: u64,
    files: usize,
    family: &'static str,
    architecture: &'static str,
    mix: Option<&'static str>,
    parameters: u64,
    active_parameters: u64,
    bits_per_weight: f64,
    types: Vec<TypeShare>,
    context_tokens: usize,
    vocabulary: usize,
    tied_embeddings: bool,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden_size: usize,
    intermediate_size: usize,
    experts: Option<String>,
    positions: String,
    sliding_window: Option<String>,
    soft_caps: Option<String>,
    cache: Vec<CacheSize>,
    tokenizer: String,
    chat_template: bool,
    licence: Option<String>,
}

/// How much of a model is stored in one type.
#[derive(Serialize)]
struct TypeShare {
    name: &'static str,
    tensors: usize,
    bytes: u64,
}

/// Memory for the keys and values of a sequence.
#[derive(Serialize)]
struct CacheSize {
    tokens: usize,
    f32_bytes: u64,
    f16_bytes: u64,
}

impl Sheet {
    /// Gathers what an opened model says.
    ///
    /// # Errors
    /// A key of its metadata has a wrong type.
    pub fn new(file: &ModelFile) -> Result<Sheet> {
        let config = file.config();
        let layout = file.decoder().layout();
        let mut types: BTreeMap<&'static str, TypeShare> = BTreeMap::new();
        for entry in layout.entries() {
            let stored = file.stored(entry);
            let bytes = stored.kind.row_bytes(stored.columns).unwrap_or(0) * stored.rows;
            let name = stored.kind.name();
            let share = types.entry(name).or_insert(TypeShare { name, tensors: 0, bytes: 0 });
            (share.tensors, share.bytes) = (share.tensors + 1, share.bytes + bytes as u64);
        }
        let mut types: Vec<TypeShare> = types.into_values().collect();
        types.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        let weight_bytes: u64 = types.iter().map(|share| share.bytes).sum();
        let words = match file.gguf() {
            Some(gguf) => words_of_gguf(gguf)?,
            None => words_of_folder(file.path()),
        };
        let version = file.gguf().map(|gguf| format!(" v{}", gguf.version()));
        Ok(Sheet {
            name: words.name.unwrap_or_else(|| file_name(file.path())),
            format: format!("{}{}", file.format().name(), version.unwrap_or_default()),
            file_bytes: file.len_bytes(),
            files: file.paths().len(),
            family: config.family.model_type(),
            architecture: config.family.architecture(),
            mix: file.gguf().and_then(Mix::of_file),
            parameters: layout.len() as u64,
            active_parameters: active_parameters(config, layout),
            bits_per_weight: 8.0 * weight_bytes as f64 / layout.len() as f64,
            types,
            context_tokens: config.max_positions,
            vocabulary: config.vocab_size,
            tied_embeddings: config.tie_embeddings && config.causal,
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            experts: config.experts.as_ref().map(|experts| {
                format!(
                    "{} of {} for each token, width {}",
                    experts.top_k, experts.count, experts.intermediate_size
                )
            }),
            positions: positions(config),
            sliding_window: config.sliding.as_ref().map(|sliding| {
                let layers = sliding.layers.iter().filter(|has| **has).count();
                format!("{} tokens in {layers} of {} layers", sliding.tokens, config.layers)
            }),
            soft_caps: soft_caps(config),
            cache: cache_sizes(config),
            tokenizer: words.tokenizer,
            chat_template: words.chat_template,
            licence: words.licence,
        })
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(out, "  {name:<18}{text}");
        let files = if self.files == 1 { String::new() } else { format!(" in {} files", self.files) };
        let mix = self.mix.map_or(String::new(), |mix| format!(", {mix}"));
        line("model", self.name.clone())?;
        line("format", format!("{}{mix}, {}{files}", self.format, plan::memory::size(self.file_bytes)))?;
        line("family", format!("{} ({})", self.family, self.architecture))?;
        let active = match self.active_parameters == self.parameters {
            true => String::new(),
            false => format!(", {} active for each token", grouped(self.active_parameters)),
        };
        line("parameters", format!("{}{active}", grouped(self.parameters)))?;
        for (index, share) in self.types.iter().enumerate() {
            let name = if index == 0 { "types" } else { "" };
            let size = plan::memory::size(share.bytes);
            line(name, format!("{:<8}{:>5} tensors  {size}", share.name, share.tensors))?;
        }
        line("bits per weight", format!("{:.2}", self.bits_per_weight))?;
        line("context", format!("{} tokens", grouped(self.context_tokens as u64)))?;
        let tied = if self.tied_embeddings { ", the table is the output projection" } else { "" };
        line("vocabulary", format!("{} tokens{tied}", grouped(self.vocabulary as u64)))?;
        line("layers", format!("{} of width {}", self.layers, self.hidden_size))?;
        let heads =
            format!("{} heads of width {}, {} for keys and values", self.heads, self.head_dim, self.kv_heads);
        line("attention", heads)?;
        line("feed-forward", format!("width {}", grouped(self.intermediate_size as u64)))?;
        line("positions", self.positions.clone())?;
        let optional = [
            ("experts", &self.experts),
            ("sliding window", &self.sliding_window),
            ("soft caps", &self.soft_caps),
        ];
        for (name, text) in optional {
            if let Some(text) = text {
                line(name, text.clone())?;
            }
        }
        for (index, cache) in self.cache.iter().enumerate() {
            let name = if index == 0 { "keys and values" } else { "" };
            let (half, full) = (plan::memory::size(cache.f16_bytes), plan::memory::size(cache.f32_bytes));
            line(name, format!("{half} in f16, {full} in f32, for {} tokens", grouped(cache.tokens as u64)))?;
        }
        line("tokenizer", self.tokenizer.clone())?;
        line("chat template", if self.chat_template { "yes" } else { "no" }.to_owned())?;
        let licence = self.licence.clone().unwrap_or_else(|| "not given".to_owned());
        write!(out, "  {:<18}{licence}", "licence")
    }
}

/// What metadata say in words.
struct Words {
    name: Option<String>,
    tokenizer: String,
    chat_template: bool,
    licence: Option<String>,
}

fn words_of_gguf(file: &gguf::File) -> Result<Words> {
    let text = |key: &str| -> Result<Option<String>> { Ok(file.find::<&str>(key)?.map(str::to_owned)) };
    let kind = text("tokenizer.ggml.model")?.unwrap_or_else(|| "none".to_owned());
    let name = match kind.as_str() {
        "gpt2" => "byte-level BPE",
        "llama" | "gemma4" => "SentencePiece",
        "bert" => "WordPiece",
        other => other,
    };
    let cut = text("tokenizer.ggml.pre")?.map_or(String::new(), |cut| format!(", texts cut as `{cut}`"));
    Ok(Words {
        name: text("general.name")?,
        tokenizer: format!("{name}{cut}"),
        chat_template: file.get("tokenizer.chat_template").is_some(),
        licence: text("general.license")?,
    })
}

fn words_of_folder(folder: &Path) -> Words {
    let json = |name: &str| -> Option<Value> {
        serde_json::from_str(&base::fs::read_text(&folder.join(name)).ok()?).ok()
    };
    let kind = match json("tokenizer.json") {
        Some(file) => file["model"]["type"].as_str().unwrap_or("BPE").to_owned(),
        None if folder.join("tokenizer.model").exists() => "SentencePiece".to_owned(),
        None => "none".to_owned(),
    };
    let settings = json("tokenizer_config.json").unwrap_or_default();
    let chat_template = !settings["chat_template"].is_null() || folder.join("chat_template.jinja").exists();
    Words { name: None, tokenizer: kind, chat_template, licence: licence_of_card(folder) }
}

/// The licence that a model card's header names.
fn licence_of_card(folder: &Path) -> Option<String> {
    let card = base::fs::read_text(&folder.join("README.md")).ok()?;
    let header = card.strip_prefix("---")?.split("\n---").next()?.to_owned();
    let line = header.lines().find_map(|line| line.strip_prefix("license:"))?.trim();
    Some(line.trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

/// Parameters that take part for a token: all but the experts that are not chosen.
fn active_parameters(config: &Config, layout: &Layout) -> u64 {
    let Some(experts) = &config.experts else { return layout.len() as u64 };
    let layers = experts.layers.iter().filter(|has| **has).count();
    let each = 3 * config.hidden_size * experts.intermediate_size;
    (layout.len() - layers * (experts.count - experts.top_k) * each) as u64
}

fn positions(config: &Config) -> String {
    if config.positions == Positions::Learned {
        return "a learned table".to_owned();
    }
    let rope = &config.rope;
    let scaling = match &rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear × {factor}"),
        RopeScaling::Dynamic { factor, .. } => format!(", dynamic × {factor}"),
        RopeScaling::Yarn { factor, original, .. } => format!(", YaRN × {factor} from {original} tokens"),
        RopeScaling::Llama3 { factor, original, .. } => {
            format!(", Llama 3's × {factor} from {original} tokens")
        }
        RopeScaling::LongRope { original, .. } => format!(", longrope from {original} tokens"),
    };
    let share =
        if rope.fraction == 1.0 { String::new() } else { format!(", {} of each head", rope.fraction) };
    format!("rotary, base {}{share}{scaling}", rope.theta)
}

fn soft_caps(config: &Config) -> Option<String> {
    let caps = [("scores", config.attention_soft_cap), ("logits", config.logit_soft_cap)];
    let told: Vec<String> =
        caps.iter().filter_map(|(name, cap)| cap.map(|cap| format!("{name} within ±{cap}"))).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Keys and values at a usual and at the longest context.
fn cache_sizes(config: &Config) -> Vec<CacheSize> {
    let mut lengths = vec![4096.min(config.max_positions), config.max_positions];
    lengths.dedup();
    let width = 2 * config.kv_heads * config.head_dim * config.layers;
    let size = |tokens: usize| {
        let elements = (tokens * width) as u64;
        CacheSize { tokens, f32_bytes: 4 * elements, f16_bytes: 2 * elements }
    };
    if config.causal { lengths.into_iter().map(size).collect() } else { Vec::new() }
}

fn file_name(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_set_apart() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (134_515_008, "134,515,008")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
