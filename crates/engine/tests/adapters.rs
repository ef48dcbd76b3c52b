//! Adapters beside one base model: rows of several step together and each is what it is alone; what training and PEFT
//! compute; what one has computed is never another's.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use engine::{
    Chunk, Completion, Device, Engine, Error, Event, Isa, Loading, LogitRows, Options, Request, Sampling,
    Scheduler, WeightType,
};
use model::{AdapterOptions, Adapters, Config, Module, Parameters, Pass, Weights};
use safetensors::SafeTensors;
use tensor::Batch;
use tensor::quant::BlockType;

const VOCABULARY: u32 = 97;
const NAMES: [&str; 3] = ["red", "green", "blue"];

fn config() -> Config {
    Config {
        kv_heads: 2,
        head_dim: 16,
        intermediate_size: 96,
        max_positions: 512,
        ..Config::llama(VOCABULARY as usize, 64, 2, 4)
    }
}

fn parameters(device: &Device) -> Parameters {
    let mut parameters = Parameters::init(device, config(), 5);
    let weights = parameters.flat.data_mut().iter_mut().enumerate();
    weights.for_each(|(index, weight)| *weight = *weight * 2.5 + 0.01 * (index % 7) as f32);
    parameters
}

/// Adapters that change much; each has another rank, other matrices and another scale.
fn adapters(device: &Device, parameters: &Parameters, name: &str) -> Adapters {
    let (rank, target_modules, rslora) = match name {
        "red" => (3, Module::ALL.to_vec(), false),
        "green" => (8, vec![Module::Query, Module::Value, Module::Down], true),
        _ => (1, vec![Module::Key, Module::Output, Module::Up], false),
    };
    let options = AdapterOptions { rank, alpha: 4.0, target_modules, rslora };
    let mut adapters = Adapters::init(device, &parameters.decoder, &options, 4).unwrap();
    let mut rng = base::seed::Rng::new(name.len() as u64, 0);
    adapters.flat.data_mut().iter_mut().for_each(|element| *element += 0.2 * rng.normal());
    adapters
}

/// The base model's folder, and a PEFT folder for each name.
fn write(device: &Device) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let parameters = parameters(device);
    parameters.save(folder.path()).unwrap();
    for name in NAMES {
        adapters(device, &parameters, name).save(&folder.path().join(name), "base").unwrap();
    }
    folder
}

fn engine(folder: &Path, threads: usize, isa: Isa, weights: WeightType, options: Options) -> Engine {
    let device = Device::cpu(threads, isa).unwrap();
    let loading = Loading { weights, ..Loading::default() };
    let mut engine = Engine::load(folder, device, options, loading).unwrap();
    let reader = engine.adapter_reader();
    for name in NAMES {
        engine.insert_adapter(reader.read(name, &folder.join(name)).unwrap()).unwrap();
    }
    engine
}

fn prompt(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|index| (index * index + 31 * index + 17 * seed) % VOCABULARY).collect()
}

/// Prompts of which many begin alike, each with other adapters or none.
fn requests() -> Vec<Request> {
    let names = NAMES.map(Some).into_iter().chain([None]);
    let choices = names.cycle().zip([70, 131, 64, 5, 140, 70, 33, 131, 130, 2, 70, 64]);
    let request = |(index, (name, count)): (usize, (Option<&str>, usize))| Request {
        prompt: prompt(index as u32 % 2, count),
        max_tokens: 9,
        adapter: name.map(str::to_owned),
        sampling: Sampling::greedy(),
        logprobs: Some(2),
        prompt_logprobs: (index % 3 == 0).then_some(1),
        ..Request::default()
    };
    choices.enumerate().map(request).collect()
}

fn alone(engine: Engine, requests: &[Request]) -> Vec<Completion> {
    let mut scheduler = Scheduler::new(engine);
    let one = |request: &Request| scheduler.generate_batch(std::slice::from_ref(request)).unwrap().remove(0);
    requests.iter().map(one).collect()
}

fn without_counts(mut completions: Vec<Completion>) -> Vec<Completion> {
    completions.iter_mut().for_each(|completion| completion.finish.cached_tokens = 0);
    completions
}

