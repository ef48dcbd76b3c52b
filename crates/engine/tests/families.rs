//! Every family beside transformers (`fixtures/make_family_fixtures.py`): whole, token by token, in chunks, and together
//! with another document of another length. Documents are longer than windows and than the contexts before scaling.
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use engine::{Chunk, Device, Encoder, Engine, Isa, Loading, LogitRows, Options, Pooling};
use model::{Config, Parameters, Pass};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensor::Batch;

const DECODERS: [&str; 14] = [
    "llama_linear",
    "llama_dynamic",
    "llama_llama3",
    "qwen2_yarn",
    "mistral_window",
    "qwen3_window",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "phi4_longrope",
    "mixtral",
    "qwen3_moe",
    "gpt2",
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/family").join(name)
}

/// The documents, and named results of each.
struct Expected {
    documents: Vec<Vec<u32>>,
    bytes: Vec<u8>,
}

impl Expected {
    fn load(folder: &Path) -> Expected {
        let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let documents = serde_json::from_value(json["documents"].clone()).unwrap();
        Expected { documents, bytes: std::fs::read(folder.join("expected.safetensors")).unwrap() }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert!(found.len() >= expected.len(), "{what}");
    let found = &found[found.len() - expected.len()..];
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what} differ by {worst}");
}

/// Logits of every row of each document, computed together, so many ids of each at a time.
fn logits(engine: &mut Engine, documents: &[&[u32]], at_a_time: &[usize]) -> Vec<Vec<f32>> {
    let chunk = |document: &&[u32]| {
        let mut sequence = engine.sequence(document.len());
        sequence.extend(document);
        Chunk { sequence, rows: 0, logits: LogitRows::All }
    };
    let mut chunks: Vec<Chunk> = documents.iter().map(chunk).collect();
    let mut all = vec![Vec::new(); documents.len()];
    while chunks.iter().any(|chunk| chunk.sequence.pending() > 0) {
        for (chunk, rows) in chunks.iter_mut().zip(at_a_time) {
            chunk.rows = chunk.sequence.pending().min(*rows);
        }
        let logits = engine.step(&mut chunks).unwrap();
        for (index, all) in all.iter_mut().enumerate() {
            logits.of(index).iter().for_each(|row| all.extend_from_slice(row));
        }
    }
    all
}

fn check(name: &str) {
    let folder = folder(name);
    let expected = Expected::load(&folder);
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let options = Options { max_pages: Some(16), ..Options::default() };
    let mut engine = Engine::load(&folder, device, options, Loading::default()).unwrap();
    let documents: Vec<&[u32]> = expected.documents.iter().map(Vec::as_slice).collect();
    for (index, document) in documents.iter().enumerate() {
        let wanted = expected.get(&format!("logits.{index}"));
        for at_a_time in [usize::MAX, 1, 23] {
            let found = logits(&mut engine, &[*document], &[at_a_time]);
            assert_close(&format!("{name}: {at_a_time} at a time, logits"), &found[0], &wanted, 1e-4);
        }
    }
    let together = logits(&mut engine, &documents, &[31, 17]);
    for (index, found) in together.iter().enumerate() {
        let wanted = expected.get(&format!("logits.{index}"));
        assert_close(&format!("{name}: together, logits"), found, &wanted, 1e-4);
    }
}

#[test]
fn decoders_compute_what_transformers_computes() {
    DECODERS.iter().for_each(|name| check(name));
}

/// With the same f32 weights the trainer's forward pass gives the engine's bits.
#[test]
fn the_tape_gives_the_engines_bits() {
    for name in DECODERS {
        let device = Device::cpu(2, Isa::detect()).unwrap();
        let parameters = Parameters::load(&device, &folder(name)).unwrap();
        let document = &Expected::load(&folder(name)).documents[0];
        let positions: Vec<u32> = (0..document.len() as u32).collect();
        let batch = Batch { positions: &positions, documents: &[0..document.len()] };
        let mut pass = Pass::new(&device, &parameters.decoder, document.len());
        let of_tape = pass.logits(&parameters.decoder, parameters.flat.data(), document, batch);
        let options = Options { max_pages: Some(16), ..Options::default() };
        let mut engine = Engine::new(parameters, device, options).unwrap();
        assert!(logits(&mut engine, &[document], &[50])[0] == of_tape, "{name}");
    }
}

#[test]
fn what_is_saved_is_the_same_model() {
    for name in DECODERS.into_iter().chain(["bert"]) {
        let device = Device::cpu(1, Isa::detect()).unwrap();
        let parameters = Parameters::load(&device, &folder(name)).unwrap();
        let saved = tempfile::tempdir().unwrap();
        parameters.save(saved.path()).unwrap();
        assert_eq!(Config::load(saved.path()).unwrap(), *parameters.decoder.config(), "{name}");
        let again = Parameters::load(&device, saved.path()).unwrap();
        assert_close(name, again.flat.data(), parameters.flat.data(), 1e-7);
    }
}

#[test]
fn encoders_compute_what_transformers_computes() {
    let folder = folder("bert");
    let expected = Expected::load(&folder);
    let documents: Vec<&[u32]> = expected.documents.iter().map(Vec::as_slice).collect();
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let mut encoder = Encoder::load(&folder, device, Loading::default()).unwrap();
    assert_eq!(encoder.pooling(), Pooling::Mean, "where a folder does not say");
    for (pooling, name) in [(Pooling::Mean, "embedding"), (Pooling::First, "cls")] {
        encoder.set_pooling(pooling);
        let together = encoder.embed(&documents).unwrap();
        for (index, found) in together.iter().enumerate() {
            assert_close(name, found, &expected.get(&format!("{name}.{index}")), 1e-5);
            assert!(
                encoder.embed(&documents[index..=index]).unwrap()[0] == *found,
                "company changes nothing"
            );
        }
    }
    let too_long = vec![1; 161];
    let message = encoder.embed(&[&too_long]).unwrap_err().to_string();
    assert!(message.contains("161") && message.contains("160"), "{message}");
}

#[test]
fn a_folder_says_how_its_rows_become_one_vector() {
    let source = folder("bert");
    let expected = Expected::load(&source);
    let documents: Vec<&[u32]> = expected.documents.iter().map(Vec::as_slice).collect();
    let device = || Device::cpu(1, Isa::detect()).unwrap();
    let place = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(name), place.path().join(name)).unwrap();
    }
    std::fs::create_dir(place.path().join("1_Pooling")).unwrap();
    // As sentence-transformers wrote it for bge, and as it writes it since its sixth version.
    let older = r#"{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    let newer = r#"{"embedding_dimension": 32, "pooling_mode": "cls"}"#;
    for config in [older, newer] {
        std::fs::write(place.path().join("1_Pooling/config.json"), config).unwrap();
        let mut encoder = Encoder::load(place.path(), device(), Loading::default()).unwrap();
        assert_eq!(encoder.pooling(), Pooling::First, "{config}");
        for (index, found) in encoder.embed(&documents).unwrap().iter().enumerate() {
            assert_close("bge", found, &expected.get(&format!("cls.{index}")), 1e-5);
        }
    }
    let config = r#"{"pooling_mode_max_tokens": true}"#;
    std::fs::write(place.path().join("1_Pooling/config.json"), config).unwrap();
    let message =
        Encoder::load(place.path(), device(), Loading::default()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("pooling_mode_max_tokens"), "{message}");
}
