//! Stages that are killed, stopped, damaged or refused, in folders copied at every moment that an event marks.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::{MemorySamples, Sequence};
use base::seed::Rng;
use std::fs;
use tensor::Isa;

const CONTEXT: usize = 24;

fn config() -> Config {
    Config::llama(41, 16, 2, 2)
}

fn samples(seed: u64, count: usize) -> MemorySamples {
    let mut rng = Rng::new(seed, 0);
    let sequence = |_| Sequence {
        ids: (0..CONTEXT).map(|_| rng.below(41) as u32).collect(),
        mask: vec![1; CONTEXT],
        lengths: vec![CONTEXT / 3, CONTEXT - CONTEXT / 3],
    };
    MemorySamples::new((0..count).map(sequence).collect(), CONTEXT).unwrap()
}

fn options() -> TrainOptions {
    let mut options = TrainOptions::new(10, 4, CONTEXT);
    options.eval_every = 4;
    options.checkpoint_every = 3;
    options.checkpoint_every_seconds = 0.0;
    options.optimiser.learning_rate = 0.01;
    options
}

/// A stage in a folder, with what the tests vary.
struct Case<'a> {
    folder: &'a Path,
    options: TrainOptions,
    threads: usize,
    isa: Isa,
    init: fn(&Device) -> Init,
    train: MemorySamples,
}

impl Case<'_> {
    fn new(folder: &Path) -> Case<'_> {
        let init = |_: &Device| Init::Random(config());
        Case { folder, options: options(), threads: 2, isa: Isa::detect(), init, train: samples(1, 9) }
    }

    fn run(&self, on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<Outcome> {
        let device = Device::cpu(self.threads, self.isa).unwrap();
        let evaluation = samples(2, 5);
        let stage = Stage {
            name: "test",
            device: &device,
            init: (self.init)(&device),
            train: &self.train,
            evaluation: Some(&evaluation),
            checkpoints: &self.folder.join("checkpoints"),
            events: &self.folder.join("events.jsonl"),
            options: &self.options,
            peak_flops: Some(1e11),
            progress: progress::Output::Silent,
        };
        run(stage, on_event)
    }

    fn finish(&self) -> Finished {
        match self.run(&mut |_| ControlFlow::Continue(())).unwrap() {
            Outcome::Finished(finished) => *finished,
            Outcome::Interrupted { step, .. } => panic!("stopped after step {step}"),
        }
    }

    fn events(&self) -> Vec<Event> {
        read_events(&self.folder.join("events.jsonl")).unwrap()
    }

    /// Steps and evaluations with what does not depend on the clock.
    fn curve(&self) -> Vec<(usize, String)> {
        let events = self.events().into_iter();
        let figures = events.filter_map(|event| match event.kind {
            Kind::Step(step) => Some((event.step, format!("{:?} {:?}", step.loss, step.gradient_norm))),
            Kind::Evaluation { loss, targets, .. } => Some((event.step, format!("{loss:?} of {targets}"))),
            _ => None,
        });
        figures.collect()
    }
}

/// What was trained, as bits.
fn weights(finished: &Finished) -> Vec<u32> {
    let flat = finished.adapters.as_ref().map_or(&finished.parameters.flat, |adapters| &adapters.flat);
    flat.data().iter().map(|weight| weight.to_bits()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn killed_anywhere_and_run_again_it_ends_in_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("whole");
    let whole = Case::new(&folder);
    let mut moments = 0;
    let outcome = whole.run(&mut |_| {
        // What a process that dies at this moment leaves behind.
        copy(whole.folder, &root.path().join(format!("killed-{moments}")));
        moments += 1;
        ControlFlow::Continue(())
    });
    let Outcome::Finished(expected) = outcome.unwrap() else { panic!("nobody asked for a stop") };
    assert!(moments > 15, "{moments} moments");
    for moment in 0..moments {
        let folder = root.path().join(format!("killed-{moment}"));
        // Resumed on another machine, so to speak, and with other memory to spare.
        let mut resumed = Case::new(&folder);
        resumed.threads = 1 + moment % 3;
        resumed.isa = [Isa::detect(), Isa::Emulated16][moment % 2];
        resumed.options.micro_batch_sequences = [1, 2, 4][moment / 2 % 3];
        resumed.options.activation_checkpointing = moment % 5 > 2;
        let finished = resumed.finish();
        assert!(weights(&finished) == weights(&expected), "moment {moment} from {:?}", finished.resumed_from);
        assert_eq!(resumed.curve(), whole.curve(), "moment {moment}");
    }
}

/// As supervised fine-tuning: from given weights, the loss on a part of the tokens.
fn fine_tuning(folder: &Path) -> Case<'_> {
    let init = |device: &Device| Init::Weights(Parameters::init(device, config(), 77));
    let mut sequences = Vec::new();
    let source = samples(4, 9);
    for index in 0..source.len() {
        let mut sequence = Sequence::default();
        source.read(index, &mut sequence);
        sequence.mask[..10].fill(0);
        sequences.push(sequence);
    }
    let mut case = Case { init, train: MemorySamples::new(sequences, CONTEXT).unwrap(), ..Case::new(folder) };
    case.options.optimiser.kind = OptimiserKind::Muon;
    case
}

