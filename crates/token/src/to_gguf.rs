//! A Hugging Face folder's tokenizer as the metadata of a GGUF file, so that llama.cpp gives the same ids.
//!
//! Knows files and keys; must not know how text is encoded, nor how the container is laid out. What the keys mean is in
//! llama.cpp's `src/llama-vocab.cpp`.

use crate::error::{Error, Result};
use crate::pretoken::Scanner;
use base::gguf::Writer;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Token types of GGUF.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Puts the tokenizer of `folder` into the header of a GGUF file whose embedding table has `rows` rows. Returns what a user
/// should know: where llama.cpp may cut a text otherwise.
///
/// # Errors
/// [`Error::Base`] where a file cannot be read, [`Error::File`] naming the part that GGUF cannot hold.
pub fn write_gguf(folder: &Path, rows: usize, writer: &mut Writer) -> Result<Vec<String>> {
    let path = folder.join("tokenizer.json");
    let reject = |reason: String| Error::File { path: path.clone(), reason };
    let file = read(&path)?;
    let mut texts: Vec<Option<(String, i32)>> = vec![None; rows];
    let vocabulary = vocabulary(&file).map_err(reject)?;
    for (text, id) in vocabulary {
        let place = texts.get_mut(id).ok_or_else(|| reject(too_many(id, rows)))?;
        *place = Some((text, NORMAL));
    }
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else {
            return Err(reject("an added token lacks its content or id".into()));
        };
        let kind = if token["special"] == json!(true) { CONTROL } else { USER_DEFINED };
        let place = texts.get_mut(id as usize).ok_or_else(|| reject(too_many(id as usize, rows)))?;
        *place = Some((text.to_owned(), kind));
    }
    let notes = match file["model"]["type"].as_str().unwrap_or("BPE") {
        "WordPiece" => word_pieces(&file, &mut texts, writer),
        "BPE" if is_byte_level(&file) => byte_level(&file, writer),
        "BPE" if file["model"]["byte_fallback"] == json!(true) => sentence_pieces(&file, &mut texts, writer),
        other => Err(format!(
            "`model.type` is {other}, of a form that GGUF cannot hold; supported: byte-level BPE, BPE with \
                              byte fallback, WordPiece"
        )),
    }
    .map_err(reject)?;
    let fill =
        |(id, token): (usize, Option<(String, i32)>)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
    let (texts, kinds): (Vec<String>, Vec<i32>) = texts.into_iter().enumerate().map(fill).unzip();
    writer.set_strings("tokenizer.ggml.tokens", &texts);
    writer.set_array("tokenizer.ggml.token_type", &kinds);
    special(folder, &file, &texts, writer)?;
    Ok(notes)
}

/// Texts and ids of the model's own vocabulary.
fn vocabulary(file: &Value) -> std::result::Result<Vec<(String, usize)>, String> {
    let entries = file["model"]["vocab"].as_object().ok_or("`model.vocab` is not an object")?;
    let entry = |(text, id): (&String, &Value)| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        id.map(|id| (text.clone(), id)).ok_or_else(|| format!("`model.vocab` gives {text:?} no id"))
    };
    entries.iter().map(entry).collect()
}

fn too_many(id: usize, rows: usize) -> String {
    format!("a token has the id {id}, but the model's embedding table has only {rows} rows")
}

/// Pre-tokenizers, those inside a sequence one by one.
fn steps<'a>(file: &'a Value, key: &str, list: &str) -> Vec<&'a Value> {
    let step = &file[key];
    match step[list].as_array() {
        Some(steps) => steps.iter().collect(),
        None if step.is_null() => Vec::new(),
        None => vec![step],
    }
}

fn is_byte_level(file: &Value) -> bool {
    let steps = steps(file, "pre_tokenizer", "pretokenizers");
    steps.into_iter().chain([&file["decoder"]]).any(|step| step["type"] == json!("ByteLevel"))
}

fn byte_level(file: &Value, writer: &mut Writer) -> std::result::Result<Vec<String>, String> {
    let mut notes = Vec::new();
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", pre_tokenizer(file, &mut notes)?);
    writer.set_strings("tokenizer.ggml.merges", &merges(file)?);
    Ok(notes)
}

