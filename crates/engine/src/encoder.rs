//! Embeddings: ids in, one vector a document out. Runs encoders (BERT and its like) through the same operations as the
//! engine, without a cache. Knows neither text nor what vectors are for.

use std::path::Path;

use model::{Config, Decoder, ModelFile};
use serde_json::Value;
use tensor::Device;
use tensor::quant::QuantRows;

use crate::engine::Loading;
use crate::forward::{Forward, Span};
use crate::weights::{Plan, RepackCache, Weights};
use crate::{Error, Result};

/// How a document's rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean (MiniLM).
    Mean,
    /// The first, that of the token `[CLS]` (bge).
    First,
}

/// An encoder that is ready to run.
pub struct Encoder {
    device: Device,
    decoder: Decoder,
    weights: Weights,
    pooling: Pooling,
    quantized: QuantRows,
}

impl Encoder {
    /// Opens a GGUF file or a Hugging Face folder. How rows are pooled is read from what sentence-transformers writes
    /// (`1_Pooling/config.json`), or from GGUF's `pooling_type`; where neither says it, they are averaged.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no model that can be read, or it is no encoder; [`Error::Pooling`] for a way of
    /// pooling that is not supported.
    pub fn load(path: &Path, device: Device, loading: Loading) -> Result<Self> {
        let file = ModelFile::open(path)?;
        let decoder = file.decoder().clone();
        if decoder.config().causal {
            let family = decoder.config().family.model_type();
            return Err(Error::NotAnEncoder { path: path.to_owned(), family });
        }
        let pooling = pooling_of(&file, path)?;
        let plan = Plan::new(&file, loading.weights);
        let cache = RepackCache { folder: loading.repack_cache, progress: loading.progress };
        let weights = Weights::open(file, &device, &plan, &cache)?;
        Ok(Self { device, decoder, weights, pooling, quantized: QuantRows::new() })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.decoder.config()
    }

    /// Where weights and activations lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How rows are pooled.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Pools rows otherwise than the model's files say.
    pub fn set_pooling(&mut self, pooling: Pooling) {
        self.pooling = pooling;
    }

    /// Tokens that a document may have.
    pub fn context_tokens(&self) -> usize {
        self.config().max_positions
    }

    /// The vectors (width) of documents, each of length 1. A document's vector does not depend on the others.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::ContextLength`] or [`Error::UnknownId`].
    pub fn embed(&mut self, documents: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let (mut spans, mut ids, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for document in documents {
            self.check(document)?;
            spans.push(Span { row: ids.len(), rows: document.len(), first_position: 0, logit_row: 0 });
            ids.extend_from_slice(document);
            positions.extend(0..document.len() as u32);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut forward = Forward {
            device: &self.device,
            weights: &self.weights,
            cache: None,
            chunks: &[],
            spans: &spans,
            positions: &positions,
            quantized: &mut self.quantized,
        };
        let hidden = self.decoder.forward(&mut forward, &ids); // (rows, width)
        let width = self.config().hidden_size;
        let rows = |span: &Span| &hidden.data()[span.row * width..(span.row + span.rows) * width];
        Ok(spans.iter().map(|span| pooled(self.pooling, rows(span), width)).collect())
    }

    fn check(&self, document: &[u32]) -> Result<()> {
        let (prompt_tokens, context_tokens) = (document.len(), self.context_tokens());
        if prompt_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if prompt_tokens > context_tokens {
            return Err(Error::DocumentLength { tokens: prompt_tokens, context_tokens });
        }
        let vocabulary = self.config().vocab_size;
        match document.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(Error::UnknownId { id: document[position], position, vocabulary }),
            None => Ok(()),
        }
    }
}

/// One vector of length 1 of a document's rows, (rows, width) → (width).
fn pooled(pooling: Pooling, rows: &[f32], width: usize) -> Vec<f32> {
    let mut vector = rows[..width].to_vec();
    if pooling == Pooling::Mean {
        let others = rows.chunks_exact(width).skip(1);
        others.for_each(|row| vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        let count = (rows.len() / width) as f32;
        vector.iter_mut().for_each(|sum| *sum /= count);
    }
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    vector
}

fn pooling_of(file: &ModelFile, path: &Path) -> Result<Pooling> {
    let unknown = |mode: String| Error::Pooling { path: path.to_owned(), mode };
    if let Some(gguf) = file.gguf() {
        let kind: Option<u32> = gguf.find("bert.pooling_type").unwrap_or_default();
        return match kind {
            None | Some(1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(other) => Err(unknown(format!("bert.pooling_type = {other}"))),
        };
    }
    let Ok(text) = std::fs::read_to_string(path.join("1_Pooling/config.json")) else {
        return Ok(Pooling::Mean);
    };
    let value: Value = serde_json::from_str(&text).map_err(|source| unknown(source.to_string()))?;
    let flags = value.as_object().into_iter().flatten();
    let modes: Vec<&str> = flags
        .filter(|(key, value)| key.starts_with("pooling_mode") && **value != Value::Bool(false))
        .map(|(key, value)| value.as_str().unwrap_or(key))
        .collect();
    match modes.as_slice() {
        ["pooling_mode_mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token" | "cls"] => Ok(Pooling::First),
        modes => Err(unknown(modes.join(", "))),
    }
}
