//! A GGUF file's tokenizer as the files of a Hugging Face folder, so that `tokenizers` and transformers give the same ids.
//! Knows both formats; must not know how text is encoded.

use std::collections::HashMap;
use std::path::Path;

use base::gguf::File;
use serde_json::{Map, Value, json};

use super::{CONTROL, Listed, NORMAL, SPACE_MARK, UNKNOWN, USER_DEFINED, find};
use crate::error::{Error, Result};
use crate::file;
use crate::normal::{Form, Step as Normal};
use crate::pretokenizers::PreTokenizer;
use crate::read::Reason;
use crate::tokenizer::Tokenizer;

/// What `tokenizer.json` has beside the special tokens.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// Writes `tokenizer.json`, `tokenizer_config.json` (with the chat template) and `special_tokens_map.json` of a GGUF file's
/// tokenizer into the folder `directory`, which is made if need be.
///
/// # Errors
/// [`Error::File`] naming what cannot be used or has no form in `tokenizer.json`; [`Error::Base`] when the folder cannot be
/// written.
pub fn write_folder(file: &File, directory: &Path) -> Result<()> {
    let reject = |reason: String| Error::File { path: file.path().to_owned(), reason };
    let tokenizer = Tokenizer::from_gguf(file)?;
    let listed = Listed::read(file).map_err(reject)?;
    let parts = listed.parts(file).map_err(reject)?;
    let source = file::pretty(&json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": listed.added_json(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": listed.enclosing_json(tokenizer.opening_ids(), tokenizer.closing_ids()),
        "decoder": parts.decoder,
        "model": parts.model,
    }));
    // What cannot be read back is not written.
    crate::read::contents(&source).map_err(reject)?;
    let mut names = Map::new();
    let special = [("unk_token", listed.unknown), ("cls_token", listed.cls), ("sep_token", listed.separator)];
    for (name, id) in special {
        if let Some(id) = id.filter(|_| name == "unk_token" || listed.kind == "bert") {
            names.insert(name.to_owned(), json!(listed.tokens[id as usize]));
        }
    }
    file::write_settings(directory, (&source, &tokenizer.settings), names)
}

