//! The graphics processors that NVIDIA's driver tells of, measured, beside what the catalogue knows of them, and what could
//! be trained on them. What could not be measured is said with its reason, and the catalogue's figures stand in.

use anyhow::{Context as _, Result, bail};
use plan::calibration::Calibration;
use plan::catalog::{Catalog, Chip, Figure, Precision};
use plan::overnight::{Measured, Night, TOKENS_PER_PARAMETER, on_chips};
use plan::units::{grouped, show_bytes, show_count, three};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::ErrorKind;
use std::process::Command;
use tensor::limits::cuda::{self, GpuError, GpuLimits, Products};

const QUERY: &str = "--query-gpu=name,memory.total,power.limit,clocks.max.sm";

/// Processors of one kind.
#[derive(Clone, Debug, PartialEq)]
struct Kind {
    name: String,
    count: usize,
    memory_bytes: f64,
    power_watts: Option<f64>,
    clock_mhz: Option<f64>,
}

/// A kind, measured where that went well.
struct Found {
    kind: Kind,
    limits: Result<GpuLimits, GpuError>,
    /// What the catalogue has under its name.
    catalogued: Option<Chip>,
    /// What plans are made with.
    chip: Option<Chip>,
}

/// What the driver's tool said, and what was measured.
pub struct Graphics {
    found: Vec<Found>,
    /// Why nothing is known, where the tool failed or is missing.
    trouble: Option<String>,
}

/// Asks `nvidia-smi`, and measures one processor of each kind.
pub fn graphics() -> Graphics {
    let none = |trouble: String| Graphics { found: Vec::new(), trouble: Some(trouble) };
    let output = match Command::new("nvidia-smi").args([QUERY, "--format=csv,noheader,nounits"]).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return none("nvidia-smi is not installed; no other maker's are asked for".to_owned());
        }
        Err(error) => return none(format!("nvidia-smi cannot be run: {error}")),
    };
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let words = [said(&output.stderr), said(&output.stdout)].join(" ");
        return none(format!("nvidia-smi failed ({}): {}", output.status, words.trim()));
    }
    match kinds(&said(&output.stdout)) {
        Ok(kinds) => Graphics { found: kinds.into_iter().map(Found::of).collect(), trouble: None },
        Err(error) => none(crate::context::explain(&error)),
    }
}

/// The lines of the tool, one a processor, gathered by kind.
fn kinds(text: &str) -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let kind = kind(line).with_context(|| format!("nvidia-smi said `{line}`"))?;
        match kinds.iter_mut().find(|known| known.name == kind.name) {
            // Of one name with and without error correction, the least is in all.
            Some(known) => {
                known.count += 1;
                known.memory_bytes = known.memory_bytes.min(kind.memory_bytes);
            }
            None => kinds.push(kind),
        }
    }
    Ok(kinds)
}

fn kind(line: &str) -> Result<Kind> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [name, memory, power, clock] = fields[..] else {
        bail!("that is not a name, memory in MiB, power limit in W and clock in MHz");
    };
    let memory: f64 = memory.parse().with_context(|| format!("`{memory}` is no memory in MiB"))?;
    Ok(Kind {
        name: name.to_owned(),
        count: 1,
        memory_bytes: memory * 1_048_576.0,
        // The driver writes [N/A] where a card has none.
        power_watts: power.parse().ok(),
        clock_mhz: clock.parse().ok(),
    })
}

impl Graphics {
    /// What was found and measured, what the catalogue says of it, and what it could train in `hours`.
    pub fn words(&self, hours: f64) -> String {
        if let Some(trouble) = &self.trouble {
            return format!("no GPU known: {trouble}");
        }
        if self.found.is_empty() {
            return "no GPU: nvidia-smi lists none".to_owned();
        }
        self.found.iter().map(|found| found.words(hours)).collect::<Vec<_>>().join("\n  ")
    }

    /// The same for machines.
    pub fn json(&self, hours: f64) -> Value {
        let found: Vec<Value> = self.found.iter().map(|found| found.json(hours)).collect();
        json!({ "found": found, "trouble": self.trouble })
    }
}

