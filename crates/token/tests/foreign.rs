//! Tokenizers of other makers beside Hugging Face tokenizers (`fixtures/tokenizer/make_foreign_fixture.py` and
//! `make_pieces_fixture.py` wrote what is expected); their folders loaded and written back; what is refused.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Value, json};
use token::{CHATML, SpecialTokens, StreamDecoder, Tokenizer};

fn fixture() -> Value {
    fixture_of("foreign.json")
}

fn fixture_of(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The `tokenizer.json` of one kind.
fn source_of(name: &str) -> String {
    let fixture = fixture();
    let kind = fixture["kinds"].as_array().unwrap().iter().find(|kind| kind["name"] == name).unwrap();
    kind["source"].as_str().unwrap().to_owned()
}

/// Loads a folder that holds these files.
fn load(files: &[(&str, &str)]) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Tokenizer::load(folder.path()).map_err(|error| error.to_string())
}

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_and_texts_of_every_kind_equal_those_of_huggingface() {
    for file in ["foreign.json", "pieces.json"] {
        check_kinds(&fixture_of(file));
    }
}

fn check_kinds(fixture: &Value) {
    let texts: Vec<&str> =
        fixture["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.len() > 70);
    for kind in fixture["kinds"].as_array().unwrap() {
        let tokenizer = load(&[("tokenizer.json", kind["source"].as_str().unwrap())]).unwrap();
        let closing = if kind["closing"].is_null() { Vec::new() } else { ids_of(&kind["closing"]) };
        assert_eq!(tokenizer.opening_ids(), ids_of(&kind["opening"]), "{}", kind["name"]);
        assert_eq!(tokenizer.closing_ids(), closing, "{}", kind["name"]);
        for (index, text) in texts.iter().enumerate() {
            let place = format!("{}: {text:?}", kind["name"]);
            let with_special = ids_of(&kind["with_special"][index]);
            assert_eq!(tokenizer.encode_with_special(text), with_special, "with special, {place}");
            let plain = &kind["plain"][index];
            let plain = if plain.is_null() { with_special.clone() } else { ids_of(plain) };
            assert_eq!(tokenizer.encode(text), plain, "plain, {place}");
            let decoded = kind["decoded"][index].as_str().unwrap_or(text);
            // Hugging Face takes the letters of an added token for bytes, which makes nonsense of some.
            if !decoded.contains('\u{fffd}') {
                assert_eq!(tokenizer.decode(&with_special), decoded, "decoded, {place}");
                let mut stream = StreamDecoder::new(&tokenizer, SpecialTokens::Show);
                let mut streamed: String = with_special.iter().map(|&id| stream.push(id)).collect();
                streamed.push_str(&stream.finish());
                assert_eq!(streamed, decoded, "streamed, {place}");
            }
        }
        assert_eq!(tokenizer.encode_batch(&texts, 2)[5], tokenizer.encode(texts[5]));
    }
}

#[test]
fn a_folder_is_written_back_as_it_was() {
    let source = source_of("qwen2");
    // Written by hand: another order, other spaces.
    let config = r#"{"bos_token":null,  "eos_token": {"content": "<|im_end|>", "lstrip": false},
        "pad_token":"<|endoftext|>", "model_max_length": 32768, "chat_template": "x{{ eos_token }}", "extra_key": [1]}"#;
    let files = [
        ("tokenizer.json", source.as_str()),
        ("tokenizer_config.json", config),
        ("vocab.json", "{\"a\": 1}"),
    ];
    let mut tokenizer = load(&files).unwrap();
    assert_eq!(tokenizer.settings.eos_token, "<|im_end|>");
    assert_eq!(tokenizer.eos_id(), tokenizer.special("<|im_end|>"));
    assert_eq!((tokenizer.settings.bos_token.as_str(), tokenizer.bos_id()), ("", None));
    assert_eq!(tokenizer.settings.model_max_length, Some(32768));
    let think = tokenizer.token_id("<think>").unwrap();
    assert_eq!((tokenizer.special("<think>"), tokenizer.special_text(think)), (None, None));
    assert_eq!(tokenizer.token_bytes(think), Some("<think>".as_bytes()));
    assert_eq!(tokenizer.chat_template().unwrap().render(&[], false).unwrap(), "x<|im_end|>");
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    for (name, text) in files {
        assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), text);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), files.len());
    // What is changed is changed there, and nothing else.
    tokenizer.settings.chat_template = CHATML.into();
    tokenizer.settings.model_max_length = Some(64);
    tokenizer.save(folder.path()).unwrap();
    let written = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
    let mut expected: Value = serde_json::from_str(config).unwrap();
    expected["chat_template"] = json!(CHATML);
    expected["model_max_length"] = json!(64);
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), expected);
    let again = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(
        (again.settings.clone(), again.fingerprint()),
        (tokenizer.settings.clone(), tokenizer.fingerprint())
    );
}

