//! What no data sheet tells: the shares of peaks that real programs reach, fitted to published runs.
//!
//! The values are in `data/calibration.toml`, with what each was fitted to; [`crate::published::fit`] finds them again. They
//! must not be fitted to a run that is held out.

use crate::catalog::Chip;
use serde::Deserialize;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("../data/calibration.toml");

/// Shares of limits.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Share of the peak that large matrix products reach, by class of chip; a class without takes the mean.
    pub products: BTreeMap<String, f64>,
    /// Speed of fused attention beside that of large products.
    pub attention: f64,
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
            None => (self.products.values().sum::<f64>() / self.products.len().max(1) as f64, false),
        }
    }
}
