//! What no data sheet tells: the shares of peaks that real programs reach, fitted to published runs.
//!
//! The values are in `data/calibration.toml`, with what each was fitted to; [`crate::published::fit`] finds them again. They
//! must not be fitted to a run that is held out.

use crate::catalog::Chip;
use crate::step::Attention;
use serde::Deserialize;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("../data/calibration.toml");

/// Shares of limits.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Share of the peak that large matrix products reach, by class of chip; a class without takes the mean.
    pub products: BTreeMap<String, f64>,
    /// Share of the peak that fused attention reaches, forward and backward together, by class of chip; a class without
    /// takes the mean.
    pub attention: BTreeMap<String, f64>,
    /// Speed of attention that uses a chip's asynchronous units beside that which does not.
    pub asynchronous: f64,
    /// Speed of batched products whose inner size is a head's width beside that of large ones.
    pub batched: f64,
    /// Share of the memory's bandwidth that streaming kernels reach.
    pub memory: f64,
    /// Share of the links' bandwidth inside a node that collectives reach.
    pub link: f64,
    /// Share of the network's bandwidth that collectives reach.
    pub network: f64,
    /// Share of a communication that an overlapping program hides, where there is computation enough.
    pub hidden: f64,
    /// Seconds of each hop of a ring inside a node.
    pub link_hop_seconds: f64,
    /// Seconds of each hop of a ring between nodes.
    pub network_hop_seconds: f64,
    /// Share of a step that waiting for the slowest adds at every doubling of nodes.
    pub jitter: f64,
    /// Speed of computation under DeepSpeed's pipeline engine beside Megatron's.
    pub deepspeed: f64,
    /// Speed of FP8 products beside twice that of 16-bit ones: scaling factors and casts.
    pub fp8: f64,
}

impl Calibration {
    /// The calibration that ships.
    pub fn shipped() -> Calibration {
        toml::from_str(SHIPPED).expect("the shipped calibration is tested")
    }

    /// The share of the peak that large products reach on `chip`, and whether its class has one of its own.
    pub fn products_of(&self, chip: &Chip) -> (f64, bool) {
        match self.products.get(&chip.class) {
            Some(share) => (*share, true),
            None => (mean(&self.products), false),
        }
    }

    /// The share of the peak that fused attention of this kind reaches on `chip`. Only Hopper and Blackwell have
    /// asynchronous units.
    pub fn attention_of(&self, chip: &Chip, attention: Attention) -> f64 {
        let share = self.attention.get(&chip.class).copied().unwrap_or_else(|| mean(&self.attention));
        let has_units = ["hopper", "blackwell"].contains(&chip.class.as_str());
        share * if has_units && attention == Attention::Asynchronous { self.asynchronous } else { 1.0 }
    }
}

fn mean(shares: &BTreeMap<String, f64>) -> f64 {
    shares.values().sum::<f64>() / shares.len().max(1) as f64
}
