//! Published memory beside [`crate::footprint`]. It must not know time.

use crate::architecture::{Architecture, known};
use crate::catalog::Precision;
use crate::footprint::{RUNTIME_BYTES, footprint};
use crate::step::{Program, Recompute, Schedule, Split, Work};
use crate::train::Method;
use serde::Deserialize;

const MEMORY: &str = include_str!("../../data/memory.toml");
/// The rank of adapters in LLaMA-Factory's examples, and a sequence and batch as short as its table means.
const RANK: f64 = 8.0;
const SEQUENCE: f64 = 1_024.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    llama_factory: Table,
    measured: Vec<Measured>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    source: String,
    reached: bool,
    sizes: Vec<f64>,
    full_mixed: Line,
    full_pure16: Line,
    lora_16: Line,
    qlora_8: Line,
    qlora_4: Line,
    qlora_2: Line,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    bytes: f64,
    gb: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    name: String,
    model: String,
    dp: f64,
    micro: f64,
    sequence: f64,
    gb: f64,
    source: String,
    reached: bool,
}

/// Published memory beside the computed one.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What is trained, and how.
    pub name: String,
    /// As published, 10⁹ bytes.
    pub published_gb: f64,
    /// As computed, 10⁹ bytes.
    pub computed_gb: f64,
    /// Bytes a parameter as published, where the source gives them, and as computed without activations.
    pub bytes_per_parameter: Option<(f64, f64)>,
    /// Where it is published.
    pub source: String,
    /// Whether the source's text was read beside the row.
    pub is_reached: bool,
}

impl Comparison {
    /// Computed over published, less 1.
    pub fn error(&self) -> f64 {
        self.computed_gb / self.published_gb - 1.0
    }
}

/// All of them.
pub fn memory() -> Vec<Comparison> {
    let file: File = toml::from_str(MEMORY).expect("the table of memory is tested");
    let table = &file.llama_factory;
    let qlora = |bits| Method::Qlora { rank: RANK, bits };
    let lines = [
        ("full, mixed precision", Method::Full, &table.full_mixed),
        ("full, all 16-bit", Method::Pure16, &table.full_pure16),
        ("LoRA, 16-bit weights", Method::Lora(RANK), &table.lora_16),
        ("QLoRA, 8-bit weights", qlora(8.0), &table.qlora_8),
        ("QLoRA, 4-bit weights", qlora(4.0), &table.qlora_4),
        ("QLoRA, 2-bit weights", qlora(2.0), &table.qlora_2),
    ];
    let mut all = Vec::new();
    for (name, method, line) in lines {
        for (size, published_gb) in table.sizes.iter().zip(&line.gb) {
            all.push(estimated(name, method, *size, (line.bytes, *published_gb), table));
        }
    }
    all.extend(file.measured.into_iter().map(measured));
    all
}

fn estimated(name: &str, method: Method, size: f64, (bytes, gb): (f64, f64), table: &Table) -> Comparison {
    let model = Architecture::of_size(size * 1e9).expect("sizes of the table are usual");
    let (states, trained) = method.states(&model);
    let work = Work { trained, recompute: Recompute::Full, ..work(&model, 1.0, SEQUENCE) };
    let footprint = footprint(&work, &replicas(1.0), states);
    let kept = ["weights", "gradients", "optimiser"].iter().map(|part| footprint.bytes_of(part)).sum::<f64>();
    Comparison {
        name: format!("{size:.0}B, {name}"),
        published_gb: gb,
        computed_gb: footprint.bytes() / 1e9,
        bytes_per_parameter: Some((bytes, kept / model.parameters())),
        source: table.source.clone(),
        is_reached: table.reached,
    }
}

fn measured(row: Measured) -> Comparison {
    let model = known(&row.model).expect("the table's models are known");
    let work = Work { recompute: Recompute::Alternate, ..work(&model, row.micro, row.sequence) };
    let footprint = footprint(&work, &Split { zero: 3, ..replicas(row.dp) }, crate::footprint::States::Mixed);
    Comparison {
        name: row.name,
        published_gb: row.gb,
        // What torch counts is its allocator's, without the runtime.
        computed_gb: (footprint.bytes() - RUNTIME_BYTES) / 1e9,
        bytes_per_parameter: None,
        source: row.source,
        is_reached: row.reached,
    }
}

fn work(model: &Architecture, micro_batch: f64, sequence: f64) -> Work<'_> {
    Work {
        model,
        sequence,
        batch: micro_batch,
        micro_batch,
        recompute: Recompute::None,
        precision: Precision::Bf16,
        program: Program::MODERN,
        trained: crate::step::Trained::All,
        recomputed_share: 0.0,
        extra_layers: 0.0,
    }
}

fn replicas(dp: f64) -> Split {
    Split { dp, tp: 1.0, pp: 1.0, ep: 1.0, cp: 1.0, zero: 0, schedule: Schedule::Interleaved(1.0) }
}

#[cfg(test)]
mod tests {
    use super::super::median;
    use super::*;

    /// The last column of LLaMA-Factory's table is exact for states; its gigabytes are rounded by its authors.
    #[test]
    fn bytes_a_parameter_are_the_published_ones() {
        let all = memory();
        for row in &all {
            println!(
                "{:<40} {:>7.1} {:>7.1} {:+.3} {:?}",
                row.name,
                row.published_gb,
                row.computed_gb,
                row.error(),
                row.bytes_per_parameter
            );
        }
        for (published, computed) in all.iter().filter_map(|row| row.bytes_per_parameter) {
            // Adapters and the scales of quantised blocks come on top.
            assert!(computed >= published * 0.999 && computed - published < 0.2, "{published} {computed}");
        }
        let errors = all.iter().map(|row| row.error().abs()).collect();
        assert!(median(errors) < 0.2);
    }
}
