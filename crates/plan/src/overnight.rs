//! What this machine can train in some hours: with this program on its processor (a ladder of models, the tokens that each
//! sees, and its memory), and with others on its graphics processors. It must not measure: speeds are given.

use crate::architecture::Architecture;
use crate::calibration::Calibration;
use crate::catalog::{Chip, Figure, Precision};
use crate::memory::{Optimiser, TrainingShape, training, training_flops};
use crate::train::{PlanError, Request, plan};
use model::{Config, Decoder};
use std::collections::BTreeMap;

/// Tokens a parameter below which more parameters do not help (Hoffmann et al. 2022, arXiv:2203.15556, find about 20).
pub const TOKENS_PER_PARAMETER: f64 = 20.0;
/// Tokens of a sequence and sequences of a micro-batch.
const CONTEXT: usize = 512;
const SEQUENCES: usize = 8;
/// Width, layers and vocabulary of the ladder's models; heads of 64.
const LADDER: [(usize, usize, usize); 12] = [
    (64, 4, 4_096),
    (128, 4, 4_096),
    (192, 6, 8_192),
    (256, 6, 8_192),
    (384, 8, 16_000),
    (512, 8, 32_000),
    (768, 12, 32_000),
    (1024, 16, 32_000),
    (1280, 20, 32_000),
    (1536, 24, 32_000),
    (2048, 24, 32_000),
    (2560, 32, 32_000),
];

/// A model of the ladder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// Width of the residual stream.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Parameters.
    pub parameters: f64,
    /// Tokens that it sees in the time.
    pub tokens: f64,
    /// Memory of training it, in bytes, with activation checkpointing.
    pub memory_bytes: u64,
    /// Whether that fits.
    pub fits: bool,
}

impl Rung {
    /// Tokens that a parameter sees.
    pub fn tokens_per_parameter(&self) -> f64 {
        self.tokens / self.parameters
    }
}

/// Every model of the ladder on a machine that does `flops` operations a second in training steps, in `seconds`, with
/// `available_bytes` of memory and `threads`.
pub fn ladder(flops: f64, seconds: f64, available_bytes: u64, threads: usize) -> Vec<Rung> {
    let rung = |(width, layers, vocabulary): (usize, usize, usize)| {
        let config = Config::llama(vocabulary, width, layers, width / 64);
        let shape = TrainingShape {
            micro_batch_sequences: SEQUENCES,
            micro_batches: 1,
            context: CONTEXT,
            optimiser: Optimiser::AdamW,
            activation_checkpointing: true,
            threads,
            data_bytes: 0,
        };
        let memory_bytes = training(&config, &shape).total_bytes();
        let parameters = config.parameter_count() as f64;
        let lengths = [CONTEXT; SEQUENCES];
        let each = training_flops(&Decoder::new(config), lengths) / (CONTEXT * SEQUENCES) as f64;
        let tokens = flops * seconds / each;
        Rung { width, layers, parameters, tokens, memory_bytes, fits: memory_bytes <= available_bytes }
    };
    LADDER.into_iter().map(rung).collect()
}

/// The largest that fits and sees [`TOKENS_PER_PARAMETER`].
pub fn best(ladder: &[Rung]) -> Option<&Rung> {
    ladder.iter().rev().find(|rung| rung.fits && rung.tokens_per_parameter() >= TOKENS_PER_PARAMETER)
}

/// Parameters of the models that chips are tried with.
const SIZES: [f64; 16] =
    [3e7, 6e7, 1.2e8, 2.5e8, 5e8, 7.5e8, 1e9, 1.5e9, 2e9, 3e9, 5e9, 7e9, 1.3e10, 3e10, 7e10, 1.75e11];

/// A model that chips can train in the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Night {
    /// Parameters.
    pub parameters: f64,
    /// Tokens that it sees.
    pub tokens: f64,
    /// Share of the peak.
    pub mfu: f64,
    /// Bytes of the fullest chip.
    pub memory_bytes_per_chip: f64,
}

/// What was measured of a graphics processor.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: f64,
    /// Bytes that a copy inside its memory reads and writes in a second.
    pub bytes_per_second: f64,
    /// Operations a second of large products, and their type, where those were measured.
    pub products: Option<(Precision, f64)>,
}

impl Measured {
    /// The catalogue's chip where it has one, held to what was measured: a peak of which not even the share is reached that
    /// training reaches on such chips is lowered until that share is what was measured. A chip of which the catalogue knows
    /// nothing takes what was measured for its peaks, which errs to the slow side; nothing is known of its links. None where
    /// neither tells how fast products are.
    pub fn chip(&self, catalogued: Option<&Chip>, calibration: &Calibration) -> Option<Chip> {
        let measured = |value: f64| Figure::Known { value, source: "measured".to_owned(), is_reached: true };
        let unknown = || Figure::Unpublished("it is not measured".to_owned());
        let memory = measured(self.memory_bytes / 1e9);
        let Some(chip) = catalogued else {
            let (precision, flops) = self.products?;
            return Some(Chip {
                name: self.name.clone(),
                title: self.name.clone(),
                also: Vec::new(),
                class: "measured".to_owned(),
                node: 1,
                is_torus: false,
                peak: BTreeMap::from([(precision, measured(flops / 1e12))]),
                memory,
                bandwidth: measured(self.bytes_per_second / 1e9),
                link: unknown(),
                network: unknown(),
                power: unknown(),
                price: unknown(),
            });
        };
        let share = calibration.products_of(chip).0;
        let held = self.products.and_then(|(precision, flops)| {
            let published = chip.peak(precision).ok()?;
            Some((flops / share / published).min(1.0))
        });
        let lower = |figure: &Figure| match (figure, held) {
            (Figure::Known { value, .. }, Some(held)) if held < 1.0 => measured(value * held),
            _ => figure.clone(),
        };
        let peak = chip.peak.iter().map(|(precision, figure)| (*precision, lower(figure))).collect();
        Some(Chip { memory, peak, ..chip.clone() })
    }
}