impl Found {
    fn of(kind: Kind) -> Found {
        let limits = quietly(|| cuda::measure(&kind.name));
        let catalogued = Catalog::shipped().of_driver(&kind.name, kind.memory_bytes).cloned();
        let chip = match &limits {
            Ok(limits) => measured(&kind, limits).chip(catalogued.as_ref(), &Calibration::shipped()),
            // A part of it, or hidden from this program: the whole of it cannot be planned with.
            Err(GpuError::Unknown { .. }) => None,
            // The catalogue's figures, with the memory that the driver tells.
            Err(_) => catalogued.clone().map(|chip| Chip {
                memory: Figure::Known {
                    value: kind.memory_bytes / 1e9,
                    source: "nvidia-smi".to_owned(),
                    is_reached: true,
                },
                ..chip
            }),
        };
        Found { kind, limits, catalogued, chip }
    }

    fn words(&self, hours: f64) -> String {
        let kind = &self.kind;
        let mut text = format!("GPU: {} × {}, {} each", kind.count, kind.name, show_bytes(kind.memory_bytes));
        if let Some(watts) = kind.power_watts {
            let _ = write!(text, ", up to {} W", grouped(watts));
        }
        if let Some(clock) = kind.clock_mhz {
            let _ = write!(text, ", up to {} MHz", grouped(clock));
        }
        let _ = write!(text, "\n    {}", self.limits_words());
        let _ = match (&self.catalogued, &self.chip) {
            (Some(chip), _) => write!(text, "\n    the catalogue's {}", published(chip)),
            (None, _) => write!(
                text,
                "\n    not in the catalogue (a form or memory of its own counts as another chip): describe it in a file, \
                 taoye plan train --catalog FILE"
            ),
        };
        if let Some(chip) = &self.chip {
            let _ = write!(text, "\n    {}", self.night_words(chip, hours));
        }
        text
    }

    /// What was measured, or why not.
    fn limits_words(&self) -> String {
        let limits = match &self.limits {
            Ok(limits) => limits,
            Err(error) => return format!("found, not measured ({error})"),
        };
        let share = |reached: f64, of: Option<f64>| {
            of.map_or(String::new(), |of| format!(" ({:.0} % of the data sheet's)", 100.0 * reached / of))
        };
        let chip = self.catalogued.as_ref();
        let products = match &limits.products {
            Ok(found) => {
                let precision = precision(found);
                let peak = chip.and_then(|chip| Some(chip.peak(precision).ok()? / 1e12));
                let name = precision.name();
                format!("products in {name} {} TFLOP/s{}", three(found.tflops), share(found.tflops, peak))
            }
            Err(error) => format!("products not ({error})"),
        };
        let copies = limits.copy_gb_per_s;
        let bandwidth = chip.and_then(|chip| chip.bandwidth.value());
        format!("measured on one: copies {} GB/s{}, {products}", three(copies), share(copies, bandwidth))
    }

    /// Whether plans are made with a lower peak than the data sheet's.
    fn is_lowered(&self) -> bool {
        let both = self.catalogued.as_ref().zip(self.chip.as_ref());
        both.is_some_and(|(published, chip)| published.peak != chip.peak)
    }

    /// How many can be planned with: no more than the driver shows, and one where nothing is known of links between them.
    fn planned(&self) -> usize {
        let shown = self.limits.as_ref().map_or(self.kind.count, |limits| limits.shown);
        if self.catalogued.is_some() { self.kind.count.min(shown) } else { 1 }
    }

    fn night_words(&self, chip: &Chip, hours: f64) -> String {
        let (basis, how) = match &self.catalogued {
            Some(_) if self.is_lowered() => ("a peak lowered to what was measured", String::new()),
            Some(chip) => {
                let how = format!(" (taoye plan train --chip {} --chips {})", chip.name, self.planned());
                ("their peak", how)
            }
            None => ("the speed that was measured", String::new()),
        };
        let who = if self.planned() == 1 { "one that uses one of them" } else { "one that uses them" };
        match self.night(chip, hours) {
            Err(error) => format!("what they could train is not known: {error}"),
            Ok(None) => format!(
                "in {hours} hours they show not even a small model {TOKENS_PER_PARAMETER} tokens a parameter"
            ),
            Ok(Some(night)) => format!(
                "this program trains on the processor; {who} could in {hours} hours train {} parameters on {} tokens, at \
                 {:.0} % of {basis}{how}",
                show_count(night.parameters),
                show_count(night.tokens),
                100.0 * night.mfu
            ),
        }
    }