#[test]
fn rows_of_many_adapters_are_those_of_each_alone() {
    let folder = write(&Device::cpu(1, Isa::detect()).unwrap());
    let requests = requests();
    for weights in [WeightType::AsStored, WeightType::Quantized(BlockType::Q8_0)] {
        let plain = || Options { prefix_cache: false, guess_rows: 0, ..Options::default() };
        let expected =
            without_counts(alone(engine(folder.path(), 1, Isa::detect(), weights, plain()), &requests));
        let bare = Request { adapter: None, ..requests[0].clone() };
        let bare = alone(engine(folder.path(), 1, Isa::detect(), weights, plain()), &[bare]);
        assert_ne!(expected[0].tokens, bare[0].tokens, "adapters change answers");
        for (threads, isa) in Isa::available().into_iter().flat_map(|isa| [(1, isa), (3, isa)]) {
            for (step_rows, max_pages) in [(512, None), (7, Some(9))] {
                let options = Options { step_rows, max_pages, ..Options::default() };
                let mut scheduler = Scheduler::new(engine(folder.path(), threads, isa, weights, options));
                // The second time everything is in the prefix cache that has room there.
                for round in 0..2 {
                    let found = scheduler.generate_batch(&requests).unwrap();
                    let same = without_counts(found) == expected;
                    assert!(same, "{weights:?} {isa} × {threads}, {step_rows} rows, round {round}");
                }
            }
        }
    }
}

#[test]
fn bits_are_those_of_training_and_the_merged_model_agrees() {
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let (folder, parameters) = (write(&device), parameters(&device));
    let ids = prompt(3, 150);
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let whole = std::ops::Range { start: 0, end: ids.len() };
    let batch = || Batch { positions: &positions, documents: std::slice::from_ref(&whole) };
    let mut pass = Pass::new(&device, &parameters.decoder, 160);
    let mut engine = engine(folder.path(), 2, Isa::detect(), WeightType::AsStored, Options::default());
    for name in NAMES {
        let adapters = Adapters::load(&device, &parameters.decoder, &folder.path().join(name)).unwrap();
        let weights = Weights { base: parameters.flat.data(), adapters: Some(&adapters) };
        let expected = pass.logits(&parameters.decoder, weights, &ids, batch());
        let merged = Parameters::load_merged(&device, folder.path(), &folder.path().join(name)).unwrap();
        let merged = pass.logits(&parameters.decoder, merged.flat.data(), &ids, batch());
        for rows in [150, 1, 64] {
            let mut sequence = engine.sequence_with(ids.len(), Some(name)).unwrap();
            sequence.extend(&ids);
            let mut chunks = [Chunk { sequence, rows: 0, logits: LogitRows::All }];
            let mut found: Vec<f32> = Vec::new();
            while chunks[0].sequence.pending() > 0 {
                chunks[0].rows = rows.min(chunks[0].sequence.pending());
                let logits = engine.step(&mut chunks).unwrap();
                found.extend(logits.of(0).iter().flatten());
            }
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(bits(&found) == bits(&expected), "{name} in chunks of {rows}");
            let scale = found.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
            let difference = found.iter().zip(&merged).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference <= 1e-5 * scale, "{name}: merged logits differ by {difference} of {scale}");
        }
    }
}

#[test]
fn logits_are_those_of_peft() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for name in ["llama_all", "qwen3_some"] {
        let folder = fixtures.join("lora").join(name);
        let json = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let documents: Vec<Vec<u32>> = serde_json::from_value(json["documents"].clone()).unwrap();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let base = fixtures.join("model").join(json["model"].as_str().unwrap());
        let device = Device::cpu(1, Isa::detect()).unwrap();
        let mut engine = Engine::load(&base, device, Options::default(), Loading::default()).unwrap();
        let adapter = engine.adapter_reader().read(name, &folder).unwrap();
        engine.insert_adapter(adapter).unwrap();
        // All documents in one step, and the base model's rows between them.
        let chunk = |ids: &Vec<u32>, adapter: Option<&str>| {
            let mut sequence = engine.sequence_with(ids.len(), adapter).unwrap();
            sequence.extend(ids);
            Chunk { rows: ids.len(), logits: LogitRows::All, sequence }
        };
        let mut chunks: Vec<Chunk> =
            documents.iter().flat_map(|ids| [chunk(ids, Some(name)), chunk(ids, None)]).collect();
        let logits = engine.step(&mut chunks).unwrap();
        for index in 0..documents.len() {
            let view = expected.tensor(&format!("logits.{index}")).unwrap();
            let wanted = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let found = logits.of(2 * index);
            let difference =
                found.iter().flatten().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference <= 1e-4, "{name}: document {index} differs by {difference}");
            let base = logits.of(2 * index + 1);
            assert!(base.iter().flatten().zip(found.iter().flatten()).any(|(a, b)| (a - b).abs() > 0.01));
        }
    }
}

