//! Adapters beside PEFT (`fixtures/make_lora_fixtures.py`): logits, loss and gradients, merged and not; the same bits
//! however the work is divided; folders written, read and refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::Packed;
use model::{AdapterOptions, Adapters, Config, Family, Module, Parameters, Pass, Weights};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use tensor::{Device, Isa};

const FIXTURES: [&str; 2] = ["llama_all", "qwen3_some"];

fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn device() -> Device {
    Device::cpu(2, Isa::detect()).unwrap()
}

fn elements(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// ‖a − b‖ / ‖b‖.
fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |value: f64| value * value;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (difference / b.iter().map(|value| square(f64::from(*value))).sum::<f64>()).sqrt()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Mean loss and gradients of adapters over micro-batches.
fn loss_and_gradients(
    device: &Device,
    (parameters, adapters): (&Parameters, &Adapters),
    batches: &[Packed],
    checkpoints: bool,
) -> (f64, Vec<f32>) {
    let mut pass = Pass::new(device, &parameters.decoder, 256);
    if checkpoints {
        pass = pass.with_checkpoints();
    }
    let weights = Weights { base: parameters.flat.data(), adapters: Some(adapters) };
    let mut gradients = vec![0.0; adapters.flat.data().len()];
    let predicted: f32 = batches.iter().map(Packed::predicted).sum();
    let mut loss = 0.0;
    for batch in batches {
        let flat = (weights, gradients.as_mut_slice());
        loss += pass.train(&parameters.decoder, flat, batch.rows(1.0 / predicted), None);
    }
    (loss / f64::from(predicted), gradients)
}

fn check_against_peft(name: &str) {
    let device = device();
    let folder = fixtures("lora").join(name);
    let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let model = fixtures("model").join(json["model"].as_str().unwrap());
    let documents: Vec<Vec<u32>> = serde_json::from_value(json["documents"].clone()).unwrap();
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();

    let parameters = Parameters::load(&device, &model).unwrap();
    let adapters = Adapters::load(&device, &parameters.decoder, &folder).unwrap();
    let merged = Parameters::load_merged(&device, &model, &folder).unwrap();
    let packed = Packed::new(&documents);
    let decoder = &parameters.decoder;
    let mut pass = Pass::new(&device, decoder, 64);
    let weights = Weights { base: parameters.flat.data(), adapters: Some(&adapters) };
    let logits = pass.logits(decoder, weights, &packed.ids, packed.batch());
    let merged = pass.logits(decoder, merged.flat.data(), &packed.ids, packed.batch());
    let plain = pass.logits(decoder, parameters.flat.data(), &packed.ids, packed.batch());
    let scale = logits.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
    let difference = largest_difference(&logits, &merged);
    assert!(difference <= 1e-5 * scale, "{name}: merged and unmerged logits differ by {difference}");
    assert!(largest_difference(&logits, &plain) > 0.1, "{name}: the adapter does something");
    let vocab = decoder.config().vocab_size;
    for (index, rows) in packed.documents.iter().enumerate() {
        let rows = rows.start * vocab..rows.end * vocab;
        for (kind, found) in [("logits", &logits), ("merged", &merged)] {
            let wanted = elements(&expected, &format!("{kind}.{index}"));
            let difference = largest_difference(&found[rows.clone()], &wanted);
            assert!(difference <= 1e-4, "{name}: {kind} of document {index} differ by {difference}");
        }
    }

    let (loss, gradients) = loss_and_gradients(&device, (&parameters, &adapters), &[packed], false);
    let wanted = json["loss"].as_f64().unwrap();
    assert!((loss - wanted).abs() <= 1e-5 * wanted, "{name}: loss {loss}, PEFT's {wanted}");
    for entry in adapters.entries() {
        let wanted = elements(&expected, &format!("grad.{}", entry.name));
        let difference = relative_difference(entry.weight.of(&gradients), &wanted);
        assert!(difference <= 1e-4, "{name}: the gradient of {} differs by {difference:e}", entry.name);
    }
}

#[test]
fn adapters_equal_peft() {
    FIXTURES.into_iter().for_each(check_against_peft);
}

/// A small decoder of a family, and adapters whose B are not zero.
fn small(device: &Device, family: Family, options: &AdapterOptions) -> (Parameters, Adapters) {
    let mut config = Config::llama(53, 24, 2, 4);
    config.family = family;
    config.kv_heads = 2;
    config.qk_norm = family == Family::Qwen3;
    config.qkv_bias = family == Family::Qwen2;
    config.tie_embeddings = family == Family::Qwen3;
    let parameters = Parameters::init(device, config, 3);
    let mut adapters = Adapters::init(device, &parameters.decoder, options, 4).unwrap();
    let mut rng = base::seed::Rng::new(7, 0);
    adapters.flat.data_mut().iter_mut().for_each(|element| *element += 0.1 * rng.normal());
    (parameters, adapters)
}

fn documents() -> Vec<Vec<u32>> {
    let mut rng = base::seed::Rng::new(11, 0);
    (1..=8).map(|length| (0..length * 5).map(|_| rng.below(53) as u32).collect()).collect()
}

#[test]
fn threads_accumulation_and_checkpointing_change_no_bit() {
    let some = vec![Module::Key, Module::Output, Module::Up];
    for (family, target_modules) in
        [(Family::Llama, Module::ALL.to_vec()), (Family::Qwen2, some.clone()), (Family::Qwen3, some)]
    {
        let options = AdapterOptions { rank: 3, target_modules, ..AdapterOptions::default() };
        let run = |threads: usize, isa: Isa, micro_batches: usize, checkpoints: bool| {
            let device = Device::cpu(threads, isa).unwrap();
            let (parameters, adapters) = small(&device, family, &options);
            let documents = documents();
            let batches: Vec<Packed> = documents.chunks(8 / micro_batches).map(Packed::new).collect();
            loss_and_gradients(&device, (&parameters, &adapters), &batches, checkpoints)
        };
        let expected = run(1, Isa::Portable, 1, false);
        assert!(expected.1.iter().all(|gradient| gradient.is_finite() && *gradient != 0.0));
        for (threads, micro_batches, checkpoints) in
            [(2, 1, false), (3, 8, false), (1, 2, true), (3, 4, true)]
        {
            for isa in Isa::available() {
                let found = run(threads, isa, micro_batches, checkpoints);
                let name = format!("{family:?} {isa} {threads} {micro_batches} {checkpoints}");
                assert!((found.0 - expected.0).abs() < 1e-12, "{name}: loss");
                assert!(bits(&found.1) == bits(&expected.1), "{name}: gradients");
            }
        }
    }
}

#[test]
fn untrained_adapters_change_no_bit() {
    let device = device();
    let parameters = small(&device, Family::Llama, &AdapterOptions::default()).0;
    let adapters = Adapters::init(&device, &parameters.decoder, &AdapterOptions::default(), 0).unwrap();
    let packed = Packed::new(&documents());
    let mut pass = Pass::new(&device, &parameters.decoder, 64);
    let mut logits = |adapters| {
        let weights = Weights { base: parameters.flat.data(), adapters };
        bits(&pass.logits(&parameters.decoder, weights, &packed.ids, packed.batch()))
    };
    assert!(logits(None) == logits(Some(&adapters)));
    for entry in adapters.entries() {
        let elements = entry.weight.of(adapters.flat.data());
        let bound = 1.0 / (entry.weight.cols as f32).sqrt();
        let largest = elements.iter().map(|element| element.abs()).fold(0.0, f32::max);
        match entry.name.ends_with("lora_B.weight") {
            true => assert_eq!(largest, 0.0, "{}", entry.name),
            false => assert!(largest <= bound && largest > 0.9 * bound, "{}: {largest}", entry.name),
        }
    }
}

#[test]
fn what_is_saved_is_loaded_and_what_does_not_fit_is_refused() {
    type Damage = fn(&Path);
    let device = device();
    let options =
        AdapterOptions { rank: 2, target_modules: vec![Module::Value], ..AdapterOptions::default() };
    let (parameters, adapters) = small(&device, Family::Llama, &options);
    let cases: [(&str, Damage, &str); 8] = [
        ("whole", |_| (), ""),
        ("no configuration", |f| std::fs::remove_file(f.join("adapter_config.json")).unwrap(), "PEFT folder"),
        ("no tensors", |f| std::fs::remove_file(f.join("adapter_model.safetensors")).unwrap(), "PEFT folder"),
        ("other rank", |f| replace(f, "\"r\": 2", "\"r\": 1"), "lora_A.weight` has shape [2, 24]"),
        ("giant rank", |f| replace(f, "\"r\": 2", "\"r\": 60000"), "implies"),
        ("more targets", |f| replace(f, "\"v_proj\"", "\"v_proj\", \"k_proj\""), "are missing"),
        ("fewer targets", |f| replace(f, "\"v_proj\"", "\"k_proj\""), "v_proj.lora_A.weight` is not one"),
        ("DoRA", |f| replace(f, "\"use_dora\": false", "\"use_dora\": true"), "`use_dora` is true"),
    ];
    for (name, damage, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        adapters.save(folder.path(), "../base").unwrap();
        damage(folder.path());
        match Adapters::load(&device, &parameters.decoder, folder.path()) {
            Ok(loaded) => {
                assert!(expected.is_empty(), "{name}");
                assert_eq!(bits(loaded.flat.data()), bits(adapters.flat.data()));
                assert_eq!(loaded.options(), adapters.options());
            }
            Err(error) => {
                let message = error.to_string();
                assert!(!expected.is_empty() && message.contains(expected), "{name}: {message}");
            }
        }
    }
    let unusable = AdapterOptions { rank: 0, ..options };
    let message =
        Adapters::init(&device, &parameters.decoder, &unusable, 0).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("`rank` is 0"), "{message}");
}

fn replace(folder: &Path, from: &str, to: &str) {
    let path = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}
