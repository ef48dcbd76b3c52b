//! GGUF files and folders: what is written in one form is the same model in the other; quantising loses little; damaged
//! files are refused, without a panic or a giant allocation.
#![allow(clippy::unwrap_used)]

use base::gguf::{self, Writer};
use base::seed::Rng;
use model::{Config, Mix, ModelFile, Parameters};
use std::path::{Path, PathBuf};
use tensor::{Device, Isa};

fn device() -> Device {
    Device::cpu(1, Isa::detect()).unwrap()
}

/// The fixtures' models: every family, each with random weights.
fn folders() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut folders = Vec::new();
    for kind in ["model", "family"] {
        let entries = std::fs::read_dir(fixtures.join(kind)).unwrap();
        folders.extend(entries.map(|entry| entry.unwrap().path()));
    }
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort_by_key(|folder| folder.file_name().unwrap().to_owned());
    assert!(folders.len() >= 18);
    folders
}

/// A Llama of two layers.
fn llama() -> PathBuf {
    folders().into_iter().find(|folder| folder.ends_with("llama_tied")).unwrap()
}

/// Writes a model as GGUF with the tokens that its configuration names.
fn to_gguf(file: &ModelFile, path: &Path, mix: Option<Mix>) -> model::Composition {
    let mut header = Writer::new();
    if let Some(bos) = file.config().bos_token_id {
        header.set("tokenizer.ggml.bos_token_id", bos);
    }
    if let Some(eos) = file.config().eos_token_ids.first() {
        header.set("tokenizer.ggml.eos_token_id", *eos);
    }
    let mut told = 0;
    let composition =
        file.write_gguf(device().exec(), (path, header), mix, &mut |bytes| told += bytes).unwrap();
    assert_eq!(told, composition.values().map(|(_, bytes)| bytes).sum::<u64>());
    composition
}

#[test]
fn a_model_is_the_same_in_either_format() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let file = ModelFile::open(&folder).unwrap();
        let path = scratch.path().join(format!("{name}.gguf"));
        if ["llama_dynamic", "qwen2_yarn", "qwen3_window", "qwen3_moe"].contains(&name.as_str()) {
            let refused = file.write_gguf(device().exec(), (&path, Writer::new()), None, &mut |_| ());
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("GGUF"), "{name}: {message}");
            continue;
        }
        to_gguf(&file, &path, None);
        let original = Parameters::load(&device(), &folder).unwrap();
        let through_gguf = Parameters::load(&device(), &path).unwrap();
        let (wanted, found) = (original.decoder.config(), through_gguf.decoder.config());
        check_config(&name, wanted, found);
        assert!(original.flat.data() == through_gguf.flat.data(), "{name}: weights");

        let again = scratch.path().join(&name);
        ModelFile::open(&path).unwrap().write_folder(device().exec(), &again).unwrap();
        let through_folder = Parameters::load(&device(), &again).unwrap();
        assert_eq!(through_folder.decoder.config(), found, "{name}");
        assert!(original.flat.data() == through_folder.flat.data(), "{name}: weights");
    }
}

/// Equal but for what GGUF holds in less precision, or leaves to the tokenizer.
fn check_config(name: &str, wanted: &Config, found: &Config) {
    let mut rounded = found.clone();
    assert!((found.rope.theta / wanted.rope.theta - 1.0).abs() < 1e-6, "{name}: {:?}", found.rope);
    let same_rule =
        std::mem::discriminant(&found.rope.scaling) == std::mem::discriminant(&wanted.rope.scaling);
    assert!(same_rule, "{name}: {:?}", found.rope);
    rounded.rope = wanted.rope.clone();
    if let (Some(sliding), Some(own)) = (&mut rounded.sliding, &wanted.sliding) {
        sliding.rope.clone_from(&own.rope);
    }
    rounded.eos_token_ids.clone_from(&wanted.eos_token_ids);
    assert_eq!(&rounded, wanted, "{name}");
}

#[test]
fn quantising_loses_as_little_as_the_type_promises() {
    // Rows of 256 and 512, so that every type fits.
    let scratch = tempfile::tempdir().unwrap();
    let mut config = Config::llama(300, 256, 4, 4);
    config.intermediate_size = 512;
    config.kv_heads = 2;
    let parameters = Parameters::init(&device(), config, 7);
    parameters.save(scratch.path()).unwrap();
    let file = ModelFile::open(scratch.path()).unwrap();
    let path = scratch.path().join("small.gguf");
    let cases = [
        ("f16", 1e-3, 16.0),
        ("q8_0", 0.01, 8.6),
        ("q6_k", 0.03, 6.8),
        ("q5_k_m", 0.05, 6.0),
        ("q4_k_m", 0.1, 5.3),
        ("q4_0", 0.12, 5.0),
        ("q3_k_m", 0.2, 4.6),
        ("q2_k", 0.4, 3.9),
    ];
    for (name, error_max, bits_max) in cases {
        let composition = to_gguf(&file, &path, Mix::from_name(name));
        let bytes: u64 = composition.values().map(|(_, bytes)| bytes).sum();
        let bits = 8.0 * bytes as f64 / parameters.flat.data().len() as f64;
        assert!(bits <= bits_max * 1.1, "{name}: {bits} bits");
        let found = Parameters::load(&device(), &path).unwrap();
        let pairs = || found.flat.data().iter().zip(parameters.flat.data());
        let off: f64 = pairs().map(|(found, wanted)| f64::from(found - wanted).powi(2)).sum();
        let all: f64 = pairs().map(|(_, wanted)| f64::from(*wanted).powi(2)).sum();
        let error = (off / all).sqrt();
        assert!(error < error_max, "{name}: {error}");
        // A file of its own type is copied bit for bit.
        let copy = scratch.path().join("copy.gguf");
        to_gguf(&ModelFile::open(&path).unwrap(), &copy, None);
        assert!(Parameters::load(&device(), &copy).unwrap().flat.data() == found.flat.data(), "{name}");
    }
}

