//! Packed documents for the decoder's tests.
#![allow(dead_code, clippy::unwrap_used)]

use model::{Decoder, Pass, Rows};
use std::ops::Range;
use tensor::{Batch, Device, Targets};

/// Documents one after the other, each token predicting the next of its document.
pub struct Packed {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub documents: Vec<Range<usize>>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Packed {
    pub fn new(documents: &[Vec<u32>]) -> Packed {
        let mut packed =
            Packed { ids: vec![], positions: vec![], documents: vec![], targets: vec![], weights: vec![] };
        for document in documents {
            let start = packed.ids.len();
            packed.documents.push(start..start + document.len());
            packed.ids.extend(document);
            packed.positions.extend(0..document.len() as u32);
            packed.targets.extend(document.iter().skip(1).chain([&0]));
            packed.weights.extend((1..document.len()).map(|_| 1.0).chain([0.0]));
        }
        packed
    }

    pub fn batch(&self) -> Batch<'_> {
        Batch { positions: &self.positions, documents: &self.documents }
    }

    pub fn rows(&self, scale: f32) -> Rows<'_> {
        let targets = Targets { ids: &self.targets, weights: &self.weights, scale };
        Rows { ids: &self.ids, batch: self.batch(), targets }
    }

    pub fn predicted(&self) -> f32 {
        self.weights.iter().sum()
    }
}

/// Mean loss and gradients of a list of micro-batches.
pub fn loss_and_gradients(
    device: &Device,
    decoder: &Decoder,
    weights: &[f32],
    batches: &[Packed],
    checkpoints: bool,
) -> (f64, Vec<f32>) {
    let mut pass = Pass::new(device, decoder, 256);
    if checkpoints {
        pass = pass.with_checkpoints();
    }
    pass.gradients_are_zero();
    let mut gradients = vec![0.0; decoder.layout().gradient_len()];
    let predicted: f32 = batches.iter().map(Packed::predicted).sum();
    let losses = batches
        .iter()
        .map(|packed| pass.train(decoder, (weights, &mut gradients), packed.rows(1.0 / predicted), None));
    let loss = losses.sum::<f64>() / f64::from(predicted);
    decoder.layout().finish_gradients(device, &mut gradients);
    gradients.truncate(decoder.layout().len());
    (loss, gradients)
}