/// llama.cpp's name for the way that a text is cut before merging.
fn pre_tokenizer(file: &Value, notes: &mut Vec<String>) -> std::result::Result<&'static str, String> {
    let steps = steps(file, "pre_tokenizer", "pretokenizers");
    let kind = |step: &Value| step["type"].as_str().unwrap_or_default().to_owned();
    let has_digits =
        steps.iter().any(|step| kind(step) == "Digits" && step["individual_digits"] == json!(true));
    let patterns: Vec<&str> = steps.iter().filter_map(|step| step["pattern"]["Regex"].as_str()).collect();
    let is_plain = steps.iter().any(|step| kind(step) == "ByteLevel" && step["use_regex"] != json!(false));
    let keeps_words = file["model"]["ignore_merges"] == json!(true);
    if patterns.is_empty() && is_plain {
        return Ok(if has_digits { "smollm" } else { "gpt-2" });
    }
    if let [pattern] = patterns[..] {
        match Scanner::for_pattern(pattern) {
            Some(Scanner::Own { digits: 1 }) => {
                notes.push(
                    "llama.cpp knows no way to cut texts that equals this tokenizer's. The file names `ufakzeka`, which \
                     differs in combining marks (Hindi, Thai, Arabic vowels) and needs a llama.cpp of 2026; Chinese and \
                     English give the same ids but for rare cases where a Chinese word follows a letter or a sign"
                        .into(),
                );
                return Ok("ufakzeka");
            }
            Some(Scanner::Cl100k { digits: 1 }) => return Ok("qwen2"),
            Some(Scanner::Marks { digits: 1 }) => return Ok("qwen35"),
            Some(Scanner::Cl100k { digits: 3 }) => return Ok(if keeps_words { "llama-bpe" } else { "dbrx" }),
            Some(Scanner::Gpt2) => return Ok("gpt-2"),
            _ => {}
        }
        if pattern.contains(r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}") {
            return Ok(if pattern.contains("(?i:'s|'t") { "gpt-4o" } else { "tekken" });
        }
    }
    if patterns.len() == 3 && patterns[0] == r"\p{N}{1,3}" && patterns[1].starts_with("[一-龥") {
        return Ok("deepseek-v3");
    }
    Err(format!(
        "the pre-tokenizer {patterns:?} is none that llama.cpp has a name for, so a GGUF file would give other ids"
    ))
}

/// `left right` for each merge, as GPT-2's file has them.
fn merges(file: &Value) -> std::result::Result<Vec<String>, String> {
    let merges = file["model"]["merges"].as_array().ok_or("`model.merges` is not a list")?;
    let merge = |merge: &Value| match (merge.as_str(), merge[0].as_str(), merge[1].as_str()) {
        (Some(text), _, _) => Ok(text.to_owned()),
        (None, Some(left), Some(right)) => Ok(format!("{left} {right}")),
        _ => Err(format!("`model.merges` holds {merge}")),
    };
    merges.iter().map(merge).collect()
}

/// SentencePiece's BPE. llama.cpp merges by the scores of the results, so a piece's score is how early it is made.
fn sentence_pieces(
    file: &Value,
    texts: &mut [Option<(String, i32)>],
    writer: &mut Writer,
) -> std::result::Result<Vec<String>, String> {
    let mut ranks = std::collections::HashMap::new();
    for (rank, merge) in merges(file)?.into_iter().enumerate() {
        ranks.entry(merge.replace(' ', "")).or_insert(rank);
    }
    let unknown = file["model"]["unk_token"].as_str().unwrap_or_default();
    let mut scores = vec![0.0f32; texts.len()];
    for (score, (text, kind)) in
        scores.iter_mut().zip(texts.iter_mut()).filter_map(|(score, token)| Some((score, token.as_mut()?)))
    {
        let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        *kind = match *kind {
            _ if text == unknown => UNKNOWN,
            NORMAL if is_byte => BYTE,
            kind => kind,
        };
        let last = ranks.len();
        *score =
            if *kind == NORMAL { -(ranks.get(text.as_str()).copied().unwrap_or(last) as f32) } else { 0.0 };
    }
    let normal = steps(file, "normalizer", "normalizers");
    let pre = steps(file, "pre_tokenizer", "pretokenizers");
    let prepends = normal.iter().any(|step| step["type"] == json!("Prepend"))
        || pre.iter().any(|step| {
            step["type"] == json!("Metaspace")
                && step["prepend_scheme"] != json!("never")
                && step["add_prefix_space"] != json!(false)
        });
    writer.set("tokenizer.ggml.model", "llama");
    writer.set("tokenizer.ggml.pre", "default");
    writer.set_array("tokenizer.ggml.scores", &scores);
    writer.set("tokenizer.ggml.add_space_prefix", prepends);
    Ok(Vec::new())
}

