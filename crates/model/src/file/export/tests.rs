//! Types of tensors beside `llama-quantize`'s (`fixtures/make_mix_fixture.py`).
#![allow(clippy::unwrap_used)]

use super::*;
use base::gguf::Writer;
use serde_json::Value as Json;
use std::io::Write;

fn fixture() -> Json {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/quant/mixes.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Names and dimensions of a fixture's tensors.
fn tensors_of(model: &Json) -> Vec<(String, Vec<usize>)> {
    let list = |list: &Json, prefix: &str| -> Vec<(String, Vec<usize>)> {
        let tensor = |tensor: &Json| {
            let dimensions = tensor[1].as_array().unwrap().iter().map(|axis| axis.as_u64().unwrap() as usize);
            (format!("{prefix}{}", tensor[0].as_str().unwrap()), dimensions.collect())
        };
        list.as_array().unwrap().iter().map(tensor).collect()
    };
    let mut all = list(&model["outer"], "");
    for layer in 0..model["layers"].as_u64().unwrap() {
        all.extend(list(&model["parts"], &format!("blk.{layer}.")));
    }
    all
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Writes a GGUF file whose elements are a hole: the writer of this program would fill gigabytes with zeros.
fn write_sparse(path: &Path, model: &Json, tensors: &[(String, Vec<usize>)]) {
    let keys = model["keys"].as_object().unwrap();
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        string(key, &mut header);
        match value {
            Json::Bool(flag) => header.extend([7, 0, 0, 0, u8::from(*flag)]),
            Json::String(text) => {
                header.extend(8u32.to_le_bytes());
                string(text, &mut header);
            }
            Json::Number(number) if number.is_f64() => {
                header.extend(6u32.to_le_bytes());
                header.extend((number.as_f64().unwrap() as f32).to_le_bytes());
            }
            number => {
                header.extend(4u32.to_le_bytes());
                header.extend((number.as_u64().unwrap() as u32).to_le_bytes());
            }
        }
    }
    let mut offset = 0u64;
    for (name, dimensions) in tensors {
        string(name, &mut header);
        header.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|axis| header.extend((*axis as u64).to_le_bytes()));
        header.extend(BlockType::F32.number().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += (4 * dimensions.iter().product::<usize>() as u64).next_multiple_of(32);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(header.len() as u64 + offset).unwrap();
}

#[test]
fn every_mix_gives_the_types_that_llama_quantize_gives() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut wrong = Vec::new();
    for model in fixture["models"].as_array().unwrap() {
        let tensors = tensors_of(model);
        write_sparse(&path, model, &tensors);
        let file = ModelFile::open(&path).unwrap();
        for (mix, letters) in model["types"].as_object().unwrap() {
            let planned = file.planned(Some(Mix::from_name(mix).unwrap())).unwrap();
            let letters = letters.as_str().unwrap();
            assert_eq!((planned.len(), tensors.len()), (letters.len(), letters.len()));
            for (letter, (name, _)) in letters.chars().zip(&tensors) {
                let expected = fixture["letters"][letter.to_string()].as_str().unwrap();
                let found = planned.iter().find(|tensor| tensor.name == *name).unwrap().kind;
                if !found.name().eq_ignore_ascii_case(expected) {
                    wrong.push(format!("{}, {mix}: {name} {expected} {}", model["name"], found.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_folder_gets_the_same_types_as_its_gguf_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/family");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    let device = tensor::Device::cpu(1, tensor::Isa::detect()).unwrap();
    for name in ["llama_llama3", "mixtral", "qwen3_window", "gemma3", "phi3", "gpt2", "bert"] {
        let source = ModelFile::open(&folder.join(name)).unwrap();
        if source
            .write_gguf(
                device.exec(),
                (&path, Writer::new()),
                Some(Mix::from_name("f32").unwrap()),
                &mut |_| (),
            )
            .is_err()
        {
            continue;
        }
        let converted = ModelFile::open(&path).unwrap();
        for mix in Mix::names().map(|name| Mix::from_name(name).unwrap()) {
            let types = |file: &ModelFile| -> BTreeMap<String, BlockType> {
                file.planned(Some(mix))
                    .unwrap()
                    .into_iter()
                    .map(|tensor| (tensor.name, tensor.kind))
                    .collect()
            };
            assert_eq!(types(&source), types(&converted), "{name} {}", mix.name());
        }
    }
}
