//! Low-rank adapters over a decoder's matrices (LoRA: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language
//! Models"): their options, their own flat buffer, and merging them into the weights.
//!
//! An adapter of a matrix W (outputs, inputs) is A (rank, inputs) and B (outputs, rank); the layer then computes with
//! W + scale · B·A. It must not know how adapters are trained, nor their files.

use crate::layout::{Entry, Mlp, Role, Storage};
use crate::{Config, Decoder, Error, Parameters};
use base::seed::Rng;
use serde::{Deserialize, Serialize};
use tensor::gemm::{Into, MatMut, MatRef, gemm};
use tensor::{Device, LowRank, LowRankPart, LowRanks, Tensor, Weight, kernels};

/// Where the streams of random numbers of adapters begin; those below are the decoder's own.
const FIRST_STREAM: u64 = 1 << 32;

/// Which matrices are adapted, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterOptions {
    /// Rank of each product B·A.
    pub rank: usize,
    /// The product is multiplied with alpha / rank.
    pub alpha: f64,
    /// The matrices of every layer that are adapted.
    pub target_modules: Vec<Module>,
    /// Whether the product is multiplied with alpha / √rank instead (Kalajdzievski 2023, "A Rank Stabilization
    /// Scaling Factor for Fine-Tuning with LoRA", section 3).
    pub rslora: bool,
}

/// A matrix that each layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// The query projection.
    #[serde(rename = "q_proj")]
    Query,
    /// The key projection.
    #[serde(rename = "k_proj")]
    Key,
    /// The value projection.
    #[serde(rename = "v_proj")]
    Value,
    /// The attention's output projection.
    #[serde(rename = "o_proj")]
    Output,
    /// The gate of the feed-forward layer.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The feed-forward layer's projection up.
    #[serde(rename = "up_proj")]
    Up,
    /// The feed-forward layer's projection down.
    #[serde(rename = "down_proj")]
    Down,
}

/// Adapters of one decoder, with their numbers.
pub struct Adapters {
    options: AdapterOptions,
    layout: AdapterLayout,
    /// Every A and B, in the order of [`Adapters::entries`].
    pub flat: Tensor,
}

/// The numbers that a decoder computes with: its weights and, where there are any, adapters over them.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The decoder's weights, in the order of its layout.
    pub base: &'a [f32],
    /// Adapters of the same decoder. Where there are some, they alone are trained.
    pub adapters: Option<&'a Adapters>,
}

impl<'a> From<&'a [f32]> for Weights<'a> {
    fn from(base: &'a [f32]) -> Weights<'a> {
        Weights { base, adapters: None }
    }
}

impl Default for AdapterOptions {
    fn default() -> AdapterOptions {
        AdapterOptions { rank: 16, alpha: 32.0, target_modules: Module::ALL.to_vec(), rslora: false }
    }
}

impl AdapterOptions {
    /// What each product B·A is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Elements of every A and B over a decoder of a configuration.
    pub fn parameter_count(&self, config: &Config) -> usize {
        AdapterLayout::new(&Decoder::new(config.clone()), self).len()
    }

    /// Refuses matrices that a decoder lacks: some families hold them fused with others, or have none.
    ///
    /// # Errors
    /// A sentence that names the matrix and the family.
    pub fn check_decoder(&self, decoder: &Decoder) -> Result<(), String> {
        let family = decoder.config().family.model_type();
        let lacks = |module: &&Module| {
            let name = |layer| format!("model.layers.{layer}.{}.weight", module.path());
            (0..decoder.config().layers).any(|layer| decoder.layout().find(&name(layer)).is_none())
        };
        match self.target_modules.iter().find(lacks) {
            None => Ok(()),
            Some(module) => Err(format!(
                "`target_modules` names `{}`, which not every layer of this model of the family `{family}` has \
                 apart; choose others",
                module.name()
            )),
        }
    }

    /// Refuses options that no adapter could have.
    ///
    /// # Errors
    /// A sentence that names the option.
    pub fn check(&self) -> Result<(), String> {
        if self.rank == 0 || self.rank > 1 << 16 {
            return Err(format!("`rank` is {}; it must be between 1 and 2^16", self.rank));
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return Err(format!("`alpha` is {}; it must be a positive number", self.alpha));
        }
        match self.target_modules.is_empty() {
            true => Err(format!("`target_modules` is empty; choose among {}", Module::names())),
            false => Ok(()),
        }
    }
}

impl Module {
    /// All matrices of a layer, in the order of the layout.
    pub const ALL: [Module; 7] =
        [Module::Query, Module::Key, Module::Value, Module::Output, Module::Gate, Module::Up, Module::Down];

    /// Its name in files, such as `q_proj`.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// The module of a name.
    pub fn from_name(name: &str) -> Option<Module> {
        Module::ALL.into_iter().find(|module| module.name() == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        Module::ALL.map(Module::name).join(", ")
    }

    /// Its name within a layer.
    fn path(self) -> &'static str {
        match self {
            Module::Query => "self_attn.q_proj",
            Module::Key => "self_attn.k_proj",
            Module::Value => "self_attn.v_proj",
            Module::Output => "self_attn.o_proj",
            Module::Gate => "mlp.gate_proj",
            Module::Up => "mlp.up_proj",
            Module::Down => "mlp.down_proj",
        }
    }
}

