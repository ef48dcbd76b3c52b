//! Low-rank adapters beside one base model: read from a PEFT folder, packed, and added to the rows of the sequences that
//! name them. Knows neither how adapters are trained nor which rows are computed together.
//!
//! A row's sums continue the chain of its product with the base weights, as on the tape of training: `x·Wᵀ` (and the bias)
//! first, then `scale · (x·Aᵀ)·Bᵀ`. So a row's result does not depend on the adapters of its company.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base::progress::format_bytes;
use model::{AdapterOptions, Adapters, Config, Decoder};
use tensor::gemm::{Into, MatMut, MatRef, PackedMatrix, gemm_packed};
use tensor::{Device, Exec, LowRank, Weight, kernels};

use crate::{Error, Result};

/// The adapters of a PEFT folder, ready to be used by any number of sequences.
pub struct Adapter {
    name: String,
    folder: PathBuf,
    options: AdapterOptions,
    config: Config,
    scale: f32,
    /// By the offset of the matrix that is added to.
    additions: BTreeMap<usize, Addition>,
    /// Whether the engine has let it go; sequences that have it keep it to their end.
    retired: AtomicBool,
}

/// Reads adapters of one engine's model, on any thread.
#[derive(Clone)]
pub struct AdapterReader {
    pub(crate) device: Device,
    pub(crate) decoder: Decoder,
}

/// What is added to the product with one matrix.
pub(crate) struct Addition {
    /// The A of all parts side by side, (inputs, sum of the ranks).
    inner: PackedMatrix,
    parts: Vec<Part>,
}

/// What is added to some of the outputs.
struct Part {
    outputs: Range<usize>,
    /// Its first column among the inner ones.
    first: usize,
    /// Bᵀ, (rank, outputs).
    outer: PackedMatrix,
}

impl AdapterReader {
    /// Reads a PEFT folder: rank, matrices and scale from `adapter_config.json`, A and B from `adapter_model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Model`] where the folder cannot be read, asks for something that is not computed (such as DoRA), or does
    /// not fit the model; [`Error::AdapterTooLarge`] where memory does not suffice.
    pub fn read(&self, name: &str, folder: &Path) -> Result<Adapter> {
        check_memory(name, folder)?;
        let adapters = Adapters::load(&self.device, &self.decoder, folder)?;
        let adapter = Adapter::pack((name, folder), &adapters, &self.device, self.decoder.config());
        drop(adapters);
        // What was read lies packed in other places now, and buffers of this size are asked for by nothing else.
        self.device.release_idle();
        Ok(adapter)
    }
}

impl Adapter {
    fn pack((name, folder): (&str, &Path), adapters: &Adapters, device: &Device, config: &Config) -> Adapter {
        let (table, flat) = (adapters.table(), adapters.flat.data());
        let additions =
            table.iter().map(|(offset, low_rank)| (offset, Addition::pack(device, low_rank, flat)));
        Adapter {
            name: name.to_owned(),
            folder: folder.to_owned(),
            options: adapters.options().clone(),
            config: config.clone(),
            scale: table.scale(),
            additions: additions.collect(),
            retired: AtomicBool::new(false),
        }
    }

    /// The name that requests choose it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The PEFT folder that it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Rank, scale and matrices.
    pub fn options(&self) -> &AdapterOptions {
        &self.options
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let bytes = |addition: &Addition| {
            addition.inner.bytes() + addition.parts.iter().map(|part| part.outer.bytes()).sum::<usize>()
        };
        self.additions.values().map(bytes).sum()
    }

    /// Whether it was read for a model of this configuration.
    pub(crate) fn fits(&self, config: &Config) -> bool {
        self.config == *config
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// What is added to the product with a matrix, if anything.
    pub(crate) fn addition(&self, matrix: Weight) -> Option<&Addition> {
        self.additions.get(&matrix.offset)
    }

    /// Adds to `out` (rows, `width`) what the inputs `x` (rows, inputs) give; `inner` is room for (rows,
    /// [`Addition::rank_sum`]).
    pub(crate) fn add(
        &self,
        exec: Exec<'_>,
        addition: &Addition,
        (x, inner): (&[f32], &mut [f32]),
        (out, width): (&mut [f32], usize),
    ) {
        let (inputs, ranks) = (addition.inner.rows(), addition.rank_sum());
        let rows = x.len() / inputs;
        let x = MatRef::new(x, rows, inputs);
        gemm_packed(exec, x, &addition.inner, MatMut::new(inner, rows, ranks), Into::Overwrite);
        kernels::scale(exec, self.scale, inner);
        for Part { outputs, first, outer } in &addition.parts {
            let left = MatRef::with_row_stride(&inner[*first..], rows, outer.rows(), ranks);
            let sum = MatMut::with_row_stride(&mut out[outputs.start..], rows, outer.columns(), width);
            gemm_packed(exec, left, outer, sum, Into::Accumulate);
        }
    }
}

impl Addition {
    fn pack(device: &Device, LowRank { a, parts }: &LowRank, flat: &[f32]) -> Addition {
        let exec = device.exec();
        let packed = |weight: &Weight| {
            PackedMatrix::pack(exec, MatRef::new(weight.of(flat), weight.rows, weight.cols).t())
        };
        let mut first = 0;
        let parts = parts.iter().map(|part| {
            let begin = first;
            first += part.b.cols;
            Part { outputs: part.rows.clone(), first: begin, outer: packed(&part.b) }
        });
        Addition { inner: packed(a), parts: parts.collect() }
    }

    /// The sum of the parts' ranks.
    pub fn rank_sum(&self) -> usize {
        self.inner.columns()
    }
}

/// Refuses adapters for which there is no memory: a file of 16-bit numbers becomes twice as large, and lies there a second
/// time while it is packed.
fn check_memory(name: &str, folder: &Path) -> Result<()> {
    let stored = std::fs::metadata(folder.join("adapter_model.safetensors")).map_or(0, |data| data.len());
    let (needed, available) = (stored.saturating_mul(4), base::machine::memory_available_bytes());
    match available.filter(|available| needed > *available) {
        None => Ok(()),
        Some(available) => Err(Error::AdapterTooLarge {
            name: name.to_owned(),
            needed: format_bytes(needed as f64),
            available: format_bytes(available as f64),
        }),
    }
}