#[test]
fn templates_are_found_where_folders_keep_them() {
    let source = source_of("qwen2");
    let check = |files: &[(&str, &str)], expected: &str| {
        let all: Vec<_> =
            [("tokenizer.json", source.as_str())].into_iter().chain(files.iter().copied()).collect();
        assert_eq!(load(&all).unwrap().settings.chat_template, expected);
    };
    check(&[], CHATML);
    check(&[("chat_template.jinja", "a"), ("tokenizer_config.json", r#"{"chat_template":"b"}"#)], "a");
    let named = r#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#;
    check(&[("tokenizer_config.json", named)], "d");
    check(&[("chat_template.json", r#"{"chat_template":"j"}"#)], "j");
    let silent = source.replace("<|im_start|>", "<|start|>");
    assert_eq!(load(&[("tokenizer.json", &silent)]).unwrap().settings.chat_template, "");
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let good: Value = serde_json::from_str(&source_of("qwen2")).unwrap();
    let check = |pointer: &str, value: Value, expected: &str| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let message = load(&[("tokenizer.json", &bad.to_string())]).unwrap_err();
        assert!(
            message.contains("tokenizer.json") && message.contains(expected),
            "{message:?} lacks {expected:?}"
        );
    };
    check("/model/type", json!("WordLevel"), "model.type is \"WordLevel\"; what can be used");
    check("/model/type", json!("Unigram"), "model.vocab is no list of texts and scores");
    check("/model/type", json!("WordPiece"), "its model and its decoder are of different kinds");
    check("/model/byte_fallback", json!(true), "byte_fallback is true, which does not go with");
    check("/model/dropout", json!(0.1), "dropout is 0.1");
    check("/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix is \"</w>\"");
    check("/model/vocab", json!([]), "model.vocab is not an object");
    check("/model/vocab/a", json!(-1), "gives \"a\" the id -1");
    check("/model/merges/3", json!(["zzzz", "a"]), "merges needs the token \"zzzz\"");
    check("/model/merges/3", json!("a b c"), "merges[3] is \"a b c\", expected two tokens");
    check("/normalizer", json!({"type": "Nothing"}), "normalizer {\"type\":\"Nothing\"}");
    check("/normalizer", json!({"type": "Prepend"}), "Prepend");
    check("/normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a"}, "content": ""}), "\"(a\"");
    check("/decoder", json!(null), "decoder null");
    check("/decoder", json!({"type": "Metaspace"}), "decoder {\"type\":\"Metaspace\"}");
    check("/pre_tokenizer", json!({"type": "Metaspace", "replacement": "▁"}), "does not go with decoder");
    check("/pre_tokenizer", json!({"type": "Metaspace", "replacement": "_"}), "Metaspace");
    check("/pre_tokenizer", json!(null), "pre_tokenizer null");
    check("/pre_tokenizer/pretokenizers/1", json!({"type": "Digits"}), "does not go with decoder");
    check("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "add_prefix_space is true");
    check("/pre_tokenizer/pretokenizers/0/behavior", json!("Sideways"), "Sideways");
    check("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(a"), "\"(a\"");
    check("/post_processor", json!({"type": "BertProcessing"}), "BertProcessing");
    check(
        "/post_processor",
        json!({"type": "RobertaProcessing", "cls": ["a", 9999], "sep": ["b", 1]}),
        "adds id 9999",
    );
    check("/added_tokens/0/single_word", json!(true), "single_word is true");
    check("/added_tokens/0/id", json!(5), "has the id 5, but Hugging Face tokenizers gives it");
    check("/added_tokens/0/content", json!(""), "added_tokens[0].content");
    check("/added_tokens/1", good["added_tokens"][0].clone(), "twice");
    let bad = |name: &str, text: &str, expected: &str| {
        let message = load(&[("tokenizer.json", &good.to_string()), (name, text)]).unwrap_err();
        assert!(message.contains(name) && message.contains(expected), "{message:?} lacks {expected:?}");
    };
    bad("tokenizer_config.json", r#"{"eos_token":"<none>"}"#, "eos_token is \"<none>\"");
    bad("tokenizer_config.json", "{", "not valid JSON");
    let message = load(&[("tokenizer.json", &good.to_string()[..500])]).unwrap_err();
    assert!(message.contains("tokenizer.json") && message.contains("not valid JSON"));
    assert!(load(&[]).unwrap_err().contains("tokenizer.json"));
}
