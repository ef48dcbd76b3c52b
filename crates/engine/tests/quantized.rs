//! Engines with block-quantised and half-precision weights: near the f32 weights, the same bits however they run, and
//! the cache of packed weights on disk.
#![allow(clippy::unwrap_used)]

use base::gguf::Writer;
use engine::{Chunk, Device, Engine, Isa, Loading, LogitRows, Options, WeightType};
use model::{Config, Mix, ModelFile, Parameters};
use std::path::Path;
use tensor::quant::{BlockType, Rows, dequantize, quantize};

const IDS: [u32; 23] = [5, 17, 99, 3, 3, 64, 8, 120, 77, 31, 2, 9, 14, 55, 101, 6, 7, 42, 88, 19, 23, 11, 1];

fn device(threads: usize, isa: Isa) -> Device {
    Device::cpu(threads, isa).unwrap()
}

/// A random model whose inputs are whole blocks of every type.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::llama(128, 256, 2, 4);
    config.kv_heads = 2;
    config.intermediate_size = 512;
    Parameters::init(&device(1, Isa::detect()), config, 7).save(folder.path()).unwrap();
    folder
}

fn load(folder: &Path, device: Device, weights: WeightType, cache: Option<&Path>) -> Engine {
    let loading = Loading { weights, repack_cache: cache.map(Into::into), ..Loading::default() };
    Engine::load(folder, device, Options::default(), loading).unwrap()
}

/// The logits of all rows, computed in pieces of `piece` rows.
fn logits(engine: &mut Engine, piece: usize) -> Vec<f32> {
    let mut sequence = engine.sequence(IDS.len());
    sequence.extend(&IDS);
    let mut all = Vec::new();
    while sequence.pending() > 0 {
        let rows = sequence.pending().min(piece);
        let mut chunks = [Chunk { sequence, rows, logits: LogitRows::All }];
        let found = engine.step(&mut chunks).unwrap();
        found.of(0).iter().for_each(|row| all.extend_from_slice(row));
        let [chunk] = chunks;
        sequence = chunk.sequence;
    }
    all
}

/// Root mean square of the difference, as a share of that of the values.
fn distance(values: &[f32], other: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = square(&mut values.iter().zip(other).map(|(x, y)| x - y));
    (difference / square(&mut other.iter().copied())).sqrt()
}

/// The folder's model with every matrix of a product replaced by what its blocks stand for.
fn rounded(folder: &Path, kind: BlockType) -> tempfile::TempDir {
    let mut parameters = Parameters::load(&device(1, Isa::detect()), folder).unwrap();
    let layout = parameters.decoder.layout().clone();
    for entry in
        layout.entries().iter().filter(|entry| entry.weight.rows > 1 && entry.weight != layout.embedding())
    {
        let (values, columns) = (entry.weight.of_mut(parameters.flat.data_mut()), entry.weight.cols);
        let mut blocks = vec![0; kind.row_bytes(columns).unwrap() * entry.weight.rows];
        quantize(kind, Rows { values, columns, importance: None }, &mut blocks).unwrap();
        dequantize(kind, &blocks, values);
    }
    let rounded = tempfile::tempdir().unwrap();
    parameters.save(rounded.path()).unwrap();
    rounded
}