#[test]
fn adapters_that_go_leave_nothing_behind_and_end_nothing() {
    let folder = write(&Device::cpu(1, Isa::detect()).unwrap());
    let options = || Options { max_pages: Some(64), ..Options::default() };
    let new = || engine(folder.path(), 1, Isa::detect(), WeightType::AsStored, options());
    let ask = |name: &str| Request {
        prompt: prompt(1, 140),
        max_tokens: 8,
        adapter: Some(name.to_owned()),
        ..Request::default()
    };
    let expected = NAMES.map(|name| alone(new(), &[ask(name)])[0].ids());
    let mut scheduler = Scheduler::new(new());
    let reader = scheduler.engine().adapter_reader();
    let cached = |scheduler: &Scheduler| scheduler.statistics().pages_cached;
    assert_eq!(scheduler.generate_batch(&[ask("red")]).unwrap()[0].ids(), expected[0]);
    assert_eq!(cached(&scheduler), 3);

    // One under way goes on to its end, and what it leaves is not kept.
    let ticket = scheduler.submit(ask("red")).unwrap();
    let mut found = Vec::new();
    let mut step = |scheduler: &mut Scheduler| {
        scheduler.step(&mut |of, event| {
            assert_eq!(of, ticket);
            if let Event::Token(token) = event {
                found.push(token.id);
            }
            ControlFlow::Continue(())
        });
    };
    step(&mut scheduler);
    scheduler.remove_adapter("red").unwrap();
    let message = scheduler.submit(ask("red")).unwrap_err().to_string();
    assert!(message.contains("no adapter named `red`; there are: green, blue"), "{message}");
    while !scheduler.is_idle() {
        step(&mut scheduler);
    }
    assert_eq!((found, cached(&scheduler)), (expected[0].clone(), 0));
    assert_eq!(scheduler.statistics().pages_used, 0);

    // Others under the same name have nothing of theirs.
    scheduler.insert_adapter(reader.read("red", &folder.path().join("blue")).unwrap()).unwrap();
    assert_eq!(scheduler.generate_batch(&[ask("red")]).unwrap()[0].ids(), expected[2]);
    assert_eq!(scheduler.generate_batch(&[ask("green")]).unwrap()[0].ids(), expected[1]);
    assert!(matches!(scheduler.remove_adapter("yellow"), Err(Error::UnknownAdapter { .. })));
    let again = reader.read("red", &folder.path().join("red")).unwrap();
    assert!(matches!(scheduler.insert_adapter(again), Err(Error::AdapterExists { .. })));

    // Of a model of another shape.
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let other = Parameters::init(&device, Config { intermediate_size: 64, ..config() }, 1);
    let mut other = Engine::new(other, device, Options::default()).unwrap();
    let message = other.adapter_reader().read("red", &folder.path().join("red")).map(|_| ()).unwrap_err();
    assert!(message.to_string().contains("gate_proj"), "{message}");
    let misplaced = reader.read("red", &folder.path().join("red")).unwrap();
    assert!(matches!(other.insert_adapter(misplaced), Err(Error::AdapterOfOther { .. })));
}

#[test]
fn memory_comes_back_with_the_last_that_has_it() {
    let folder = write(&Device::cpu(1, Isa::detect()).unwrap());
    let engine = engine(folder.path(), 1, Isa::detect(), WeightType::AsStored, Options::default());
    let device = engine.device().clone();
    let reader = engine.adapter_reader();
    let before = device.allocated_bytes();
    for round in 0..5 {
        let adapter = reader.read("again", &folder.path().join("red")).unwrap();
        assert!(adapter.bytes() > 0 && adapter.options().rank == 3, "round {round}");
        assert_eq!(device.allocated_bytes(), before, "round {round}");
    }
}

#[test]
fn adapters_for_which_there_is_no_memory_are_refused_before_they_are_read() {
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let folder = write(&device);
    let engine = engine(folder.path(), 1, Isa::detect(), WeightType::F32, Options::default());
    // A file with a hole of terabytes, as large as no memory is.
    let file = folder.path().join("red/adapter_model.safetensors");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1 << 42).unwrap();
    let error = engine.adapter_reader().read("red", &folder.path().join("red")).err().unwrap();
    assert!(matches!(&error, Error::AdapterTooLarge { name, .. } if name == "red"), "{error}");
    assert!(error.to_string().contains("17.6 TB"), "{error}");
}
