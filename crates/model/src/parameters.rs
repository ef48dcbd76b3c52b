//! A decoder's weights: one flat buffer, initialised from a seed or read from a model's files.
//!
//! It must not know what the weights compute.

use crate::layout::{Entry, Role};
use crate::{Config, Decoder, Error, ModelFile, weights_file};
use base::seed::Rng;
use std::path::Path;
use tensor::{Device, Tensor};

/// A decoder with its weights.
pub struct Parameters {
    /// The structure.
    pub decoder: Decoder,
    /// All weights, in the order of the layout.
    pub flat: Tensor,
}

impl Parameters {
    /// Random weights: gains 1, biases 0, matrices normal with standard deviation 0.02, those added to
    /// the residual stream divided by √(2 · layers) (GPT-2, section 2.3).
    ///
    /// Each parameter has its own stream of random numbers, so its values depend on the seed, its
    /// position in the layout and its size alone.
    pub fn init(device: &Device, config: Config, seed: u64) -> Parameters {
        let decoder = Decoder::new(config);
        let mut flat = device.zeros(decoder.layout().len());
        let residual = 0.02 / (2.0 * decoder.config().layers as f32).sqrt();
        for (stream, entry) in decoder.layout().entries().iter().enumerate() {
            let elements = entry.weight.of_mut(flat.data_mut());
            match entry.role {
                Role::Gain => elements.fill(1.0),
                Role::Bias => elements.fill(0.0),
                Role::Residual => fill_normal(elements, residual, seed, stream),
                _ => fill_normal(elements, 0.02, seed, stream),
            }
        }
        Parameters { decoder, flat }
    }

    /// Reads all weights of a GGUF file or a Hugging Face folder as f32.
    ///
    /// # Errors
    /// As [`ModelFile::open`].
    pub fn load(device: &Device, path: &Path) -> Result<Parameters, Error> {
        let file = ModelFile::open(path)?;
        let mut flat = device.empty(file.decoder().layout().len());
        file.read_f32(device.exec(), flat.data_mut());
        Ok(Parameters { decoder: file.decoder().clone(), flat })
    }

    /// Writes `config.json` and `model.safetensors` (f32), each whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        weights_file::write(
            &folder.join("model.safetensors"),
            self.decoder.layout().entries(),
            self.flat.data(),
        )?;
        let mut text = format!("{:#}", self.decoder.config().to_json());
        text.push('\n');
        base::fs::write_atomic(&folder.join("config.json"), |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?;
        Ok(())
    }

    /// The elements of a named parameter.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.decoder.layout().find(name).map(|entry: &Entry| entry.weight.of(self.flat.data()))
    }
}

fn fill_normal(elements: &mut [f32], deviation: f32, seed: u64, stream: usize) {
    let mut rng = Rng::new(seed, stream as u64);
    for element in elements {
        *element = deviation * rng.normal();
    }
}
