//! Ids, decoded texts and rendered templates beside those of Hugging Face tokenizers and transformers
//! (`fixtures/tokenizer/make_tokenizer_fixture.py` wrote what is expected).
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use token::{ChatTemplate, Message, Settings, SpecialTokens, StreamDecoder, Tokenizer, TrainOptions};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer")
}

fn expected(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn the_committed_tokenizer_is_what_training_gives() {
    let text = std::fs::read_to_string(folder().join("text.txt")).unwrap();
    let options = TrainOptions { vocab_size: 1200, ..Default::default() };
    let trained = Tokenizer::train(&[text], &options, 2).unwrap();
    assert_eq!(trained.fingerprint(), Tokenizer::load(folder()).unwrap().fingerprint());
}

#[test]
fn ids_and_texts_equal_those_of_huggingface() {
    let tokenizer = Tokenizer::load(folder()).unwrap();
    let expected = expected("expected.json");
    assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"]);
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() > 150);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let with_special = ids_of(&case["ids_with_special"]);
        assert_eq!(tokenizer.encode_with_special(text), with_special, "with special: {text:?}");
        assert_eq!(tokenizer.encode(text), ids_of(&case["ids"]), "plain: {text:?}");
        assert_eq!(tokenizer.decode(&with_special), case["decoded"].as_str().unwrap());
        let mut hidden = StreamDecoder::new(&tokenizer, SpecialTokens::Hide);
        let mut shown: String = with_special.iter().map(|&id| hidden.push(id)).collect();
        shown.push_str(&hidden.finish());
        assert_eq!(shown, case["decoded_without_special"].as_str().unwrap());
    }
    for case in expected["decoding"].as_array().unwrap() {
        assert_eq!(tokenizer.decode(&ids_of(&case["ids"])), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn rendered_templates_and_chat_ids_equal_those_of_transformers() {
    let tokenizer = Tokenizer::load(folder()).unwrap();
    let expected = expected("chat_expected.json");
    assert_eq!(tokenizer.settings.eos_token, expected["eos_token"].as_str().unwrap());
    for case in expected["chats"].as_array().unwrap() {
        let mut settings = tokenizer.settings.clone();
        if let Some(source) = case["template"].as_str() {
            settings.chat_template = source.to_owned();
        }
        let template = ChatTemplate::new(&settings).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let add = case["add_generation_prompt"].as_bool().unwrap();
        let name = case["name"].as_str().unwrap();
        assert_eq!(template.render(&messages, add).unwrap(), case["text"].as_str().unwrap(), "{name}");
        let encoded = tokenizer.encode_chat(&template, &messages, add).unwrap();
        // This template puts a space before the answer, and answers are cut off from what stands before them.
        if name != "functions" {
            assert_eq!(encoded.ids, ids_of(&case["ids"]), "{name}: {messages:?}");
        }
        assert_eq!(tokenizer.decode(&encoded.ids), case["text"].as_str().unwrap());
        assert_eq!(encoded.ids.len(), encoded.loss_mask.len());
    }
}

#[test]
fn templates_see_tools_documents_and_parts_as_in_transformers() {
    let expected = expected("variables.json");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for case in expected["cases"].as_array().unwrap() {
        let settings = Settings {
            bos_token: text(&expected["special"]["bos_token"]),
            eos_token: text(&expected["special"]["eos_token"]),
            chat_template: text(&case["template"]),
            ..Settings::default()
        };
        let rendered =
            ChatTemplate::new(&settings).unwrap().render_variables(case["variables"].as_object().unwrap());
        assert_eq!(rendered.unwrap(), text(&case["text"]), "{}", case["name"]);
    }
}