fn adapted(device: &Device, base_seed: u64, rank: usize) -> Init {
    let base = Parameters::init(device, config(), base_seed);
    let options = AdapterOptions { rank, ..AdapterOptions::default() };
    let adapters = Adapters::init(device, &base.decoder, &options, 5).unwrap();
    Init::Adapters { base, adapters }
}

/// Adapters over frozen weights.
fn adapting(folder: &Path) -> Case<'_> {
    Case { init: |device| adapted(device, 77, 3), ..Case::new(folder) }
}

#[test]
fn checkpoints_of_adapters_hold_them_alone_and_belong_to_their_base() {
    let root = tempfile::tempdir().unwrap();
    let finished = adapting(root.path()).finish();
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let base = Parameters::init(&device, config(), 77);
    assert!(finished.parameters.flat.data() == base.flat.data(), "the base is as it was");
    let Init::Adapters { adapters, .. } = adapted(&device, 77, 3) else { panic!("they are adapters") };
    let checkpoint = root.path().join("checkpoints/step-00000010");
    let bytes = fs::metadata(checkpoint.join("adapters.f32")).unwrap().len();
    assert_eq!(bytes, 4 * adapters.flat.data().len() as u64);
    assert!(!checkpoint.join("weights.f32").exists());
    let others: [fn(&Device) -> Init; 3] = [
        |device| adapted(device, 78, 3),
        |device| adapted(device, 77, 4),
        |device| Init::Weights(Parameters::init(device, config(), 77)),
    ];
    for init in others {
        let case = Case { init, ..adapting(root.path()) };
        let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
        assert!(message.contains("the initial weights"), "{message}");
    }
}

#[test]
fn asked_to_stop_it_writes_a_checkpoint_and_goes_on_from_there() {
    for make in [Case::new, fine_tuning, adapting] {
        let root = tempfile::tempdir().unwrap();
        let expected = make(&root.path().join("whole")).finish();
        for stop_at in [1, 2, 5, 9] {
            let folder = root.path().join(format!("stopped-{stop_at}"));
            let case = make(&folder);
            let outcome = case.run(&mut |event| match event.step == stop_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            });
            let Outcome::Interrupted { step, steps, checkpoint } = outcome.unwrap() else {
                panic!("it went on")
            };
            assert_eq!((step, steps), (stop_at, 10));
            assert!(checkpoint.join("header.json").is_file());
            let finished = case.finish();
            assert_eq!(finished.resumed_from, Some(stop_at));
            assert!(weights(&finished) == weights(&expected), "stopped at {stop_at}");
        }
    }
}

