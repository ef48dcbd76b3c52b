//! Tokenizers of GGUF files beside llama.cpp's ids (`fixtures/tokenizer/make_gguf_fixture.py`): every name of a way to cut
//! texts that this program takes, and every kind of vocabulary.
#![allow(clippy::unwrap_used)]

use base::gguf::Writer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use token::Tokenizer;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizer/gguf.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list<T>(value: &Value, element: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().unwrap().iter().map(|value| element(value).unwrap()).collect()
}

/// A GGUF file with the kind's keys, and the name of a way to cut texts where there is one.
fn write(folder: &Path, keys: &Value, pre: Option<&str>) -> PathBuf {
    let mut writer = Writer::new();
    for (key, value) in keys.as_object().unwrap() {
        match value {
            Value::String(text) => writer.set(key, text.as_str()),
            Value::Bool(flag) => writer.set(key, *flag),
            Value::Number(number) => writer.set(key, number.as_u64().unwrap() as u32),
            list_of if list_of[0].is_string() => {
                writer.set_strings(key, &list(list_of, |text| text.as_str().map(str::to_owned)));
            }
            list_of if key.ends_with("scores") => {
                writer.set_array(key, &list(list_of, |score| score.as_f64().map(|score| score as f32)));
            }
            list_of => {
                writer.set_array(key, &list(list_of, |number| number.as_i64().map(|number| number as i32)))
            }
        }
    }
    if let Some(name) = pre {
        writer.set("tokenizer.ggml.pre", name);
    }
    let path = folder.join("tokenizer.gguf");
    writer.begin(&path).unwrap().finish().unwrap();
    path
}

