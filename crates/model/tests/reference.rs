//! The decoder beside PyTorch: logits, loss, log-probabilities and every gradient of small random
//! models (`fixtures/make_model_fixtures.py`).
#![allow(clippy::unwrap_used)]

mod common;

use common::{Packed, loss_and_gradients};
use model::{Parameters, Pass};
use safetensors::SafeTensors;
use std::path::PathBuf;
use tensor::{Device, Isa};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/model").join(name)
}

fn elements(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// ‖difference‖ / ‖expected‖, or ‖difference‖ alone where what is expected is nothing.
fn relative_difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let scale = norm(&mut expected.iter().map(|value| f64::from(*value)));
    if scale < 1e-12 { difference } else { difference / scale }
}

fn check(name: &str) {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let folder = folder(name);
    let parameters = Parameters::load(&device, &folder).unwrap();
    let (decoder, weights) = (&parameters.decoder, parameters.flat.data());
    let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let documents: Vec<Vec<u32>> = serde_json::from_value(json["documents"].clone()).unwrap();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();

    let packed = Packed::new(&documents);
    let vocab = decoder.config().vocab_size;
    let logits = Pass::new(&device, decoder, 64).logits(decoder, weights, &packed.ids, packed.batch());
    for (index, rows) in packed.documents.iter().enumerate() {
        let wanted = elements(&expected, &format!("logits.{index}"));
        let found = &logits[rows.start * vocab..rows.end * vocab];
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4, "{name}: logits of document {index} differ by {worst}");
    }

    let mut log_probs = vec![0.0; packed.ids.len()];
    let rows = packed.rows(1.0);
    Pass::new(&device, decoder, 64).score(decoder, weights, rows, Some(&mut log_probs));
    for (index, rows) in packed.documents.iter().enumerate() {
        let wanted = elements(&expected, &format!("log_probs.{index}"));
        let found = &log_probs[rows.start..rows.end - 1];
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == wanted.len() && worst <= 1e-4, "{name}: log-probabilities differ by {worst}");
    }

    let (loss, gradients) = loss_and_gradients(&device, decoder, weights, &[packed], false);
    let wanted = json["loss"].as_f64().unwrap();
    assert!((loss - wanted).abs() <= 1e-5 * wanted, "{name}: loss {loss}, PyTorch's {wanted}");
    for entry in decoder.layout().entries() {
        let wanted = elements(&expected, &format!("grad.{}", entry.name));
        let difference = relative_difference(entry.weight.of(&gradients), &wanted);
        assert!(difference <= 1e-4, "{name}: the gradient of {} differs by {difference:e}", entry.name);
    }
}

#[test]
fn decoders_equal_pytorch() {
    for name in ["llama_tiny", "llama_tied", "qwen2_tiny", "qwen3_tiny"] {
        check(name);
    }
}
