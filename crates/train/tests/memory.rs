//! The memory estimate beside the memory that a training process really takes. Alone in its file, since the
//! peak is the whole process's.
#![allow(clippy::unwrap_used)]

use model::{AdapterOptions, Adapters, Config, Parameters};
use tensor::{Device, Isa};
use train::{MemorySamples, Sequence, TrainOptions, Trainer};

/// The estimate may be off by this share of what is measured.
const MARGIN: f64 = 0.25;

#[test]
fn the_estimate_is_near_the_measured_peak() {
    let Some(before) = base::machine::peak_rss_bytes() else { return };
    assert!(before < 64 << 20, "nothing large was allocated before: {before} bytes");
    let (batch, context, threads) = (8, 256, 2);
    let mut config = Config::llama(8_192, 256, 6, 4);
    config.intermediate_size = 688;
    let mut options = TrainOptions::new(2, batch, context);
    // The smaller need is measured first, since the peak never falls.
    for (with_adapters, activation_checkpointing) in [(true, true), (false, true), (false, false)] {
        options.activation_checkpointing = activation_checkpointing;
        let device = Device::cpu(threads, Isa::detect()).unwrap();
        let ids: Vec<u32> = (0..context as u32).map(|index| index * 31 % 8_192).collect();
        let sequence = Sequence { mask: vec![1; context], ids, lengths: vec![context] };
        let samples = MemorySamples::new(vec![sequence], context).unwrap();
        let parameters = Parameters::init(&device, config.clone(), 0);
        let adapter_options = AdapterOptions::default();
        let (mut trainer, estimate) = if with_adapters {
            let adapters = Adapters::init(&device, &parameters.decoder, &adapter_options, 0).unwrap();
            let trainer = Trainer::over_frozen(&device, parameters, adapters, &options).unwrap();
            (trainer, train::adapter_memory_estimate(&config, &adapter_options, &options, threads))
        } else {
            let trainer = Trainer::new(&device, parameters, &options).unwrap();
            (trainer, train::memory_estimate(&config, &options, threads))
        };
        for step in 0..2 {
            trainer.step(&samples, step).unwrap();
        }
        let measured = base::machine::peak_rss_bytes().unwrap() as f64;
        let ratio = estimate.total_bytes() as f64 / measured;
        assert!(
            (1.0 - MARGIN..=1.0 + MARGIN).contains(&ratio),
            "adapters {with_adapters}, checkpointing {activation_checkpointing}: estimated {ratio:.2} of the measured {measured} bytes:\n{estimate}"
        );
        println!(
            "adapters {with_adapters}, checkpointing {activation_checkpointing}: {ratio:.2} of {measured}"
        );
    }
}