#[test]
fn ids_equal_llama_cpps_under_every_name() {
    let fixture = fixture();
    let texts = list(&fixture["texts"], |text| text.as_str().map(str::to_owned));
    let folder = tempfile::tempdir().unwrap();
    let (mut wrong, mut checked, mut departures) = (Vec::new(), 0, 0);
    for kind in fixture["kinds"].as_array().unwrap() {
        for group in kind["pre"].as_array().unwrap() {
            let mut names: Vec<Option<&str>> =
                group[0].as_array().unwrap().iter().map(Value::as_str).collect();
            if names.is_empty() {
                names.push(None);
            }
            for name in names {
                let tokenizer = Tokenizer::load(write(folder.path(), &kind["keys"], name)).unwrap();
                for (text, ids) in texts.iter().zip(group[1].as_array().unwrap()) {
                    let expected: Vec<u32> = list(ids, |id| id.as_u64().map(|id| id as u32));
                    // llama-tokenize adds what a text ends with only where something stands before it.
                    let opening = tokenizer.opening_ids();
                    let closing = if opening.is_empty() { &[] } else { tokenizer.closing_ids() };
                    let found = [opening, &tokenizer.encode_with_special(text), closing].concat();
                    checked += 1;
                    let model = kind["keys"]["tokenizer.ggml.model"].as_str().unwrap();
                    let departs = departs(name.unwrap_or(model), text);
                    departures += usize::from(departs);
                    // What is said to depart from llama.cpp must do so, or the list says too much.
                    if (found != expected) != departs {
                        let shown = |ids: &[u32]| -> Vec<String> {
                            let bytes = ids.iter().map(|id| tokenizer.token_bytes(*id).unwrap_or(b"?"));
                            bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
                        };
                        wrong.push(format!(
                            "{name:?} of {}: {text:?}\n  llama.cpp {:?}\n  found     {:?}",
                            kind["keys"]["tokenizer.ggml.model"],
                            shown(&expected),
                            shown(&found)
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 6000 && departures < 100, "{checked}, {departures}");
}

/// Where llama.cpp's cuts are not those of the models' own tokenizers, which this program follows.
fn departs(name: &str, text: &str) -> bool {
    // Marks above and below letters, letters that have no case, those beyond the first plane and digraphs with a capital
    // first: its o200k looks at ASCII's capitals alone.
    let is_mark = |c: char| {
        matches!(c, '\u{300}'..='\u{36f}' | '\u{5b0}'..='\u{5c7}' | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{903}'
        | '\u{93a}'..='\u{94f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}')
    };
    let has_caseless = text.starts_with('𠮷') || text.starts_with("nǈ");
    let has_marks = text.chars().any(is_mark);
    match name {
        // Its \s is ASCII's, the others' Unicode's.
        "deepseek-llm" | "deepseek-coder" => text.contains('\u{3000}') && text.contains('\u{200b}'),
        // It composes nothing, and these models' tokenizers do.
        "qwen2" | "qwen35" => text.contains("e\u{301}"),
        "tekken" | "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => has_marks || has_caseless,
        "granite-embed-multi-97m" => has_caseless,
        // A digit and a Han character have no border between them in Unicode.
        "tiny_aya" | "cohere2moe" => has_caseless || text.starts_with("日期"),
        // Its \d is ASCII's.
        "superbpe" => text.contains('١'),
        // It drops vowel signs with a width of their own, which BERT's tokenizer keeps.
        "bert" => text.contains('ी'),
        _ => false,
    }
}

#[test]
fn folders_written_of_gguf_files_give_the_same_ids() {
    let fixture = fixture();
    let texts = list(&fixture["texts"], |text| text.as_str().map(str::to_owned));
    let folder = tempfile::tempdir().unwrap();
    let (mut written, mut refused) = (0, 0);
    for kind in fixture["kinds"].as_array().unwrap() {
        let model = kind["keys"]["tokenizer.ggml.model"].as_str().unwrap();
        for group in kind["pre"].as_array().unwrap() {
            let path = write(folder.path(), &kind["keys"], group[0][0].as_str());
            let file = base::gguf::File::open(&path).unwrap();
            let out = tempfile::tempdir().unwrap();
            if let Err(error) = token::write_folder(&file, out.path()) {
                assert!(["gemma4", "t5"].contains(&model), "{error}");
                let message = error.to_string();
                assert!(message.contains(model) && message.contains("Hugging Face folder"), "{message}");
                refused += 1;
                continue;
            }
            let (gguf, json) = (Tokenizer::load(&path).unwrap(), Tokenizer::load(out.path()).unwrap());
            assert_eq!(
                (gguf.opening_ids(), gguf.closing_ids(), gguf.bos_id(), gguf.eos_id()),
                (json.opening_ids(), json.closing_ids(), json.bos_id(), json.eos_id())
            );
            assert_eq!(gguf.vocab_size(), json.vocab_size());
            for text in &texts {
                let (expected, found) = (gguf.encode_with_special(text), json.encode_with_special(text));
                assert_eq!(found, expected, "{model} {}: {text:?}", group[0]);
                // Words are joined again as transformers does it, without spaces before punctuation.
                if model != "bert" {
                    assert_eq!(json.decode(&found), gguf.decode(&expected), "{model} {}: {text:?}", group[0]);
                }
            }
            written += 1;
        }
    }
    assert!(written > 20 && refused == 2, "{written} written, {refused} refused");
}

#[test]
fn a_written_folder_has_the_chat_template_and_says_which_tokens_are_special() {
    let fixture = fixture();
    let mut keys = fixture["kinds"][0]["keys"].clone();
    keys["tokenizer.chat_template"] = "{{ bos_token }}[{{ messages[0].content }}]".into();
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &keys, Some("llama-bpe"));
    token::write_folder(&base::gguf::File::open(&path).unwrap(), folder.path()).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
    };
    let config = read("tokenizer_config.json");
    assert_eq!(config["chat_template"], keys["tokenizer.chat_template"]);
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&"<bos>".into(), &"<eos>".into()));
    let added = read("tokenizer.json")["added_tokens"].clone();
    let flags: Vec<(&str, bool)> = added
        .as_array()
        .unwrap()
        .iter()
        .map(|token| (token["content"].as_str().unwrap(), token["special"] == true))
        .collect();
    assert_eq!(flags, [("<bos>", true), ("<eos>", true), ("<tool>", false)]);
}

#[test]
fn names_without_rules_are_refused_by_name() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let names = list(&fixture["unknown"], |name| name.as_str().map(str::to_owned));
    assert!(!names.is_empty());
    for name in names.iter().map(String::as_str).chain(["no-such-name"]) {
        let path = write(folder.path(), &fixture["kinds"][0]["keys"], Some(name));
        let error = Tokenizer::load(path).err().unwrap().to_string();
        assert!(error.contains(&format!("tokenizer.ggml.pre is {name:?}")), "{error}");
        assert!(error.contains("tokenizer.json"), "the error says what to do: {error}");
    }
}
