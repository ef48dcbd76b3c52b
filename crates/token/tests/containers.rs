//! Tokenizers in GGUF files and SentencePiece models, made here from the small ones of `fixtures/tokenizer/pieces.json`; and
//! damaged ones, which are refused or read, but never bring the program down.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use base::gguf::Writer;
use serde_json::Value;
use token::Tokenizer;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer/pieces.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The `tokenizer.json` of one kind.
fn source_of(name: &str) -> Value {
    let fixture = fixture();
    let kind = fixture["kinds"].as_array().unwrap().iter().find(|kind| kind["name"] == name).unwrap();
    serde_json::from_str(kind["source"].as_str().unwrap()).unwrap()
}

/// Texts and kinds of the tokens of a vocabulary of pieces, by their ids.
fn pieces_of(source: &Value) -> (Vec<String>, Vec<i32>) {
    let mut entries: Vec<(String, u64)> = match &source["model"]["vocab"] {
        Value::Object(vocab) => vocab.iter().map(|(text, id)| (text.clone(), id.as_u64().unwrap())).collect(),
        list => {
            let texts = list.as_array().unwrap().iter().map(|entry| entry[0].as_str().unwrap().to_owned());
            texts.zip(0..).collect()
        }
    };
    entries.sort_by_key(|entry| entry.1);
    let kind = |text: &str| match text {
        "<unk>" | "[UNK]" => 2,
        "<s>" | "</s>" | "<pad>" | "[CLS]" | "[SEP]" | "[PAD]" | "[MASK]" => 3,
        text if text.starts_with("<0x") => 6,
        _ => 1,
    };
    let kinds = entries.iter().map(|(text, _)| kind(text)).collect();
    (entries.into_iter().map(|(text, _)| text).collect(), kinds)
}

/// Scores that rank the tokens as the merges do.
fn scores_of(source: &Value, tokens: &[String]) -> Vec<f32> {
    if let Some(list) = source["model"]["vocab"].as_array() {
        return list.iter().map(|entry| entry[1].as_f64().unwrap() as f32).collect();
    }
    (0..tokens.len()).map(|id| -(id as f32)).collect()
}

