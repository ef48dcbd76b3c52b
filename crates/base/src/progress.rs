//! Progress of long work on standard error: a bar on a terminal, plain lines elsewhere, nothing when a machine reads.
//! It must not know what the work is; it starts no thread.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Output {
    /// A bar if standard error is a terminal, else plain lines.
    #[default]
    Auto,
    /// Plain lines, whatever standard error is.
    Plain,
    /// Nothing: for `--json`.
    Silent,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as kB, MB, GB (powers of a thousand).
    Bytes,
    /// Things with a name, such as "documents" or "steps".
    Count(&'static str),
}

/// One piece of work under way.
pub struct Progress {
    label: String,
    unit: Unit,
    total: Option<u64>,
    position: u64,
    first_position: u64,
    message: String,
    started: Instant,
    sink: Sink,
}

enum Sink {
    Bar(ProgressBar),
    Plain { printed: Instant },
    Silent,
}

impl Progress {
    /// Starts to show a piece of work; `total` is None where the end is not known.
    pub fn start(output: Output, label: &str, unit: Unit, total: Option<u64>) -> Self {
        let now = Instant::now();
        let sink = match output {
            Output::Silent => Sink::Silent,
            Output::Auto if std::io::stderr().is_terminal() => Sink::Bar(bar(label, total)),
            Output::Auto | Output::Plain => Sink::Plain { printed: now },
        };
        let label = label.to_string();
        Self {
            label,
            unit,
            total,
            position: 0,
            first_position: 0,
            message: String::new(),
            started: now,
            sink,
        }
    }

    /// Says that the work resumes at a position: what lies before it counts as done, but not into the rate.
    pub fn resume_at(&mut self, position: u64) {
        self.first_position = position;
        self.set(position);
    }

    /// The text that follows the figures, such as "loss 3.21".
    pub fn message(&mut self, text: &str) {
        self.message.clear();
        self.message.push_str(text);
    }

    /// Sets how much is done; draws at most a few times a second.
    pub fn set(&mut self, position: u64) {
        self.position = position;
        self.draw();
    }

    /// Adds to what is done.
    pub fn add(&mut self, amount: u64) {
        self.set(self.position + amount);
    }

    /// Prints a line above the bar, or by itself; nothing when silent.
    pub fn print_line(&mut self, line: &str) {
        match &self.sink {
            Sink::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Sink::Plain { .. } => eprintln!("{line}"),
            Sink::Silent => {}
        }
    }

    /// Ends the work and leaves one last line.
    pub fn finish(mut self) {
        let line = self.line(self.started.elapsed(), true);
        match &self.sink {
            Sink::Bar(bar) => {
                bar.finish_and_clear();
                eprintln!("{line}");
            }
            Sink::Plain { .. } => eprintln!("{line}"),
            Sink::Silent => {}
        }
        self.sink = Sink::Silent;
    }

    fn draw(&mut self) {
        let elapsed = self.started.elapsed();
        match &self.sink {
            Sink::Bar(bar) => {
                bar.set_message(self.figures(elapsed, false));
                bar.set_position(self.position);
            }
            Sink::Plain { printed } if printed.elapsed() >= LINE_INTERVAL => {
                eprintln!("{}", self.line(elapsed, false));
                self.sink = Sink::Plain { printed: Instant::now() };
            }
            Sink::Plain { .. } | Sink::Silent => {}
        }
    }

    fn line(&self, elapsed: Duration, ended: bool) -> String {
        format!("{}: {}", self.label, self.figures(elapsed, ended))
    }

    /// "12/40 steps (30 %), 3.5 steps/s, 8 s left, loss 3.21"
    fn figures(&self, elapsed: Duration, ended: bool) -> String {
        let seconds = elapsed.as_secs_f64();
        let rate = (self.position - self.first_position.min(self.position)) as f64 / seconds.max(1e-9);
        let mut parts = Vec::new();
        match self.total.filter(|&total| total > 0) {
            Some(total) => parts.push(format!(
                "{}/{} ({:.0} %)",
                self.amount(self.position as f64, false),
                self.amount(total as f64, true),
                100.0 * self.position as f64 / total as f64
            )),
            None => parts.push(self.amount(self.position as f64, true)),
        }
        if rate > 0.0 && seconds > 0.05 {
            parts.push(format!("{}/s", self.amount(rate, true)));
        }
        match self.total {
            _ if ended => parts.push(format!("took {}", format_duration(elapsed))),
            Some(total) if rate > 0.0 && total > self.position && seconds > 0.5 => {
                let left = Duration::from_secs_f64(((total - self.position) as f64 / rate).min(1e9));
                parts.push(format!("{} left", format_duration(left)));
            }
            _ => {}
        }
        if !self.message.is_empty() {
            parts.push(self.message.clone());
        }
        parts.join(", ")
    }

    fn amount(&self, value: f64, named: bool) -> String {
        match self.unit {
            Unit::Bytes => format_bytes(value),
            Unit::Count(name) if named => format!("{} {name}", format_count(value)),
            Unit::Count(_) => format_count(value),
        }
    }
}

impl Drop for Progress {
    /// Work that ends by an error leaves no half-drawn bar.
    fn drop(&mut self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}

/// "1.5 MB": powers of a thousand.
pub fn format_bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// "2 h 05 min", "3 min 20 s", "8 s", "0.4 s".
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Thousands separated by commas; small rates with a decimal.
fn format_count(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bar(label: &str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{prefix} {bar:24} {msg}",
        None => "{prefix} {spinner} {msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(5));
    bar.set_style(style);
    bar.set_prefix(label.to_string());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let mut progress = Progress::start(Output::Silent, "train", Unit::Count("steps"), Some(4_000));
        progress.resume_at(1_000);
        progress.message("loss 3.21");
        progress.set(2_000);
        let text = progress.figures(Duration::from_secs(100), false);
        assert_eq!(text, "2,000/4,000 steps (50 %), 10 steps/s, 3 min 20 s left, loss 3.21");
        progress.set(4_000);
        let text = progress.line(Duration::from_secs(300), true);
        assert_eq!(text, "train: 4,000/4,000 steps (100 %), 10 steps/s, took 5 min 00 s, loss 3.21");
        let mut bytes = Progress::start(Output::Silent, "read", Unit::Bytes, None);
        bytes.add(1_500_000);
        assert_eq!(bytes.figures(Duration::from_secs(2), false), "1.5 MB, 750 kB/s");
    }

    #[test]
    fn sizes_and_times() {
        for (bytes, text) in [(0.0, "0 B"), (999.0, "999 B"), (1e3, "1.0 kB"), (123_456_789.0, "123 MB")] {
            assert_eq!(format_bytes(bytes), text);
        }
        for (seconds, text) in [(0.42, "0.4 s"), (59.4, "59 s"), (59.9, "1 min 00 s"), (7500.0, "2 h 05 min")]
        {
            assert_eq!(format_duration(Duration::from_secs_f64(seconds)), text);
        }
        for (count, text) in [(0.0, "0"), (3.52, "3.5"), (1_234_567.0, "1,234,567"), (999.0, "999")] {
            assert_eq!(format_count(count), text);
        }
    }
}
