//! A tokenizer's folder: `tokenizer.json` and its companions, written so that Hugging Face `tokenizers` and transformers
//! load them unchanged; what was loaded is written back as it was. Knows files; must not know how text is encoded.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::chat::CHATML;
use crate::error::{Error, Result};
use crate::pretoken::pattern;
use crate::read::byte_letters;
use crate::sentencepiece::ModelFile;
use crate::tokenizer::{MESSAGE_END, MESSAGE_START, Settings, Tokenizer};
use crate::train::Pair;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
/// What a folder may hold beside these, for programs that read the older form.
const OTHERS: [&str; 4] = ["added_tokens.json", "vocab.json", "merges.txt", "chat_template.json"];

/// What a tokenizer was made from.
pub(crate) enum Source {
    /// The text of `tokenizer.json`.
    Json(String),
    /// A file of another format: its kind, and the hash of what it says of the tokenizer.
    Other { kind: &'static str, hash: String },
}

/// The files that a tokenizer was read from.
pub(crate) struct Companions {
    /// Names and contents, without `tokenizer.json`.
    files: Vec<(&'static str, String)>,
    settings: Settings,
}

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json` (with the chat template) and `special_tokens_map.json` into the
    /// folder `directory`, which is made if need be. Each file is complete or not there. A tokenizer that was loaded is
    /// written as it was, with all its companions, but for settings that have been changed since.
    ///
    /// # Errors
    /// [`Error::Base`] when the folder cannot be written, [`Error::File`] for a tokenizer that was not read from a
    /// `tokenizer.json`.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        let source = match &self.source {
            Source::Json(source) => source,
            Source::Other { kind, .. } => {
                return Err(Error::File {
                    path: directory.join(TOKENIZER),
                    reason: format!(
                        "it was read from a {kind} file, which this program does not turn into tokenizer.json; take that of \
                         the model's Hugging Face folder"
                    ),
                });
            }
        };
        base::fs::create_folder(directory)?;
        write(&directory.join(TOKENIZER), source)?;
        let Some(companions) = &self.companions else {
            write(&directory.join(CONFIG), &pretty(&config_json(&self.settings)))?;
            let names = json!({ "eos_token": self.settings.eos_token, "pad_token": self.settings.pad_token });
            return Ok(write(&directory.join(SPECIAL), &pretty(&names))?);
        };
        for (name, text) in companions.changed(&self.settings) {
            write(&directory.join(name), &text)?;
        }
        Ok(())
    }

    /// Reads a folder with a `tokenizer.json`, that file (what [`Tokenizer::save`] wrote, or what Hugging Face has of GPT-2,
    /// SmolLM, Llama, Mistral, Qwen, Gemma, Phi, BERT and their like) or without one but with a SentencePiece `.model`, such a
    /// file, or a GGUF file.
    ///
    /// # Errors
    /// [`Error::Base`] when a file cannot be read, [`Error::File`] naming the part that cannot be used and what to do.
    pub fn load(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Tokenizer::from_gguf(&base::gguf::File::open(path)?);
        }
        let names = [TOKENIZER, "tokenizer.model", "spiece.model"].map(|name| path.join(name));
        let path = match names.iter().find(|path| path.exists()).unwrap_or(&names[0]) {
            found if path.is_dir() => found.clone(),
            _ => path.to_owned(),
        };
        if path.extension().is_some_and(|extension| extension == "model") {
            return load_model(&path);
        }
        let source = base::fs::read_text(&path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let reject = |reason: String| Error::File { path: path.clone(), reason };
        let contents = crate::read::contents(&source).map_err(reject)?;
        let mut tokenizer = Tokenizer::from_contents(contents, Source::Json(source));
        let files = read_companions(directory)?;
        read_settings(&mut tokenizer, &files, directory)?;
        tokenizer.companions = Some(Companions { files, settings: tokenizer.settings.clone() });
        Ok(tokenizer)
    }

    /// Does a conversation begin with [`Tokenizer::opening_ids`] even where the template does not print them?
    pub(crate) fn begins_chats(&self) -> bool {
        matches!(self.source, Source::Other { .. })
    }

    /// Identifies the mapping from text to ids: the blake3 hash of `tokenizer.json`, or of what another file says of the
    /// tokenizer; 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        // Settings are no part of the file, so what is hashed never changes.
        let hash = || match &self.source {
            Source::Json(source) => base::hash::hash_bytes(source.as_bytes()),
            Source::Other { hash, .. } => hash.clone(),
        };
        self.fingerprint.get_or_init(hash).clone()
    }
}

/// Writes a folder whose `tokenizer.json` is `source`; `more` names special tokens beside those of the settings.
pub(crate) fn write_settings(
    directory: &Path,
    (source, settings): (&str, &Settings),
    more: Map<String, Value>,
) -> Result<()> {
    let mut config = config_json(settings);
    if settings.chat_template.is_empty()
        && let Some(config) = config.as_object_mut()
    {
        config.remove("chat_template");
    }
    let mut names = Map::new();
    for (name, text) in [
        ("bos_token", &settings.bos_token),
        ("eos_token", &settings.eos_token),
        ("pad_token", &settings.pad_token),
    ] {
        match text.is_empty() {
            true => config[name] = Value::Null,
            false => drop(names.insert(name.to_owned(), json!(text))),
        }
    }
    for (name, text) in more {
        config[&name] = text.clone();
        names.insert(name, text);
    }
    base::fs::create_folder(directory)?;
    write(&directory.join(TOKENIZER), source)?;
    write(&directory.join(CONFIG), &pretty(&config))?;
    Ok(write(&directory.join(SPECIAL), &pretty(&Value::Object(names)))?)
}

/// Reads a SentencePiece model and what stands beside it.
fn load_model(path: &Path) -> Result<Tokenizer> {
    let bytes = base::fs::read_bytes(path, base::fs::READ_TEXT_LIMIT_BYTES)?;
    let reject = |reason: String| Error::File { path: path.to_owned(), reason };
    let model = ModelFile::read(&bytes).map_err(reject)?;
    let contents = model.contents().map_err(reject)?;
    let source = Source::Other { kind: "SentencePiece", hash: base::hash::hash_bytes(&bytes) };
    let mut tokenizer = Tokenizer::from_contents(contents, source);
    let directory = path.parent().unwrap_or(Path::new("."));
    let files = read_companions(directory)?;
    tokenizer.settings = model.listed.settings("");
    if files.iter().any(|file| file.0 == CONFIG) {
        read_settings(&mut tokenizer, &files, directory)?;
    }
    Ok(tokenizer)
}

/// The text of `tokenizer.json` for what training learnt: ids are the bytes, the merges, then the special tokens.
pub(crate) fn trained_source(merges: &[Pair], special: &[String], digits: usize) -> String {
    let letters = byte_letters();
    let mut spelt: Vec<String> = letters.iter().map(|letter| letter.to_string()).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for &(left, right) in merges {
        let (left, right) = (&spelt[left as usize], &spelt[right as usize]);
        pairs.push(json!([left, right]));
        spelt.push(format!("{left}{right}"));
    }
    let first_special = spelt.len();
    let vocabulary: Map<String, Value> = spelt.into_iter().zip((0..).map(|id: u32| json!(id))).collect();
    let added: Vec<Value> = (special.iter().enumerate())
        .map(|(index, content)| {
            json!({ "id": first_special + index, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let split = json!({ "type": "Split", "pattern": { "Regex": pattern(digits) },
                        "behavior": "Isolated", "invert": false });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                             "use_regex": false });
    pretty(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, byte_level] },
        "post_processor": null,
        "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                   "ignore_merges": false, "vocab": vocabulary, "merges": pairs },
    }))
}

impl Companions {
    /// The files with the settings that differ from those read.
    fn changed(&self, settings: &Settings) -> Vec<(&'static str, String)> {
        let (new, old) = (config_json(settings), config_json(&self.settings));
        let mut files = self.files.clone();
        if new == old {
            return files;
        }
        let has_template = files.iter().any(|(name, _)| *name == TEMPLATE);
        for (name, text) in &mut files {
            if *name == TEMPLATE {
                text.clone_from(&settings.chat_template);
            } else if *name == CONFIG
                && let (Ok(Value::Object(mut config)), Some(new)) =
                    (serde_json::from_str(text), new.as_object())
            {
                let differs =
                    |name: &&String| new[*name] != old[*name] && !(has_template && *name == "chat_template");
                for name in new.keys().filter(differs) {
                    config.insert(name.clone(), new[name].clone());
                }
                *text = pretty(&Value::Object(config));
            }
        }
        if !files.iter().any(|(name, _)| *name == CONFIG) {
            files.push((CONFIG, pretty(&new)));
        }
        files
    }
}

fn config_json(settings: &Settings) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "eos_token": settings.eos_token,
        "pad_token": settings.pad_token,
        "chat_template": settings.chat_template,
    });
    if !settings.bos_token.is_empty() {
        config["bos_token"] = json!(settings.bos_token);
    }
    if let Some(length) = settings.model_max_length {
        config["model_max_length"] = json!(length);
    }
    config
}

fn read_companions(directory: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut files = Vec::new();
    for name in [CONFIG, SPECIAL, TEMPLATE].into_iter().chain(OTHERS) {
        let path = directory.join(name);
        if path.exists() {
            files.push((name, base::fs::read_text(&path)?));
        }
    }
    Ok(files)
}

fn read_settings(
    tokenizer: &mut Tokenizer,
    files: &[(&'static str, String)],
    directory: &Path,
) -> Result<()> {
    let text_of = |name: &str| files.iter().find(|file| file.0 == name).map(|file| file.1.as_str());
    let reject = |name: &str, reason: String| Error::File { path: directory.join(name), reason };
    let json_of = |name: &str| -> Result<Value> {
        let text = text_of(name).unwrap_or("{}");
        serde_json::from_str(text).map_err(|error| reject(name, format!("not valid JSON: {error}")))
    };
    let (config, special) = (json_of(CONFIG)?, json_of(SPECIAL)?);
    // A special token may be spelt as a text or as an object with its content.
    let spelt = |config: &Value, name: &str| -> Option<String> {
        Some(config[name].as_str().or(config[name]["content"].as_str())?.to_owned())
    };
    let token = |name: &str| spelt(&config, name).or_else(|| spelt(&special, name)).unwrap_or_default();
    let (bos_token, mut eos_token, mut pad_token) =
        (token("bos_token"), token("eos_token"), token("pad_token"));
    if text_of(CONFIG).is_none() && eos_token.is_empty() {
        eos_token = tokenizer.special_tokens().first().cloned().unwrap_or_default();
    }
    if pad_token.is_empty() {
        pad_token.clone_from(&eos_token);
    }
    for (name, text) in [("bos_token", &bos_token), ("eos_token", &eos_token)] {
        if !text.is_empty() && tokenizer.token_id(text).is_none() {
            let reason =
                format!("{name} is {text:?}, which is no added token of {TOKENIZER}; correct either file");
            return Err(reject(CONFIG, reason));
        }
    }
    let named = |templates: &Value| {
        let default = templates.as_array()?.iter().find(|template| template["name"] == "default")?;
        Some(default["template"].as_str()?.to_owned())
    };
    let in_json = |config: &Value| {
        let template = &config["chat_template"];
        template.as_str().map(String::from).or_else(|| named(template))
    };
    let template = text_of(TEMPLATE).map(String::from).or_else(|| in_json(&config));
    let template = match template {
        Some(template) => Some(template),
        None => in_json(&json_of("chat_template.json")?),
    };
    let speaks_chatml = [MESSAGE_START, MESSAGE_END].iter().all(|text| tokenizer.special(text).is_some());
    let default = if speaks_chatml { CHATML } else { "" };
    tokenizer.settings = Settings {
        bos_token,
        eos_token,
        pad_token,
        // transformers writes 10^30 for "unknown", which is no u64.
        model_max_length: config["model_max_length"].as_u64().and_then(|length| usize::try_from(length).ok()),
        chat_template: template.unwrap_or_else(|| default.to_owned()),
    };
    Ok(())
}

pub(crate) fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value always serialises");
    text.push('\n');
    text
}

fn write(path: &Path, text: &str) -> base::Result<()> {
    base::fs::write_bytes(path, text.as_bytes())
}
