//! The gradients of every family of decoders beside PyTorch's (`fixtures/make_family_fixtures.py`).
#![allow(clippy::unwrap_used)]

mod common;

use common::Packed;
use model::{Family, Parameters, Pass};
use safetensors::SafeTensors;
use std::path::PathBuf;
use tensor::{Device, Isa};

fn check(name: &str, checkpoints: bool) {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/family").join(name);
    let mut parameters = Parameters::load(&device, &folder).unwrap();
    parameters.decoder.config().check_trainable().unwrap();
    let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let documents: Vec<Vec<u32>> = serde_json::from_value(json["documents"].clone()).unwrap();
    let (loss, gradients) = loss_and_gradients(&device, &parameters, &documents, checkpoints);
    let wanted = json["loss"].as_f64().unwrap();
    assert!((loss - wanted).abs() <= 1e-5 * wanted, "{name}: loss {loss}, PyTorch's {wanted}");

    // Written as a model, so that the gradients have the names and the shapes of the family's files.
    parameters.flat.data_mut().copy_from_slice(&gradients);
    let written = tempfile::tempdir().unwrap();
    parameters.save(written.path()).unwrap();
    let bytes = std::fs::read(written.path().join("model.safetensors")).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    let wanted = json["gradients"].as_object().unwrap();
    for (tensor, wanted) in wanted {
        let view = found.tensor(tensor).unwrap_or_else(|error| panic!("{name}: {tensor}: {error}"));
        let elements =
            view.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        // Gemma's files hold gains less one.
        let is_gemma =
            matches!(parameters.decoder.config().family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
        let shift = if is_gemma && tensor.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let elements: Vec<f64> = elements.map(|element| element + shift).collect();
        let norm = elements.iter().map(|element| element * element).sum::<f64>().sqrt();
        let wave: f64 = elements.iter().enumerate().map(|(i, x)| x * (i as f64 / 3.0).cos()).sum();
        let (wanted_norm, wanted_wave) = (wanted[0].as_f64().unwrap(), wanted[1].as_f64().unwrap());
        let close = (norm - wanted_norm).abs() <= 1e-4 * wanted_norm
            && (wave - wanted_wave).abs() <= 3e-4 * wanted_norm;
        assert!(close, "{name}: {tensor} {norm} {wave}, PyTorch's {wanted_norm} {wanted_wave}");
    }
}

/// Mean loss and its gradients, each document a micro-batch and a pass of its own: the positions that there are decide on
/// some kinds of rope scaling.
fn loss_and_gradients(
    device: &Device,
    parameters: &Parameters,
    documents: &[Vec<u32>],
    checkpoints: bool,
) -> (f64, Vec<f32>) {
    let (decoder, weights) = (&parameters.decoder, parameters.flat.data());
    let mut gradients = vec![0.0; decoder.layout().gradient_len()];
    let predicted: usize = documents.iter().map(|document| document.len() - 1).sum();
    let mut loss = 0.0;
    for (index, document) in documents.iter().enumerate() {
        let mut pass = Pass::new(device, decoder, document.len());
        if checkpoints {
            pass = pass.with_checkpoints();
        }
        if index == 0 {
            pass.gradients_are_zero();
        }
        let packed = Packed::new(std::slice::from_ref(document));
        let rows = packed.rows(1.0 / predicted as f32);
        loss += pass.train(decoder, (weights, &mut gradients), rows, None);
    }
    decoder.layout().finish_gradients(device, &mut gradients);
    gradients.truncate(decoder.layout().len());
    (loss / predicted as f64, gradients)
}

const DECODERS: [&str; 14] = [
    "gemma",
    "gemma2",
    "gemma3",
    "gpt2",
    "llama_dynamic",
    "llama_linear",
    "llama_llama3",
    "mistral_window",
    "mixtral",
    "phi3",
    "phi4_longrope",
    "qwen2_yarn",
    "qwen3_moe",
    "qwen3_window",
];

#[test]
fn gradients_of_every_family_equal_pytorch() {
    DECODERS.into_iter().for_each(|name| check(name, false));
}

#[test]
fn checkpointed_gradients_of_every_family_equal_pytorch() {
    DECODERS.into_iter().for_each(|name| check(name, true));
}
