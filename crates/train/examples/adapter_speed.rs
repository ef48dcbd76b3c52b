//! The speed and memory of training a model folder, all weights of it or adapters over it, on random tokens.
//!
//! Usage: `cargo run --release -p train --example adapter_speed -- MODEL RANK [OUT]`; rank 0 trains all weights, and the
//! adapters are written to the PEFT folder OUT.

use model::{AdapterOptions, Adapters, Parameters};
use std::path::Path;
use std::time::Instant;
use tensor::{Device, Isa};
use train::{MemorySamples, Sequence, StepOutcome, TrainOptions, Trainer};

const STEPS: usize = 6;
const SEQUENCES: usize = 2;
const CONTEXT: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, rank, out @ ..] = arguments.as_slice() else {
        return Err("give a model folder and a rank".into());
    };
    let device = Device::cpu(base::machine::cores(), Isa::from_environment()?)?;
    let parameters = Parameters::load(&device, Path::new(model))?;
    let samples = samples(parameters.decoder.config().vocab_size as u64)?;
    let options = TrainOptions::new(STEPS, SEQUENCES, CONTEXT);
    let mut trainer = match rank.parse()? {
        0 => Trainer::new(&device, parameters, &options)?,
        rank => {
            let adapter_options = AdapterOptions { rank, ..AdapterOptions::default() };
            let adapters = Adapters::init(&device, &parameters.decoder, &adapter_options, 0)?;
            Trainer::over_frozen(&device, parameters, adapters, &options)?
        }
    };
    let mut seconds = Vec::new();
    for step in 0..STEPS {
        let started = Instant::now();
        let outcome = trainer.step(&samples, step)?;
        seconds.push(started.elapsed().as_secs_f64());
        print_step(step, &outcome, seconds[step]);
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    println!(
        "{} trained parameters: median {:.0} tokens/s, peak memory {}",
        trainer.gradients().len(),
        (SEQUENCES * CONTEXT) as f64 / seconds[seconds.len() / 2],
        plan::memory::size(base::machine::peak_rss_bytes().unwrap_or(0))
    );
    if let (Some(out), Some(adapters)) = (out.first(), trainer.adapters()) {
        adapters.save(Path::new(out), model)?;
    }
    Ok(())
}

fn samples(vocab_size: u64) -> train::Result<MemorySamples> {
    let mut rng = base::seed::Rng::new(0, 0);
    let sequence = |_| Sequence {
        ids: (0..CONTEXT).map(|_| rng.below(vocab_size) as u32).collect(),
        mask: vec![1; CONTEXT],
        lengths: vec![CONTEXT],
    };
    MemorySamples::new((0..SEQUENCES).map(sequence).collect(), CONTEXT)
}

fn print_step(step: usize, outcome: &StepOutcome, seconds: f64) {
    println!(
        "step {step}: loss {:.4}, {:.0} tokens/s, {:.1} GFLOP/s; forward {:.0?}, head {:.0?}, backward {:.0?}, update {:.0?}",
        outcome.loss,
        (SEQUENCES * CONTEXT) as f64 / seconds,
        outcome.flops / seconds / 1e9,
        outcome.forward,
        outcome.head,
        outcome.backward,
        outcome.optimiser
    );
}
