//! The table of a step by operation: each row beside what limits it, and what no operation accounts for.
//!
//! It must not know how anything was measured.

use serde_json::{Value, json};
use train::{Limit, ProfileRow};

/// The machine's limits, measured in the same run.
pub struct Limits {
    /// Fused multiply-adds, in 10⁹ operations a second.
    pub gflops: f64,
    /// Reading memory, in 10⁹ bytes a second.
    pub gb_per_s: f64,
}

/// A step's rows with the shares of the step and of the limits.
pub struct Table<'a> {
    rows: &'a [ProfileRow],
    step_ms: f64,
    limits: &'a Limits,
}

/// The table of a mean step of `step_ms` milliseconds.
pub fn table<'a>(rows: &'a [ProfileRow], step_ms: f64, limits: &'a Limits) -> Table<'a> {
    Table { rows, step_ms, limits }
}

impl Table<'_> {
    /// For people.
    pub fn text(&self) -> String {
        let Limits { gflops, gb_per_s } = self.limits;
        let mut lines = vec![
            format!(
                "limits: {gflops:.0} GFLOP/s of fused multiply-adds; reading memory {gb_per_s:.1} GB/s (a share above \
                 100 % comes from the caches)"
            ),
            format!(
                "{:<16}{:<16}{:>7}{:>10}{:>8}{:>15}{:>10}",
                "phase", "operation", "calls", "ms", "step", "speed", "of limit"
            ),
        ];
        let mut phase = "";
        for row in self.rows {
            if row.phase != phase {
                phase = row.phase;
                let sum: f64 = self.rows.iter().filter(|row| row.phase == phase).map(|row| row.ms).sum();
                lines.push(format!("{phase:<32}{:>7}{sum:>10.2}{:>8}", "", self.percent(sum)));
            }
            let unit = match row.limit {
                Limit::Arithmetic => "GFLOP/s",
                Limit::Memory => "GB/s   ",
            };
            lines.push(format!(
                "{:<16}{:<16}{:>7.0}{:>10.2}{:>8}{:>7.0} {unit}{:>8.0} %",
                "",
                row.operation,
                row.calls,
                row.ms,
                self.percent(row.ms),
                row.giga_per_s,
                100.0 * self.share_of_limit(row)
            ));
        }
        let rest = self.rest_ms();
        lines.push(format!("{:<39}{rest:>10.2}{:>8}", "no operation accounts for", self.percent(rest)));
        lines.push(format!("{:<39}{:>10.2}{:>8}", "the step", self.step_ms, self.percent(self.step_ms)));
        lines.join("\n")
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let row = |row: &ProfileRow| {
            let mut value = json!(row);
            value["share_of_step"] = json!(row.ms / self.step_ms);
            value["share_of_limit"] = json!(self.share_of_limit(row));
            value
        };
        json!({
            "peak_gflops": self.limits.gflops, "read_gb_per_s": self.limits.gb_per_s, "step_ms": self.step_ms,
            "unaccounted_ms": self.rest_ms(), "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn rest_ms(&self) -> f64 {
        self.step_ms - self.rows.iter().map(|row| row.ms).sum::<f64>()
    }

    fn share_of_limit(&self, row: &ProfileRow) -> f64 {
        let limit = match row.limit {
            Limit::Arithmetic => self.limits.gflops,
            Limit::Memory => self.limits.gb_per_s,
        };
        row.giga_per_s / limit
    }

    fn percent(&self, ms: f64) -> String {
        format!("{:.1} %", 100.0 * ms / self.step_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_the_rest_add_up() {
        let row = |phase, operation: &str, ms, giga_per_s, limit| ProfileRow {
            phase,
            operation: operation.to_owned(),
            calls: 2.0,
            ms,
            giga_per_s,
            limit,
        };
        let rows = [
            row("forward", "qkv", 6.0, 75.0, Limit::Arithmetic),
            row("forward", "norm", 1.0, 30.0, Limit::Memory),
            row("update", "adamw", 2.0, 10.0, Limit::Memory),
        ];
        let limits = Limits { gflops: 100.0, gb_per_s: 20.0 };
        let table = table(&rows, 10.0, &limits);
        let json = table.json();
        assert_eq!(json["unaccounted_ms"], 1.0);
        let shares: Vec<f64> =
            (0..3).filter_map(|row| json["rows"][row]["share_of_limit"].as_f64()).collect();
        assert_eq!(shares, [0.75, 1.5, 0.5]);
        let text = table.text();
        for expected in ["forward", "70.0 %", "75 GFLOP/s", "150 %", "no operation accounts for", "10.0 %"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