#[test]
fn quantised_products_give_nearly_the_logits_of_what_the_blocks_stand_for() {
    let folder = folder();
    let types = [BlockType::Q8_0, BlockType::Q6_K, BlockType::Q5_K, BlockType::Q4_K, BlockType::Q4_0];
    for kind in
        types.into_iter().chain([BlockType::IQ4_XS, BlockType::MXFP4, BlockType::Q3_K, BlockType::Q2_K])
    {
        let rounded = rounded(folder.path(), kind);
        let exact = logits(&mut load(rounded.path(), device(2, Isa::detect()), WeightType::F32, None), 23);
        let mut engine = load(folder.path(), device(2, Isa::detect()), WeightType::Quantized(kind), None);
        let found = distance(&logits(&mut engine, 23), &exact);
        // Eight bits for the largest of 32 activations are a relative error of about 0.006 in a product.
        assert!(found < 0.03 && found > 0.0005, "{}: {found}", kind.name());
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_chunks_nor_on_the_instruction_set() {
    let folder = folder();
    for kind in [BlockType::Q8_0, BlockType::Q4_K, BlockType::Q6_K] {
        let weights = WeightType::Quantized(kind);
        let expected = logits(&mut load(folder.path(), device(1, Isa::Portable), weights, None), IDS.len());
        for isa in Isa::available() {
            for (threads, piece) in [(1, 1), (2, 5), (3, 23)] {
                let found = logits(&mut load(folder.path(), device(threads, isa), weights, None), piece);
                let same = found.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits());
                assert!(same, "{} on {isa} with {threads} threads in pieces of {piece}", kind.name());
            }
        }
    }
}

#[test]
fn a_mix_while_loading_is_the_file_of_that_mix() {
    let (folder, place) = (folder(), tempfile::tempdir().unwrap());
    let path = place.path().join("model.gguf");
    for name in ["q4_k_m", "q5_k_s", "q3_k_l", "q2_k", "q4_0", "iq4_xs"] {
        let mix = Mix::from_name(name).unwrap();
        let exec = device(2, Isa::detect());
        let source = ModelFile::open(folder.path()).unwrap();
        source.write_gguf(exec.exec(), (&path, Writer::new()), Some(mix), &mut |_| ()).unwrap();
        let expected = logits(&mut load(&path, device(2, Isa::detect()), WeightType::AsStored, None), 23);
        // Rows of the table of embeddings are read from the file, so the folder's get what the mix left of them.
        let file = ModelFile::open(&path).unwrap();
        let mut parameters = Parameters::load(&exec, folder.path()).unwrap();
        let table = parameters.decoder.layout().embedding();
        let entry = file.decoder().layout().entries().iter().find(|entry| entry.weight == table).unwrap();
        file.stored(entry).read_f32(exec.exec(), table.of_mut(parameters.flat.data_mut()));
        let rounded = tempfile::tempdir().unwrap();
        parameters.save(rounded.path()).unwrap();
        let found =
            logits(&mut load(rounded.path(), device(2, Isa::detect()), WeightType::Mixed(mix), None), 23);
        assert!(found.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits()), "{name}");
    }
}

#[test]
fn packed_weights_are_kept_and_what_is_damaged_or_stale_is_packed_again() {
    let (folder, cache) = (folder(), tempfile::tempdir().unwrap());
    let weights = WeightType::Quantized(BlockType::Q4_K);
    let run = || logits(&mut load(folder.path(), device(2, Isa::detect()), weights, Some(cache.path())), 23);
    let file = || {
        let files: Vec<_> =
            std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "one file a model, and nothing half-written: {files:?}");
        files[0].clone()
    };
    let expected = run();
    let kept = std::fs::read(file()).unwrap();
    assert_eq!(run(), expected, "from the cache");

    let mut damaged = kept.clone();
    damaged[kept.len() / 3] ^= 1;
    for bytes in [&damaged[..], &kept[..kept.len() / 2], &kept[1..], b""] {
        std::fs::write(file(), bytes).unwrap();
        assert_eq!(run(), expected, "a damaged cache");
        assert_eq!(std::fs::read(file()).unwrap(), kept, "it is whole again");
    }

    let config = Config::load(folder.path()).unwrap();
    Parameters::init(&device(1, Isa::detect()), config, 8).save(folder.path()).unwrap();
    assert_ne!(run(), expected, "other weights under the same name");
    assert_ne!(std::fs::read(file()).unwrap(), kept);
}

#[test]
fn packed_weights_go_when_their_model_is_gone() {
    let (gone, stays, cache) = (folder(), folder(), tempfile::tempdir().unwrap());
    let weights = WeightType::Quantized(BlockType::Q8_0);
    let run = |model: &tempfile::TempDir| {
        load(model.path(), device(1, Isa::detect()), weights, Some(cache.path()));
    };
    let packed =
        || std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    run(&gone);
    let old = packed();
    run(&stays);
    assert_eq!(packed().len(), 2, "both models are there");
    std::fs::write(cache.path().join("notes.txt"), "not ours").unwrap();
    gone.close().unwrap();
    let third = folder();
    run(&third);
    assert!(!old[0].exists(), "packed weights of a model that is gone");
    assert_eq!(packed().len(), 3, "those of the two others, and a file that is not ours");
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let folder = folder();
    let weights = WeightType::Quantized(BlockType::Q8_0);
    let place = folder.path().join("config.json");
    let mut engine = load(folder.path(), device(1, Isa::detect()), weights, Some(&place));
    assert!(logits(&mut engine, 23).iter().all(|logit| logit.is_finite()));
}

#[test]
fn a_context_longer_than_the_model_s_is_refused_with_both_numbers() {
    let folder = folder();
    let options = Options { context_tokens: Some(4096), ..Options::default() };
    let refused = Engine::load(folder.path(), device(1, Isa::detect()), options, Loading::default());
    let message = refused.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("4096") && message.contains("2048"), "{message}");
}