#[test]
fn gguf_files_that_do_not_fit_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let good = scratch.path().join("good.gguf");
    to_gguf(&ModelFile::open(&llama()).unwrap(), &good, None);
    let source = gguf::File::open(&good).unwrap();
    type Change = fn(&mut Writer, &mut Vec<(String, Vec<usize>, u32)>);
    let cases: [(Change, &str); 8] = [
        (|w, _| w.set("general.architecture", "mamba"), "`mamba` is not supported; supported: llama"),
        (|w, _| w.set("llama.block_count", 3u32), "missing, the first is `blk.2."),
        (|w, _| w.set("llama.attention.head_count", "two"), "`llama.attention.head_count` is string"),
        (|w, _| w.set("llama.rope.scaling.type", "ntk"), "`llama.rope.scaling.type` is `ntk`; supported"),
        (|_, t| t[1].0 = "blk.0.odd.weight".into(), "`blk.0.odd.weight` is not one"),
        (|_, t| drop(t.remove(1)), "1 tensors are missing, the first is"),
        (|_, t| t[2].1[1] += 1, "`blk.0.attn_q.weight` has shape"),
        (|_, t| t[0].2 = 77, "has the type of number 77; supported: F32, F16"),
    ];
    for (change, expected) in cases {
        let mut writer = Writer::new();
        source.keys().for_each(|key| writer.set(key, source.get(key).unwrap()));
        let mut tensors: Vec<_> = source
            .tensors()
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.dimensions.clone(), tensor.type_number))
            .collect();
        change(&mut writer, &mut tensors);
        let bytes = |tensor: &(String, Vec<usize>, u32)| 4 * tensor.1.iter().product::<usize>();
        tensors.iter().for_each(|tensor| writer.tensor(&tensor.0, &tensor.1, tensor.2, bytes(tensor) as u64));
        let path = scratch.path().join("bad.gguf");
        let mut stream = writer.begin(&path).unwrap();
        tensors.iter().for_each(|tensor| stream.append(&vec![0; bytes(tensor)]).unwrap());
        stream.finish().unwrap();
        let message = ModelFile::open(&path).map(drop).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("bad.gguf"), "{expected}: {message}");
    }
}

/// Opens a file with a few bytes changed or cut; what opens is read as a whole.
fn damage(bytes: &[u8], path: &Path, target: &Path, rng: &mut Rng) -> bool {
    let mut bytes = bytes.to_vec();
    // Most of a file are weights, which nothing can be wrong with: headers are damaged.
    let header = bytes.len().min(6000) as u64;
    for _ in 0..1 + rng.below(3) {
        let place = rng.below(header).min(bytes.len() as u64 - 1) as usize;
        match rng.below(8) {
            0..4 => bytes[place] = rng.below(256) as u8,
            4..6 => bytes[place] ^= 1 << rng.below(8),
            6 => bytes[place..].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            _ => bytes.truncate(1 + rng.below(bytes.len() as u64) as usize),
        }
    }
    std::fs::write(path, &bytes).unwrap();
    let Ok(file) = ModelFile::open(target) else { return false };
    assert!(file.decoder().layout().len() as u64 <= 8 * file.len_bytes());
    let mut flat = vec![0.0; file.decoder().layout().len()];
    file.read_f32(device().exec(), &mut flat);
    true
}

#[test]
fn damaged_models_never_panic() {
    let scratch = tempfile::tempdir().unwrap();
    let cases: u64 = std::env::var("TAOYE_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let source = ModelFile::open(&llama()).unwrap();
    let gguf = scratch.path().join("model.gguf");
    to_gguf(&source, &gguf, Mix::from_name("q8_0"));
    let folder = scratch.path().join("folder");
    source.write_folder(device().exec(), &folder).unwrap();
    for (path, target) in [
        (gguf.clone(), gguf),
        (folder.join("model.safetensors"), folder.clone()),
        (folder.join("config.json"), folder),
    ] {
        let bytes = std::fs::read(&path).unwrap();
        let mut rng = Rng::new(11, 0);
        let opened = (0..cases).filter(|_| damage(&bytes, &path, &target, &mut rng)).count() as u64;
        assert!(opened < cases, "{opened} of {cases}");
        std::fs::write(&path, &bytes).unwrap();
    }
}