impl Listed<'_> {
    fn parts(&self, file: &File) -> Reason<Parts> {
        let mut seen = HashMap::new();
        for (text, id) in self.tokens.iter().zip(0u32..) {
            if let Some(other) = seen.insert(*text, id) {
                return Err(format!(
                    "tokenizer.ggml.tokens has {text:?} as {other} and as {id}, which tokenizer.json cannot hold; take \
                     that of the model's Hugging Face folder"
                ));
            }
        }
        match self.kind {
            "gpt2" => self.byte_level_parts(file),
            "llama" => self.piece_parts(file, &seen),
            "bert" => self.word_parts(file),
            other => Err(format!(
                "its tokenizer is of the kind {other:?}, which this program does not turn into tokenizer.json (\"gpt2\", \
                 \"llama\" and \"bert\" it does); take that of the model's Hugging Face folder"
            )),
        }
    }

    fn byte_level_parts(&self, file: &File) -> Reason<Parts> {
        let name = find::<&str>(file, "tokenizer.ggml.pre")?.unwrap_or("default");
        let pre_tokenizer = PreTokenizer::named(name)?;
        if pre_tokenizer.is_plain {
            return Err(format!(
                "tokenizer.ggml.pre is {name:?}, a way to cut texts that this program does not turn into tokenizer.json; take \
                 that of the model's Hugging Face folder"
            ));
        }
        let known = self.ids();
        let is_usable = |pair: &[&str; 2]| {
            known.contains_key(pair[0])
                && known.contains_key(pair[1])
                && known.contains_key(pair.concat().as_str())
        };
        let pairs = self.merges(file)?;
        let pairs: Vec<[&str; 2]> =
            pairs.iter().map(|(left, right)| [left.as_ref(), right.as_ref()]).collect();
        let merges: Vec<&[&str; 2]> = pairs.iter().filter(|pair| is_usable(pair)).collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let mut steps = pre_tokenizer.json_steps();
        steps.push(byte_level.clone());
        let composes =
            pre_tokenizer.normal_steps().iter().any(|step| matches!(step, Normal::Form(Form::Nfc)));
        Ok(Parts {
            normalizer: if composes { json!({"type": "NFC"}) } else { Value::Null },
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: byte_level,
            model: merging(
                &self.vocabulary_json(),
                &merges,
                json!({"ignore_merges": pre_tokenizer.ignores_merges}),
            ),
        })
    }

    fn piece_parts(&self, file: &File, ids: &HashMap<&str, u32>) -> Reason<Parts> {
        let scores = find::<Vec<f32>>(file, "tokenizer.ggml.scores")?;
        let scores = scores.unwrap_or_else(|| vec![0.0; self.tokens.len()]);
        let spaces = self.spaces(file)?;
        let (space, mark) = (" ", SPACE_MARK.to_string());
        let replace =
            |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normal = vec![replace(space, &mark)];
        let mut decoder =
            vec![replace(&mark, space), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if spaces.prepends {
            normal.insert(0, json!({"type": "Prepend", "prepend": mark}));
            decoder.push(json!({"type": "Strip", "content": space, "start": 1, "stop": 0}));
        }
        let unknown = self.unknown.map(|id| self.tokens[id as usize]);
        let has_bytes = (0..=255u8).all(|byte| ids.contains_key(format!("<0x{byte:02X}>").as_str()));
        let choices = json!({"unk_token": unknown, "fuse_unk": true, "byte_fallback": has_bytes});
        Ok(Parts {
            normalizer: json!({"type": "Sequence", "normalizers": normal}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoder}),
            model: merging(&self.vocabulary_json(), &self.merges_by_scores(&scores), choices),
        })
    }

    /// The pairs that make each piece, best pieces first: what scores mean for merging, as a list.
    fn merges_by_scores(&self, scores: &[f32]) -> Vec<[String; 2]> {
        let pieces = self.mergeable();
        let ids: HashMap<&str, u32> = pieces.iter().map(|(text, id)| (text.as_ref(), *id)).collect();
        let mut pairs: Vec<(f32, [u32; 2], [&str; 2])> = Vec::new();
        for (text, id) in &pieces {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                    pairs.push((scores[*id as usize], [left_id, right_id], [left, right]));
                }
            }
        }
        // The order among the pairs of one piece is that of transformers' converter.
        pairs.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        pairs.into_iter().map(|(_, _, pair)| pair.map(str::to_owned)).collect()
    }

    fn word_parts(&self, file: &File) -> Reason<Parts> {
        let lowercase = find::<bool>(file, "tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strips = find::<bool>(file, "tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
        let unknown = self.unknown.ok_or("it has no tokenizer.ggml.unknown_token_id")?;
        let is_marked = self.of_types(|kind| kind == NORMAL).any(|(text, _)| text.starts_with(SPACE_MARK));
        let respelt = |(text, kind): (&&str, &i32)| match text.strip_prefix(SPACE_MARK) {
            _ if matches!(*kind, CONTROL | UNKNOWN) || !is_marked => (*text).to_owned(),
            Some(word) => word.to_owned(),
            None => format!("##{text}"),
        };
        let texts = self.tokens.iter().zip(&self.types).map(respelt).zip(0u32..);
        let vocabulary: Map<String, Value> = texts.map(|(text, id)| (text, json!(id))).collect();
        Ok(Parts {
            normalizer: json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                               "strip_accents": strips, "lowercase": lowercase}),
            pre_tokenizer: json!({"type": "BertPreTokenizer"}),
            decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            model: json!({"type": "WordPiece", "unk_token": self.tokens[unknown as usize],
                          "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary}),
        })
    }

    fn ids(&self) -> HashMap<&str, u32> {
        self.tokens.iter().copied().zip(0u32..).collect()
    }

    fn vocabulary_json(&self) -> Value {
        self.tokens
            .iter()
            .zip(0u32..)
            .map(|(text, id)| ((*text).to_owned(), json!(id)))
            .collect::<Map<_, _>>()
            .into()
    }

    fn added_json(&self) -> Vec<Value> {
        let added = self.added().into_iter().filter(|token| {
            // Runs of spaces are merged, so that they are no tokens of their own beside the words.
            self.types[token.id as usize] != USER_DEFINED
                || !token.content.contains(SPACE_MARK)
                || self.kind == "gpt2"
        });
        let token = |token: crate::added::AddedToken| {
            json!({"id": token.id, "content": token.content, "single_word": false, "lstrip": token.lstrip,
                   "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special})
        };
        let mut added: Vec<Value> = added.map(token).collect();
        added.sort_by_key(|token| token["id"].as_u64());
        added
    }

    /// The step that puts ids before and after a text.
    fn enclosing_json(&self, opening: &[u32], closing: &[u32]) -> Value {
        if opening.is_empty() && closing.is_empty() {
            return Value::Null;
        }
        let special =
            |id: &u32, part: u32| json!({"SpecialToken": {"id": self.tokens[*id as usize], "type_id": part}});
        let sequence = |name: &str, part: u32| json!({"Sequence": {"id": name, "type_id": part}});
        let around = |name: &str, part: u32| -> Vec<Value> {
            let before = opening.iter().map(|id| special(id, part));
            let after = closing.iter().map(|id| special(id, part));
            before.chain([sequence(name, part)]).chain(after).collect()
        };
        let named: Map<String, Value> = opening
            .iter()
            .chain(closing)
            .map(|id| {
                let text = self.tokens[*id as usize];
                (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}))
            })
            .collect();
        let pair: Vec<Value> = match self.kind {
            // A second text of BERT's has no beginning of its own.
            "bert" => {
                let second = closing.iter().map(|id| special(id, 1));
                around("A", 0).into_iter().chain([sequence("B", 1)]).chain(second).collect()
            }
            _ => around("A", 0).into_iter().chain(around("B", 1)).collect(),
        };
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": named})
    }
}

/// A model of merges with what `choices` says in place of the usual.
fn merging(vocabulary: &Value, merges: &impl serde::Serialize, choices: Value) -> Value {
    let mut model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
    });
    for (name, choice) in choices.as_object().into_iter().flatten() {
        model[name] = choice.clone();
    }
    model
}
