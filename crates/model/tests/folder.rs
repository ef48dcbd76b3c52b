//! Model folders: what is written is read back, and what is damaged or does not fit is refused by name.
#![allow(clippy::unwrap_used)]

use model::{Config, Parameters};
use std::path::Path;
use tensor::{Device, Isa};

fn device() -> Device {
    Device::cpu(1, Isa::detect()).unwrap()
}

fn saved(folder: &Path) -> Parameters {
    let parameters = Parameters::init(&device(), Config::llama(50, 16, 2, 2), 1);
    parameters.save(folder).unwrap();
    parameters
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = saved(folder.path());
    let loaded = Parameters::load(&device(), folder.path()).unwrap();
    assert_eq!(loaded.decoder.config(), parameters.decoder.config());
    assert_eq!(loaded.flat.data(), parameters.flat.data());
    assert!(loaded.get("lm_head.weight").is_some_and(|head| head.len() == 50 * 16));
}

#[test]
fn the_seed_decides_the_weights() {
    let init = |seed| Parameters::init(&device(), Config::llama(50, 16, 2, 2), seed).flat.data().to_vec();
    assert_eq!(init(1), init(1));
    assert_ne!(init(1), init(2));
    let weights = init(1);
    let table = &weights[..50 * 16];
    let deviation = (table.iter().map(|w| w * w).sum::<f32>() / table.len() as f32).sqrt();
    assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, &str); 8] = [
        ("no weights", |f| std::fs::remove_file(f.join("model.safetensors")).unwrap(), "model.safetensors"),
        ("no configuration", |f| std::fs::remove_file(f.join("config.json")).unwrap(), "config.json"),
        ("cut short", |f| cut(f, 100), "not a whole safetensors file"),
        ("cut by a byte", |f| cut(f, 1), "not a whole safetensors file"),
        ("a giant", |f| replace(f, "\"hidden_size\": 16", "\"hidden_size\": 16000"), "implies"),
        (
            "too many layers",
            |f| replace(f, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 20000"),
            "up to 10000",
        ),
        ("more layers", |f| replace(f, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"), "missing"),
        ("other width", |f| replace(f, "\"vocab_size\": 50", "\"vocab_size\": 51"), "has shape [50, 16]"),
    ];
    for (name, damage, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        damage(folder.path());
        let message = Parameters::load(&device(), folder.path()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn a_hostile_header_is_refused_without_a_giant_allocation() {
    for header in [u64::MAX.to_le_bytes(), (1u64 << 40).to_le_bytes(), 3u64.to_le_bytes()] {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        let mut bytes = header.to_vec();
        bytes.extend(b"{}  ");
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        assert!(Parameters::load(&device(), folder.path()).is_err());
    }
}

fn cut(folder: &Path, bytes: usize) {
    let path = folder.join("model.safetensors");
    let content = std::fs::read(&path).unwrap();
    std::fs::write(path, &content[..content.len() - bytes]).unwrap();
}

fn replace(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}