impl Adapters {
    /// Adapters that change nothing yet: B is zero, A uniform in ±1/√inputs (as PEFT's `reset_lora_parameters`: He et
    /// al. 2015, equation 14, with the slope a = √5). Each A has its own stream of random numbers.
    ///
    /// # Errors
    /// [`Error::Adapter`] for options that no adapter could have.
    pub fn init(
        device: &Device,
        decoder: &Decoder,
        options: &AdapterOptions,
        seed: u64,
    ) -> Result<Adapters, Error> {
        options.check().map_err(|reason| Error::Adapter { reason })?;
        options.check_decoder(decoder).map_err(|reason| Error::Adapter { reason })?;
        let mut adapters = Adapters::zeros(device, decoder, options);
        for (index, pair) in adapters.layout.pairs.iter().enumerate() {
            let mut rng = Rng::new(seed, FIRST_STREAM + index as u64);
            let bound = 1.0 / (pair.a.cols as f32).sqrt();
            for element in pair.a.of_mut(adapters.flat.data_mut()) {
                *element = bound * (2.0 * rng.uniform() - 1.0);
            }
        }
        Ok(adapters)
    }

    pub(crate) fn zeros(device: &Device, decoder: &Decoder, options: &AdapterOptions) -> Adapters {
        let mut options = options.clone();
        options.target_modules.sort();
        options.target_modules.dedup();
        let layout = AdapterLayout::new(decoder, &options);
        Adapters { options, flat: device.zeros(layout.len), layout }
    }

    /// The options; the modules sorted, each once.
    pub fn options(&self) -> &AdapterOptions {
        &self.options
    }

    /// Every A and B by PEFT's name, in the order of their offsets in [`Adapters::flat`].
    pub fn entries(&self) -> &[Entry] {
        &self.layout.entries
    }

    /// The entries, and their elements to be written.
    pub(crate) fn parts_mut(&mut self) -> (&[Entry], &mut [f32]) {
        (&self.layout.entries, self.flat.data_mut())
    }

    /// Which matrices of the decoder have adapters.
    pub fn table(&self) -> &LowRanks {
        &self.layout.table
    }

    /// The elements of a named A or B.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        let entry = self.layout.entries.iter().find(|entry| entry.name == name)?;
        Some(entry.weight.of(self.flat.data()))
    }

    /// Adds scale · B·A to each adapted matrix: afterwards `parameters` compute what they computed with these adapters,
    /// but for rounding.
    pub fn merge(&self, device: &Device, parameters: &mut Parameters) {
        let adapters = self.flat.data();
        for Pair { matrix, a, b } in &self.layout.pairs {
            let mut scaled = device.tensor([b.rows, b.cols], b.of(adapters));
            kernels::scale(device.exec(), self.layout.table.scale(), scaled.data_mut());
            let left = MatRef::new(scaled.data(), b.rows, b.cols);
            let right = MatRef::new(a.of(adapters), a.rows, a.cols);
            let sum = MatMut::new(matrix.of_mut(parameters.flat.data_mut()), matrix.rows, matrix.cols);
            gemm(device.exec(), left, right, sum, Into::Accumulate);
        }
    }
}

/// Where each A and B lies.
#[derive(Clone, Debug)]
pub(crate) struct AdapterLayout {
    entries: Vec<Entry>,
    pairs: Vec<Pair>,
    table: LowRanks,
    len: usize,
}

/// One adapted matrix of the decoder and its adapter.
#[derive(Clone, Copy, Debug)]
struct Pair {
    matrix: Weight,
    a: Weight,
    b: Weight,
}

impl AdapterLayout {
    /// The parameters in the order of their offsets.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// For each group of matrices with the same input the A of all that are adapted, then their B.
    pub(crate) fn new(decoder: &Decoder, options: &AdapterOptions) -> AdapterLayout {
        let table = LowRanks::new(options.scale());
        let mut layout = AdapterLayout { entries: Vec::new(), pairs: Vec::new(), table, len: 0 };
        for (index, layer) in decoder.layout().layers.iter().enumerate() {
            let mut groups: Vec<(Weight, &[Module])> = vec![
                (layer.qkv, &[Module::Query, Module::Key, Module::Value]),
                (layer.output, &[Module::Output]),
            ];
            if let Mlp::Dense { gate_up, down, .. } = layer.mlp {
                groups.push((gate_up, &[Module::Gate, Module::Up]));
                groups.push((down, &[Module::Down]));
            }
            for (fused, modules) in groups {
                let adapted = modules.iter().filter(|module| options.target_modules.contains(module));
                let named = adapted.filter_map(|module| {
                    let name = format!("model.layers.{index}.{}", module.path());
                    let entry = decoder.layout().find(&format!("{name}.weight"))?;
                    Some((name, entry.weight))
                });
                layout.add_group(fused, named.collect(), options.rank);
            }
        }
        layout
    }

    /// Adapters of parts of one fused matrix.
    fn add_group(&mut self, fused: Weight, parts: Vec<(String, Weight)>, rank: usize) {
        if parts.is_empty() {
            return;
        }
        let a = Weight { offset: self.len, rows: rank * parts.len(), cols: fused.cols };
        let each_a: Vec<Weight> =
            parts.iter().map(|(name, _)| self.entry(name, "lora_A", rank, fused.cols)).collect();
        let mut addition = LowRank { a, parts: Vec::new() };
        for ((name, matrix), a) in parts.iter().zip(each_a) {
            let b = self.entry(name, "lora_B", matrix.rows, rank);
            let first = (matrix.offset - fused.offset) / fused.cols;
            addition.parts.push(LowRankPart { rows: first..first + matrix.rows, b });
            self.pairs.push(Pair { matrix: *matrix, a, b });
        }
        self.table.insert(fused, addition);
    }

    fn entry(&mut self, matrix: &str, part: &str, rows: usize, cols: usize) -> Weight {
        let weight = Weight { offset: self.len, rows, cols };
        let name = format!("base_model.model.{matrix}.{part}.weight");
        self.entries.push(Entry { name, weight, role: Role::Hidden, storage: Storage::AsIs });
        self.len += weight.len();
        weight
    }

    /// Elements of the flat buffer.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
