//! The graphics processors that NVIDIA's driver tells of, what the catalogue knows of them, and what could be trained on
//! them. It must not measure: this program has no code for them, so it says that nothing was measured.

use anyhow::{Context as _, Result, bail};
use plan::calibration::Calibration;
use plan::catalog::{Catalog, Chip, Figure, Precision};
use plan::overnight::{Night, TOKENS_PER_PARAMETER, on_chips};
use plan::units::{grouped, show_bytes, show_count, three};
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::ErrorKind;
use std::process::Command;

const QUERY: &str = "--query-gpu=name,memory.total,power.limit,clocks.max.sm";
const NOT_MEASURED: &str = "found, not measured: the figures are the catalogue's";

/// Processors of one kind.
#[derive(Clone, Debug, PartialEq)]
struct Kind {
    name: String,
    count: usize,
    memory_bytes: f64,
    power_watts: Option<f64>,
    clock_mhz: Option<f64>,
}

/// What the driver's tool said.
pub struct Graphics {
    kinds: Vec<Kind>,
    /// Why nothing is known, where the tool failed or is missing.
    trouble: Option<String>,
}

/// Asks `nvidia-smi`.
pub fn graphics() -> Graphics {
    let none = |trouble: String| Graphics { kinds: Vec::new(), trouble: Some(trouble) };
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
        Ok(kinds) => Graphics { kinds, trouble: None },
        Err(error) => none(crate::context::explain(&error)),
    }
}

/// The lines of the tool, one a processor, gathered by kind.
fn kinds(text: &str) -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let kind = kind(line).with_context(|| format!("nvidia-smi said `{line}`"))?;
        match kinds
            .iter_mut()
            .find(|known| known.name == kind.name && known.memory_bytes == kind.memory_bytes)
        {
            Some(known) => known.count += 1,
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
    /// What was found, what the catalogue says of it, and what it could train in `hours`.
    pub fn words(&self, hours: f64) -> String {
        if let Some(trouble) = &self.trouble {
            return format!("no GPU known: {trouble}");
        }
        if self.kinds.is_empty() {
            return "no GPU: nvidia-smi lists none".to_owned();
        }
        self.kinds.iter().map(|kind| kind.words(hours)).collect::<Vec<_>>().join("\n  ")
    }

    /// The same for machines.
    pub fn json(&self, hours: f64) -> Value {
        let found: Vec<Value> = self.kinds.iter().map(|kind| kind.json(hours)).collect();
        json!({ "found": found, "measured": false, "trouble": self.trouble })
    }
}

impl Kind {
    /// The catalogue's chip, with the memory that the driver tells.
    fn chip(&self) -> Option<Chip> {
        let mut chip = Catalog::shipped().of_driver(&self.name, self.memory_bytes)?.clone();
        chip.memory = Figure::Known {
            value: self.memory_bytes / 1e9,
            source: "nvidia-smi".to_owned(),
            is_reached: true,
        };
        Some(chip)
    }

    fn words(&self, hours: f64) -> String {
        let mut text = format!("GPU: {} × {}, {} each", self.count, self.name, show_bytes(self.memory_bytes));
        if let Some(watts) = self.power_watts {
            let _ = write!(text, ", up to {} W", grouped(watts));
        }
        if let Some(clock) = self.clock_mhz {
            let _ = write!(text, ", up to {} MHz", grouped(clock));
        }
        let Some(chip) = self.chip() else {
            return text
                + "\n    found, not measured, and not in the catalogue (a form or memory of its own counts as another \
                           chip): describe it in a file, taoye plan train --catalog FILE";
        };
        let _ = write!(text, "\n    {NOT_MEASURED} ({}", chip.name);
        for (figure, unit) in figures(&chip) {
            let _ = write!(text, ", {} {unit}", three(figure));
        }
        let _ = write!(text, ")\n    {}", self.night_words(&chip, hours));
        text
    }

    fn night_words(&self, chip: &Chip, hours: f64) -> String {
        let how = format!("taoye plan train --chip {} --chips {}", chip.name, self.count);
        match self.night(chip, hours) {
            Err(error) => format!("what they could train is not known: {error}"),
            Ok(None) => format!(
                "in {hours} hours they show not even a small model {TOKENS_PER_PARAMETER} tokens a parameter"
            ),
            Ok(Some(night)) => format!(
                "this program trains on the processor; one that uses them could in {hours} hours train {} parameters on {} \
                 tokens, at {:.0} % of their peak ({how})",
                show_count(night.parameters),
                show_count(night.tokens),
                100.0 * night.mfu
            ),
        }
    }

    fn night(&self, chip: &Chip, hours: f64) -> Result<Option<Night>> {
        Ok(on_chips(chip, self.count as f64, hours * 3600.0, &Calibration::shipped())?)
    }

    fn json(&self, hours: f64) -> Value {
        let chip = self.chip();
        let night = chip.as_ref().map(|chip| match self.night(chip, hours) {
            Ok(night) => json!({ "best": night.map(|night| json!({
                "parameters": night.parameters, "tokens": night.tokens, "mfu": night.mfu,
                "memory_bytes_per_chip": night.memory_bytes_per_chip,
            })) }),
            Err(error) => json!({ "best": null, "error": error.to_string() }),
        });
        json!({
            "name": self.name, "count": self.count, "memory_bytes": self.memory_bytes, "power_watts": self.power_watts,
            "clock_mhz": self.clock_mhz, "catalogued": chip.as_ref().map(|chip| chip.name.clone()),
            "bf16_tflops": chip.as_ref().and_then(|chip| chip.peak(Precision::Bf16).ok()).map(|peak| peak / 1e12),
            "memory_gb_per_s": chip.as_ref().and_then(|chip| chip.bandwidth.value()), "hours": hours, "training": night,
        })
    }
}

/// The peak of 16-bit products and the memory's bandwidth, where they are published.
fn figures(chip: &Chip) -> Vec<(f64, &'static str)> {
    let halves = [(Precision::Bf16, "TFLOP/s bf16"), (Precision::Fp16, "TFLOP/s fp16")];
    let half = halves.iter().find_map(|(kind, unit)| Some((chip.peak(*kind).ok()? / 1e12, *unit)));
    half.into_iter().chain(chip.bandwidth.value().map(|value| (value, "GB/s"))).collect()
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
        assert_eq!(kinds[0].chip().map(|chip| chip.name), Some("a100-sxm-80g".to_owned()));
        assert_eq!(kinds[1].chip(), None);
        for (line, part) in [("NVIDIA T4", "not a name"), ("NVIDIA T4, lots, 70, 1590", "lots")] {
            let message = format!("{:#}", super::kinds(line).expect_err("malformed"));
            assert!(message.contains(part) && message.contains("NVIDIA T4"), "{message}");
        }
    }
}