/// The largest of some usual sizes that fits `chips` of `chip` and sees [`TOKENS_PER_PARAMETER`] in `seconds` at the speed
/// that the planner predicts from the chip's figures; none where even the smallest does not.
///
/// # Errors
/// [`PlanError`] where a figure that planning needs is not published, or the smallest model does not fit.
pub fn on_chips(
    chip: &Chip,
    chips: f64,
    seconds: f64,
    calibration: &Calibration,
) -> Result<Option<Night>, PlanError> {
    let mut best = None;
    for parameters in SIZES {
        let request = Request {
            model: Some(Architecture::of_size(parameters)?),
            chips: Some(chips),
            deadline: Some(seconds),
            ..Request::new(chip.clone())
        };
        let plan = match (plan(&request, calibration), best) {
            (Ok(plan), _) => plan,
            // A larger model that does not fit leaves the one before.
            (Err(_), Some(_)) => break,
            (Err(error), None) => return Err(error),
        };
        if plan.tokens < TOKENS_PER_PARAMETER * parameters {
            break;
        }
        best = Some(Night {
            parameters,
            tokens: plan.tokens,
            mfu: plan.mfu(),
            memory_bytes_per_chip: plan.found.footprint.bytes(),
        });
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn more_chips_or_faster_ones_train_more() {
        let catalog = crate::catalog::Catalog::shipped();
        let calibration = Calibration::shipped();
        let of = |chip: &str, chips: f64, hours: f64| {
            let chip = catalog.chip(chip).unwrap();
            on_chips(chip, chips, hours * 3600.0, &calibration).unwrap()
        };
        let one = of("a100", 1.0, 8.0).unwrap();
        // 8 hours of A100 at half of its peak are 4.5e18 operations; 6 · 20 · N² of them are N = 1.9e8.
        assert!((1.2e8..5e8).contains(&one.parameters) && one.tokens >= 20.0 * one.parameters, "{one:?}");
        assert!((0.2..0.8).contains(&one.mfu) && one.memory_bytes_per_chip < 80e9, "{one:?}");
        assert!(of("a100", 8.0, 8.0).unwrap().parameters > one.parameters);
        assert!(of("h100", 1.0, 8.0).unwrap().parameters > one.parameters);
        assert_eq!(of("a100", 1.0, 0.01), None);
        let phone = catalog.chip("tensor-g3").unwrap();
        let message = on_chips(phone, 1.0, 28_800.0, &calibration).unwrap_err().to_string();
        assert!(message.contains("tensor-g3"), "{message}");
    }

    #[test]
    fn a_measured_chip_is_no_faster_than_it_was_measured() {
        let calibration = Calibration::shipped();
        let catalog = crate::catalog::Catalog::shipped();
        let a100 = catalog.chip("a100").unwrap();
        let of = |tflops: f64, gigabytes: f64| Measured {
            name: "NVIDIA A100-SXM4-80GB".to_owned(),
            memory_bytes: 80e9,
            bytes_per_second: gigabytes * 1e9,
            products: Some((Precision::Bf16, tflops * 1e12)),
        };
        // Faster than training is taken to be: the data sheet stands.
        let usual = of(255.0, 1400.0).chip(Some(a100), &calibration).unwrap();
        assert_eq!((&usual.peak, &usual.bandwidth), (&a100.peak, &a100.bandwidth));
        // Half as fast: the usual share of the lowered peak is what was measured.
        let slow = of(120.0, 1400.0).chip(Some(a100), &calibration).unwrap();
        let share = calibration.products_of(a100).0;
        assert!((slow.peak(Precision::Bf16).unwrap() * share / 120e12 - 1.0).abs() < 1e-9);
        // One that the catalogue lacks is planned with as it was measured, if its products were.
        let unknown = of(120.0, 800.0).chip(None, &calibration).unwrap();
        assert_eq!((unknown.peak(Precision::Bf16), unknown.bytes_per_second()), (Ok(120e12), Ok(800e9)));
        assert_eq!(Measured { products: None, ..of(0.0, 800.0) }.chip(None, &calibration), None);
        let work = |chip: &Chip| {
            let night = on_chips(chip, 1.0, 28_800.0, &calibration).unwrap().unwrap();
            night.parameters * night.tokens
        };
        assert!(work(&slow) < 0.7 * work(a100) && work(&unknown) < work(&slow));
    }

    #[test]
    fn more_time_or_speed_trains_more_and_memory_limits_it() {
        let of = |flops, hours, memory| ladder(flops, hours * 3600.0, memory, 2);
        let night = of(4e11, 8.0, 24 << 30);
        let chosen = *best(&night).unwrap();
        assert!(chosen.tokens_per_parameter() >= TOKENS_PER_PARAMETER, "{chosen:?}");
        assert!(best(&of(4e11, 80.0, 24 << 30)).unwrap().parameters > chosen.parameters);
        assert!(best(&of(4e12, 8.0, 24 << 30)).unwrap().parameters > chosen.parameters);
        assert!(best(&of(4e12, 8.0, 1 << 30)).unwrap().memory_bytes <= 1 << 30);
        assert_eq!(best(&of(4e11, 8.0, 1 << 20)), None);
        for pair in night.windows(2) {
            assert!(pair[1].parameters > pair[0].parameters && pair[1].tokens < pair[0].tokens);
        }
    }
}