    fn night(&self, chip: &Chip, hours: f64) -> Result<Option<Night>> {
        Ok(on_chips(chip, self.planned() as f64, hours * 3600.0, &Calibration::shipped())?)
    }

    fn json(&self, hours: f64) -> Value {
        let night = self.chip.as_ref().map(|chip| match self.night(chip, hours) {
            Ok(night) => json!({ "best": night.map(|night| json!({
                "parameters": night.parameters, "tokens": night.tokens, "mfu": night.mfu,
                "memory_bytes_per_chip": night.memory_bytes_per_chip,
            })) }),
            Err(error) => json!({ "best": null, "error": error.to_string() }),
        });
        let kind = &self.kind;
        let limits = self.limits.as_ref().ok();
        let products = limits.and_then(|limits| limits.products.as_ref().ok());
        let trouble = match &self.limits {
            Ok(limits) => limits.products.as_ref().err(),
            Err(error) => Some(error),
        };
        json!({
            "name": kind.name, "count": kind.count, "memory_bytes": kind.memory_bytes, "power_watts": kind.power_watts,
            "clock_mhz": kind.clock_mhz, "measured": limits.is_some(), "trouble": trouble.map(GpuError::to_string),
            "measured_copy_gb_per_s": limits.map(|limits| limits.copy_gb_per_s),
            "measured_tflops": products.map(|products| products.tflops),
            "measured_type": products.map(|products| precision(products).name()),
            "catalogued": self.catalogued.as_ref().map(|chip| chip.name.clone()),
            "bf16_tflops": self.catalogued.as_ref().and_then(|chip| Some(chip.peak(Precision::Bf16).ok()? / 1e12)),
            "memory_gb_per_s": self.catalogued.as_ref().and_then(|chip| chip.bandwidth.value()),
            "lowered": self.is_lowered(), "planned": self.planned(), "hours": hours, "training": night,
        })
    }
}

/// Without the words of a panic, which becomes an error.
fn quietly<T>(body: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = body();
    std::panic::set_hook(hook);
    found
}

fn measured(kind: &Kind, limits: &GpuLimits) -> Measured {
    let products = limits.products.as_ref().ok();
    Measured {
        name: kind.name.clone(),
        memory_bytes: kind.memory_bytes,
        bytes_per_second: limits.copy_gb_per_s * 1e9,
        products: products.map(|found| (precision(found), found.tflops * 1e12)),
    }
}

fn precision(products: &Products) -> Precision {
    if products.is_bf16 { Precision::Bf16 } else { Precision::Fp16 }
}

/// A chip's name with the peak of 16-bit products and the memory's bandwidth, where they are published.
fn published(chip: &Chip) -> String {
    let halves = [(Precision::Bf16, "TFLOP/s bf16"), (Precision::Fp16, "TFLOP/s fp16")];
    let half = halves.iter().find_map(|(kind, unit)| Some((chip.peak(*kind).ok()? / 1e12, *unit)));
    let figures = half.into_iter().chain(chip.bandwidth.value().map(|value| (value, "GB/s")));
    let figures = figures.map(|(figure, unit)| format!(", {} {unit}", three(figure)));
    format!("{}{}", chip.name, figures.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_kinds_or_a_named_fault() {
        let two = "NVIDIA A100-SXM4-80GB, 81920, 400.00, 1410\nNVIDIA A100-SXM4-80GB, 81920, 400.00, 1410\n\
                   NVIDIA T4, 15360, [N/A], [N/A]\n";
        let kinds = kinds(two).expect("well formed");
        assert_eq!((kinds.len(), kinds[0].count, kinds[0].power_watts), (2, 2, Some(400.0)));
        assert_eq!((kinds[1].count, kinds[1].power_watts, kinds[1].clock_mhz), (1, None, None));
        for (line, part) in [("NVIDIA T4", "not a name"), ("NVIDIA T4, lots, 70, 1590", "lots")] {
            let message = format!("{:#}", super::kinds(line).expect_err("malformed"));
            assert!(message.contains(part) && message.contains("NVIDIA T4"), "{message}");
        }
    }
}