#[test]
fn a_finished_stage_gives_its_weights_again_without_a_step() {
    let root = tempfile::tempdir().unwrap();
    let case = Case::new(root.path());
    let first = case.finish();
    let curve = case.curve();
    let again = case.finish();
    assert_eq!((again.resumed_from, case.curve()), (Some(10), curve));
    assert!(weights(&again) == weights(&first));
    assert_eq!(again.summary, first.summary);
    assert_eq!(first.summary.steps, 10);
    assert!(first.summary.share_of_peak.is_some() && first.summary.evaluation_loss.is_some());
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_and_told() {
    let root = tempfile::tempdir().unwrap();
    let case = Case::new(root.path());
    let expected = case.finish();
    let newest = root.path().join("checkpoints/step-00000010");
    let mut bytes = fs::read(newest.join("weights.f32")).unwrap();
    bytes[17] ^= 4;
    fs::write(newest.join("weights.f32"), bytes).unwrap();
    let finished = case.finish();
    assert_eq!(finished.resumed_from, Some(9));
    assert!(weights(&finished) == weights(&expected));
    let notices: Vec<String> = case
        .events()
        .into_iter()
        .filter_map(|event| match event.kind {
            Kind::Notice { message } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("step-00000010 is damaged") && notices[0].contains("went back to step 9"));
}

#[test]
fn all_checkpoints_damaged_it_refuses_and_keeps_them() {
    let root = tempfile::tempdir().unwrap();
    let case = Case::new(root.path());
    case.finish();
    let folders: Vec<PathBuf> =
        ["00000009", "00000010"].map(|step| root.path().join(format!("checkpoints/step-{step}"))).into();
    for folder in &folders {
        fs::write(folder.join("header.json"), "{}").unwrap();
    }
    let before = case.events();
    let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
    assert!(
        message.contains("all 2 checkpoints") && message.contains("nothing was overwritten"),
        "{message}"
    );
    assert!(folders.iter().all(|folder| folder.join("weights.f32").is_file()));
    assert_eq!(case.events(), before);
}

#[test]
fn another_run_in_the_same_folder_is_refused_by_what_differs() {
    let root = tempfile::tempdir().unwrap();
    Case::new(root.path()).finish();
    let case = || Case::new(root.path());
    let with = |change: fn(&mut TrainOptions)| {
        let mut case = Case::new(root.path());
        change(&mut case.options);
        case
    };
    let wider: fn(&Device) -> Init = |_| {
        let mut config = config();
        config.rope.theta = 5e5;
        Init::Random(config)
    };
    let given: fn(&Device) -> Init = |device| Init::Weights(Parameters::init(device, config(), 3));
    let cases = [
        (with(|options| options.steps = 11), "the training options"),
        (with(|options| options.optimiser.learning_rate = 0.02), "the training options"),
        (with(|options| options.seed = 2), "the training options"),
        (Case { train: samples(7, 9), ..case() }, "the training data"),
        (Case { init: wider, ..case() }, "the model's configuration"),
        (Case { init: given, ..case() }, "the initial weights"),
    ];
    for (case, difference) in cases {
        let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
        assert!(message.contains(difference), "{difference}: {message}");
    }
    let harmless = with(|options| {
        options.micro_batch_sequences = 2;
        options.checkpoint_every = 1;
        options.keep_checkpoints = 5;
        options.activation_checkpointing = true;
    });
    assert_eq!(harmless.finish().resumed_from, Some(10));
}

#[test]
fn a_loss_gone_bad_stops_it_and_keeps_the_last_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let mut case = Case::new(root.path());
    // From the third step on the learning rate is beyond f32.
    case.options.optimiser.learning_rate = 1e38;
    case.options.optimiser.weight_decay = 0.0;
    case.options.schedule.warmup_steps = 0;
    case.options.checkpoint_every = 1;
    let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
    assert!(message.contains("not a finite number; first affected: "), "{message}");
    assert!(message.contains("step-0000000") && message.contains("is untouched"), "{message}");
    let steps: Vec<usize> = case.events().iter().map(|event| event.step).collect();
    let newest = steps.iter().max().unwrap();
    assert!(root.path().join(format!("checkpoints/step-{newest:08}/header.json")).is_file());
}

#[test]
fn data_that_do_not_fit_are_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let empty = MemorySamples::new(Vec::new(), CONTEXT).unwrap();
    let short = MemorySamples::new(Vec::new(), CONTEXT - 1).unwrap();
    let alien = Sequence { ids: vec![41], mask: vec![1], lengths: vec![1] };
    let alien = MemorySamples::new(vec![alien], CONTEXT).unwrap();
    let cases = [(empty, "no training sequences"), (short, "no training sequences"), (alien, "id 41")];
    for (train, expected) in cases {
        let case = Case { train, ..Case::new(root.path()) };
        let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!root.path().join("checkpoints/step-00000001").exists());
    }
}

#[test]
fn stages_share_a_journal_and_forget_only_their_own_events() {
    let root = tempfile::tempdir().unwrap();
    let events = root.path().join("events.jsonl");
    let mut journal = Journal::open(&events, SyncPolicy::Never).unwrap().journal;
    let foreign = Event { stage: "before".into(), step: 99, kind: Kind::Notice { message: "kept".into() } };
    journal.append(&foreign).unwrap();
    journal.append(&serde_json::json!({"event": "corpus", "documents": 3})).unwrap();
    drop(journal);
    let case = Case::new(root.path());
    case.finish();
    fs::remove_dir_all(root.path().join("checkpoints")).unwrap();
    let curve = case.curve();
    case.finish();
    assert_eq!(case.curve(), curve, "a run from the start replaces its events");
    assert_eq!(case.events()[0], foreign);
}

/// Evaluations that get worse after some steps: the training data are few and random.
fn overfitting(folder: &Path) -> Case<'_> {
    let mut case = Case { train: samples(1, 2), ..Case::new(folder) };
    (case.options.steps, case.options.eval_every) = (30, 2);
    (case.options.patience, case.options.keep_best) = (3, true);
    case.options.optimiser.learning_rate = 0.03;
    case
}