fn write_gguf(folder: &Path, fill: impl FnOnce(&mut Writer)) -> PathBuf {
    let path = folder.join("vocabulary.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "llama");
    fill(&mut writer);
    writer.begin(&path).unwrap().finish().unwrap();
    path
}

fn same_ids(left: &Tokenizer, right: &Tokenizer, with_special: bool) {
    for text in fixture()["texts"].as_array().unwrap() {
        let text = text.as_str().unwrap();
        assert_eq!(left.encode(text), right.encode(text), "{text:?}");
        if with_special {
            let ids = left.encode_with_special(text);
            assert_eq!(ids, right.encode_with_special(text), "{text:?}");
            assert_eq!(left.decode(&ids), right.decode(&ids), "{text:?}");
        }
    }
}

fn from_json(folder: &Path, source: &Value) -> Tokenizer {
    std::fs::write(folder.join("tokenizer.json"), source.to_string()).unwrap();
    Tokenizer::load(folder).unwrap()
}

#[test]
fn gguf_files_hold_the_same_tokenizers() {
    let folder = tempfile::tempdir().unwrap();
    // By scores: the trained merges make each token of its parts in the order of their ids, as scores rank them.
    let mut source = source_of("llama2");
    source["added_tokens"].as_array_mut().unwrap().truncate(3);
    let (tokens, kinds) = pieces_of(&source);
    let path = write_gguf(folder.path(), |writer| {
        writer.set("tokenizer.ggml.model", "llama");
        writer.set_strings("tokenizer.ggml.tokens", &tokens);
        writer.set_array("tokenizer.ggml.scores", &scores_of(&source, &tokens));
        writer.set_array("tokenizer.ggml.token_type", &kinds);
        writer.set("tokenizer.ggml.bos_token_id", 1u32);
        writer.set("tokenizer.ggml.eos_token_id", 2u32);
        writer.set("tokenizer.chat_template", "{{ bos_token }}[{{ messages[0].content }}]");
    });
    let gguf = Tokenizer::load(&path).unwrap();
    assert_eq!(
        (gguf.opening_ids(), gguf.end_ids(), gguf.bos_id(), gguf.eos_id()),
        (&[1][..], &[2][..], Some(1), Some(2))
    );
    let template = gguf.chat_template().unwrap();
    let messages = [token::Message::new(token::Role::User, "the")];
    let ids = gguf.encode_chat(&template, &messages, true).unwrap().ids;
    assert_eq!((ids[0], ids.iter().filter(|&&id| id == 1).count()), (1, 1), "one beginning");
    let silent =
        token::Settings { chat_template: "{{ messages[0].content }}".into(), ..gguf.settings.clone() };
    let template = token::ChatTemplate::new(&silent).unwrap();
    assert_eq!(gguf.encode_chat(&template, &messages, true).unwrap().ids[0], 1, "the beginning is put there");
    assert!(gguf.save(folder.path().join("saved")).unwrap_err().to_string().contains("GGUF"));
    same_ids(&from_json(folder.path(), &source), &gguf, true);

    let source = source_of("bert");
    let (tokens, kinds) = pieces_of(&source);
    let marked: Vec<String> = tokens
        .iter()
        .map(|text| match text.strip_prefix("##") {
            Some(part) => part.to_owned(),
            None if text.starts_with('[') && text.ends_with(']') => text.clone(),
            None => format!("\u{2581}{text}"),
        })
        .collect();
    let path = write_gguf(folder.path(), |writer| {
        writer.set("tokenizer.ggml.model", "bert");
        writer.set_strings("tokenizer.ggml.tokens", &marked);
        writer.set_array("tokenizer.ggml.token_type", &kinds);
        for (name, id) in [("bos", 2u32), ("seperator", 3), ("unknown", 1), ("padding", 0)] {
            writer.set(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    });
    let gguf = Tokenizer::load(&path).unwrap();
    assert_eq!((gguf.opening_ids(), gguf.closing_ids()), (&[2][..], &[3][..]));
    let json = from_json(folder.path(), &source);
    for text in ["the cat", "Hello, world! don\u{2019}t", "\u{4e2d}\u{6587} mixed", "xyz\u{1f44d}q"] {
        assert_eq!(gguf.encode(text), json.encode(text), "{text:?}");
    }
}

/// A field of a protocol-buffer message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

fn model_file(source: &Value, kind: u8) -> Vec<u8> {
    let (tokens, kinds) = pieces_of(source);
    let mut file = Vec::new();
    for ((text, score), kind) in tokens.iter().zip(scores_of(source, &tokens)).zip(kinds) {
        let mut piece = field(1, text.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        piece.extend([3 << 3, kind as u8]);
        file.extend(field(1, &piece));
    }
    file.extend(field(2, &[3 << 3, kind]));
    // A space before texts, others as they are.
    file.extend(field(3, &[3 << 3, 1, 4 << 3, 0]));
    file
}

#[test]
fn sentencepiece_models_hold_the_same_tokenizers() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source_of("llama2");
    source["added_tokens"].as_array_mut().unwrap().truncate(3);
    let path = folder.path().join("tokenizer.model");
    std::fs::write(&path, model_file(&source, 2)).unwrap();
    let model = Tokenizer::load(&path).unwrap();
    assert_eq!((model.bos_id(), model.eos_id(), model.opening_ids()), (Some(1), Some(2), &[1][..]));
    // A folder without a tokenizer.json is read by its model.
    same_ids(&Tokenizer::load(folder.path()).unwrap(), &model, true);
    let json = from_json(folder.path(), &source);
    same_ids(&json, &model, true);
    // Unigram: the words of one text without white space at its ends.
    let source = source_of("t5");
    std::fs::write(&path, model_file(&source, 1)).unwrap();
    let model = Tokenizer::load(&path).unwrap();
    let json = from_json(folder.path(), &source);
    for text in ["the cat and the hat", "\u{4e2d}\u{6587}English \u{1f44d}\u{1f44d} x", "don't"] {
        assert_eq!(model.encode(text), json.encode(text), "{text:?}");
    }
}

#[test]
fn damaged_files_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let source = source_of("llama2");
    let files = [("tokenizer.json", source.to_string().into_bytes()), ("t.model", model_file(&source, 2))];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (name, bytes) in files {
        let path = folder.path().join(name);
        let mut refused = 0;
        for _ in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + next(4) {
                let at = next(damaged.len());
                match next(3) {
                    0 => damaged[at] = next(256) as u8,
                    1 => damaged.truncate(at.max(1)),
                    _ => damaged[at] ^= 1 << next(8),
                }
            }
            std::fs::write(&path, &damaged).unwrap();
            match Tokenizer::load(&path) {
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(name), "{error}");
                }
                Ok(tokenizer) => {
                    let ids = tokenizer.encode_with_special("the cat, 中文 👍 </s>");
                    tokenizer.decode(&ids);
                }
            }
        }
        assert!(refused > 5, "{name}: {refused}");
    }
}

#[test]
fn what_gguf_files_cannot_have_is_named() {
    let check = |fill: &dyn Fn(&mut Writer), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let error = Tokenizer::load(write_gguf(folder.path(), fill)).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(".gguf"), "{error:?} lacks {expected:?}");
    };
    let tokens = |writer: &mut Writer, model: &str| {
        writer.set("tokenizer.ggml.model", model);
        writer.set_strings("tokenizer.ggml.tokens", &["a", "b"]);
    };
    check(&|_| {}, "tokenizer.ggml.model");
    check(&|writer| writer.set("tokenizer.ggml.model", "llama"), "tokenizer.ggml.tokens");
    check(&|writer| tokens(writer, "rwkv"), "tokenizer.ggml.model is \"rwkv\"");
    check(
        &|writer| {
            tokens(writer, "gpt2");
            writer.set("tokenizer.ggml.pre", "kimi-k2");
        },
        "tokenizer.ggml.pre is \"kimi-k2\"",
    );
    check(
        &|writer| {
            tokens(writer, "gpt2");
            writer.set_strings("tokenizer.ggml.merges", &["ab"]);
        },
        "tokenizer.ggml.merges[0]",
    );
    check(
        &|writer| {
            tokens(writer, "llama");
            writer.set("tokenizer.ggml.eos_token_id", 7u32);
        },
        "eos_token_id is 7",
    );
    check(
        &|writer| {
            tokens(writer, "llama");
            writer.set_array("tokenizer.ggml.scores", &[1.0f32]);
        },
        "scores has 1 entries for 2",
    );
}