/// BERT's pieces: llama.cpp marks what begins a word instead of what goes on with one.
fn word_pieces(
    file: &Value,
    texts: &mut [Option<(String, i32)>],
    writer: &mut Writer,
) -> std::result::Result<Vec<String>, String> {
    let prefix = file["model"]["continuing_subword_prefix"].as_str().unwrap_or("##");
    for (text, kind) in texts.iter_mut().flatten().filter(|token| token.1 == NORMAL) {
        *text = match text.strip_prefix(prefix) {
            Some(rest) => rest.to_owned(),
            None => format!("▁{text}"),
        };
        *kind = NORMAL;
    }
    writer.set("tokenizer.ggml.model", "bert");
    writer.set("tokenizer.ggml.pre", "default");
    writer.set("tokenizer.ggml.token_type_count", 2u32);
    Ok(Vec::new())
}

/// The ids of tokens with a meaning, and the chat template.
fn special(folder: &Path, file: &Value, texts: &[String], writer: &mut Writer) -> Result<()> {
    let optional = |name: &str| -> Result<Value> {
        let path = folder.join(name);
        if path.exists() { read(&path) } else { Ok(Value::Object(Map::new())) }
    };
    let (config, map) = (optional("tokenizer_config.json")?, optional("special_tokens_map.json")?);
    let spelt = |object: &Value, name: &str| -> Option<String> {
        Some(object[name].as_str().or(object[name]["content"].as_str())?.to_owned())
    };
    let id_of = |name: &str| -> Option<usize> {
        let text = spelt(&config, name).or_else(|| spelt(&map, name))?;
        texts.iter().position(|known| *known == text)
    };
    let is_word_piece = file["model"]["type"] == json!("WordPiece");
    let names = [
        (if is_word_piece { "cls_token" } else { "bos_token" }, "bos"),
        (if is_word_piece { "sep_token" } else { "eos_token" }, "eos"),
        ("sep_token", "seperator"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
        ("mask_token", "mask"),
    ];
    let mut bos = None;
    for (name, key) in names {
        let Some(id) = id_of(name) else { continue };
        writer.set(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
        if key == "bos" {
            bos = Some(texts[id].clone());
        }
    }
    let adds = |text: &Option<String>| text.as_ref().is_some_and(|text| template_adds(file, text));
    let flag = |name: &str| config[name].as_bool();
    writer.set("tokenizer.ggml.add_bos_token", flag("add_bos_token").unwrap_or_else(|| adds(&bos)));
    if let Some(adds_eos) = flag("add_eos_token") {
        writer.set("tokenizer.ggml.add_eos_token", adds_eos);
    }
    let template = folder.join("chat_template.jinja");
    let template = match template.exists() {
        true => Some(base::fs::read_text(&template)?),
        false => config["chat_template"].as_str().map(str::to_owned),
    };
    if let Some(template) = template {
        writer.set("tokenizer.chat_template", template.as_str());
    }
    Ok(())
}

/// Whether the post-processor puts a token before a text.
fn template_adds(file: &Value, token: &str) -> bool {
    let processors = steps(file, "post_processor", "processors");
    processors.iter().any(|processor| {
        let first = &processor["single"][0]["SpecialToken"]["id"];
        *first == json!(token) || processor["cls"][0] == json!(token)
    })
}

fn read(path: &Path) -> Result<Value> {
    let text = base::fs::read_text(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::File { path: path.to_owned(), reason: format!("not valid JSON: {error}") })
}