#[test]
fn it_stops_early_and_returns_the_best_weights_wherever_it_was_killed() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("whole");
    let whole = overfitting(&folder);
    let mut moments = 0;
    let outcome = whole.run(&mut |_| {
        copy(whole.folder, &root.path().join(format!("killed-{moments}")));
        moments += 1;
        ControlFlow::Continue(())
    });
    let Outcome::Finished(expected) = outcome.unwrap() else { panic!("nobody asked for a stop") };
    let (best, loss) = expected.summary.best_evaluation.unwrap();
    assert_eq!(expected.summary.steps, best + 3 * 2, "three evaluations after the best one");
    assert!(expected.summary.steps < 30);
    // The weights are those that a run of that many steps at the same rates has: those of its last evaluation.
    let losses: Vec<f64> = whole
        .events()
        .iter()
        .filter_map(|event| match event.kind {
            Kind::Evaluation { loss, .. } => Some(loss),
            _ => None,
        })
        .collect();
    assert_eq!(losses.iter().copied().fold(f64::INFINITY, f64::min), loss);
    let device = Device::cpu(2, Isa::detect()).unwrap();
    let parameters =
        Parameters { decoder: model::Decoder::new(config()), flat: expected.parameters.flat.clone() };
    let mut trainer = Trainer::new(&device, parameters, &whole.options).unwrap();
    assert_eq!(trainer.evaluate(&samples(2, 5), 5).unwrap().0, loss);
    for moment in 0..moments {
        let folder = root.path().join(format!("killed-{moment}"));
        let resumed = overfitting(&folder);
        let finished = resumed.finish();
        assert!(weights(&finished) == weights(&expected), "moment {moment} from {:?}", finished.resumed_from);
        assert_eq!(resumed.curve(), whole.curve(), "moment {moment}");
    }
    let again = whole.finish();
    assert!(weights(&again) == weights(&expected));
    let notices = whole.events().into_iter().filter(|event| matches!(event.kind, Kind::Notice { .. }));
    assert_eq!(notices.count(), 2, "why it ended, and whose weights they are; once each");
}

#[test]
fn the_best_weights_gone_or_nothing_to_evaluate_on_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let case = overfitting(root.path());
    let (best, _) = case.finish().summary.best_evaluation.unwrap();
    let path = root.path().join(format!("checkpoints/best-{best:08}/trained.f32"));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let message = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap().to_string();
    assert!(message.contains(&format!("best-{best:08}")), "{message}");
}

fn exploding(folder: &Path) -> Case<'_> {
    let mut case = Case::new(folder);
    case.options.optimiser.learning_rate = 3.0;
    case.options.schedule.warmup_steps = 0;
    (case.options.steps, case.options.explosion_steps) = (40, 4);
    case.options.checkpoint_every = 1;
    case
}

#[test]
fn an_exploding_loss_stops_it_at_the_same_step_wherever_it_was_stopped_before() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("whole");
    let whole = exploding(&folder);
    let expected = whole.run(&mut |_| ControlFlow::Continue(())).err().unwrap();
    let Error::Exploded { step, steps, ref tensor, ref kept, .. } = expected else { panic!("{expected}") };
    assert!(steps == 4 && step < 40 && tensor.contains("model."), "{expected}");
    let good = step - steps;
    assert!(kept.contains(&format!("step-{good:08} is untouched")), "{expected}");
    assert!(folder.join(format!("checkpoints/step-{good:08}/header.json")).is_file());
    for stop_at in [1, good, step - 2, step - 1] {
        let folder = root.path().join(format!("stopped-{stop_at}"));
        let case = exploding(&folder);
        let outcome = case.run(&mut |event| match event.step == stop_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        assert!(matches!(outcome, Ok(Outcome::Interrupted { .. })), "stopped at {stop_at}");
        let error = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap();
        let Error::Exploded { step: again, .. } = error else { panic!("{error}") };
        assert_eq!(again, step, "stopped at {stop_at}");
    }
}

#[test]
fn a_model_beyond_the_memory_is_refused_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    // 41 TB of weights.
    let init: fn(&Device) -> Init = |_| Init::Random(Config::llama(41, 1 << 16, 200, 512));
    let case = Case { init, ..Case::new(root.path()) };
    let error = case.run(&mut |_| ControlFlow::Continue(())).err().unwrap();
    assert!(matches!(error, Error::Memory(_)), "{error}");
    let message = error.to_string();
    assert!(message.contains("TB") || message.contains("TiB"), "{message}");
    assert!(!root.path().join("checkpoints").exists() && !root.path().join("events.jsonl").exists());
}
