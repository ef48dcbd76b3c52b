//! `tokenizer.json` and its companions: written so that Hugging Face `tokenizers` and transformers load them unchanged,
//! read back strictly. Knows file formats; must not know how text is encoded.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::bpe::Merges;
use crate::error::{Error, Result};
use crate::pretoken::{digits_of, pattern};
use crate::tokenizer::{Settings, Tokenizer};
use crate::train::Pair;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIAL: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json` (with the chat template) and `special_tokens_map.json` into the
    /// folder `directory`, which is made if need be. Each file is complete or not there.
    ///
    /// # Errors
    /// [`Error::Base`] when the folder cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        base::fs::create_folder(directory)?;
        write(&directory.join(TOKENIZER), &pretty(&self.to_json()))?;
        write(&directory.join(CONFIG), &pretty(&self.config_json()))?;
        let names = json!({ "eos_token": self.settings.eos_token, "pad_token": self.settings.pad_token });
        Ok(write(&directory.join(SPECIAL), &pretty(&names))?)
    }

    /// Reads what [`Tokenizer::save`] wrote: `path` is the folder or its `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Base`] when a file cannot be read, [`Error::File`] naming the part that is not as we write it.
    pub fn load(path: impl AsRef<Path>) -> Result<Tokenizer> {
        let path = path.as_ref();
        let path = if path.is_dir() { path.join(TOKENIZER) } else { path.to_owned() };
        let found = read_json(&path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let reject = |reason: String| Error::File { path: path.clone(), reason };
        let mut tokenizer = from_json(&found).map_err(reject)?;
        if let Some(difference) = first_difference("", &tokenizer.to_json(), &found) {
            return Err(reject(unsupported(&difference)));
        }
        read_settings(&mut tokenizer, directory)?;
        Ok(tokenizer)
    }

    /// Identifies the mapping from text to ids: the blake3 hash of `tokenizer.json`, 64 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        // Settings are no part of the file, so what is hashed never changes.
        self.fingerprint.get_or_init(|| base::hash::hash_bytes(pretty(&self.to_json()).as_bytes())).clone()
    }

    fn to_json(&self) -> Value {
        let letters = byte_letters();
        let spell = |symbol: u32| -> String {
            self.merges.bytes(symbol).iter().map(|&byte| letters[usize::from(byte)]).collect()
        };
        let first_special = self.merges.len();
        let vocabulary: Map<String, Value> =
            (0..first_special as u32).map(|symbol| (spell(symbol), json!(symbol))).collect();
        let merges: Vec<Value> =
            self.merges.pairs().iter().map(|&(left, right)| json!([spell(left), spell(right)])).collect();
        let added: Vec<Value> = (self.special.iter().enumerate()).map(|(index, content)| {
            json!({ "id": first_special + index, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        }).collect();
        let split = json!({ "type": "Split", "pattern": { "Regex": pattern(self.digits) },
                            "behavior": "Isolated", "invert": false });
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                                 "use_regex": false });
        json!({
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
                       "ignore_merges": false, "vocab": vocabulary, "merges": merges },
        })
    }

    fn config_json(&self) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "eos_token": self.settings.eos_token,
            "pad_token": self.settings.pad_token,
            "chat_template": self.settings.chat_template,
        });
        if let Some(length) = self.settings.model_max_length {
            config["model_max_length"] = json!(length);
        }
        config
    }
}

/// The letter that stands for each byte in `tokenizer.json` (GPT-2's `bytes_to_unicode`): printable bytes of Latin-1
/// stand for themselves, the other 68 take the code points from U+0100 on.
fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        };
    }
    letters
}

/// Builds a tokenizer from the parts of the file that vary; the error is the reason alone.
fn from_json(found: &Value) -> std::result::Result<Tokenizer, String> {
    let kind = &found["model"]["type"];
    if kind != "BPE" {
        return Err(unsupported(&format!("model.type is {}", shown(kind))));
    }
    let regex = &found["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
    let digits = regex.as_str().and_then(digits_of).ok_or_else(|| {
        unsupported(&format!("pre_tokenizer.pretokenizers[0].pattern.Regex is {}", shown(regex)))
    })?;
    let vocabulary = found["model"]["vocab"].as_object().ok_or("model.vocab is not an object")?;
    let merges = found["model"]["merges"].as_array().ok_or("model.merges is not an array")?;
    let symbol =
        |value: &Value| -> Option<u32> { u32::try_from(vocabulary.get(value.as_str()?)?.as_u64()?).ok() };
    let pairs: Option<Vec<Pair>> =
        merges.iter().map(|merge| Some((symbol(&merge[0])?, symbol(&merge[1])?))).collect();
    let pairs = pairs.ok_or("model.merges names a token that model.vocab lacks")?;
    let merges = Merges::new(pairs)
        .map_err(|index| unsupported(&format!("merge {index} uses a token that no earlier merge makes")))?;
    let added = found["added_tokens"].as_array().ok_or("added_tokens is not an array")?;
    let special: Option<Vec<String>> =
        added.iter().map(|token| Some(token["content"].as_str()?.to_owned())).collect();
    let special = special.ok_or("added_tokens has an entry without content")?;
    if let Some(bad) = special.iter().find(|special| special.len() < 2) {
        return Err(unsupported(&format!("added token {bad:?} is shorter than two bytes")));
    }
    let settings = Settings {
        bos_token: String::new(),
        eos_token: special.first().cloned().unwrap_or_default(),
        pad_token: special.first().cloned().unwrap_or_default(),
        model_max_length: None,
        chat_template: crate::chat::CHATML.to_owned(),
    };
    Ok(Tokenizer::from_parts(merges, special, digits, settings))
}

fn read_settings(tokenizer: &mut Tokenizer, directory: &Path) -> Result<()> {
    let path = directory.join(CONFIG);
    if path.exists() {
        let config = read_json(&path)?;
        for (name, target) in [
            ("bos_token", &mut tokenizer.settings.bos_token),
            ("eos_token", &mut tokenizer.settings.eos_token),
            ("pad_token", &mut tokenizer.settings.pad_token),
            ("chat_template", &mut tokenizer.settings.chat_template),
        ] {
            // A special token may be spelt as a string or as an object with its content.
            if let Some(text) = config[name].as_str().or(config[name]["content"].as_str()) {
                *target = text.to_owned();
            }
        }
        // transformers writes 10^30 for "unknown", which is no u64.
        tokenizer.settings.model_max_length =
            config["model_max_length"].as_u64().and_then(|length| usize::try_from(length).ok());
        let eos = &tokenizer.settings.eos_token;
        if !eos.is_empty() && tokenizer.special(eos).is_none() {
            let reason = format!("eos_token is {eos:?}, which is no special token of {TOKENIZER}");
            return Err(Error::File { path, reason });
        }
    }
    let path = directory.join(TEMPLATE);
    if path.exists() {
        tokenizer.settings.chat_template = base::fs::read_text(&path)?;
    }
    Ok(())
}

/// Where two JSON values first differ, as `path is …, expected …`. The order of an object's keys does not matter.
fn first_difference(path: &str, expected: &Value, found: &Value) -> Option<String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let extra = found.keys().find(|key| !expected.contains_key(*key));
            if let Some(key) = extra {
                return Some(format!("{path}.{key} is {}, expected nothing", shown(&found[key])));
            }
            expected.iter().find_map(|(key, value)| {
                first_difference(&format!("{path}.{key}"), value, found.get(key).unwrap_or(&Value::Null))
            })
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let pairs = expected.iter().zip(found).enumerate();
            pairs.into_iter().find_map(|(index, (expected, found))| {
                first_difference(&format!("{path}[{index}]"), expected, found)
            })
        }
        _ if expected == found => None,
        _ => Some(format!("{path} is {}, expected {}", shown(found), shown(expected))),
    }
}

fn unsupported(what: &str) -> String {
    let what = what.trim_start_matches('.');
    format!(
        "{what}; only tokenizers that this program wrote can be used: train one with `taoye tokenizer train`"
    )
}

/// A value in a message, cut when long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(80).chain(['…']).collect() }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value always serialises");
    text.push('\n');
    text
}

fn read_json(path: &Path) -> Result<Value> {
    let text = base::fs::read_text(path)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::File { path: path.to_owned(), reason: format!("not valid JSON: {error}") })
}

fn write(path: &Path, text: &str) -> base::Result<()> {
    base::fs::write_bytes(path, text.as_bytes())
}
