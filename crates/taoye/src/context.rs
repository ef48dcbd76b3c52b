//! What every command works with: the device, where progress goes, how results are printed.

use crate::cli::Global;
use anyhow::{Context as _, Result};
use base::progress::Output;
use std::io::Write as _;
use tensor::{Device, Isa};

/// The flags that every command understands, parsed.
pub struct Context {
    /// Compute threads.
    pub threads: usize,
    /// Where progress goes.
    pub progress: Output,
    /// Whether results are one JSON object on the last line.
    pub json: bool,
    isa: Isa,
}

impl Context {
    /// # Errors
    /// When the instruction set is unknown or this processor lacks it.
    pub fn new(global: &Global) -> Result<Context> {
        let isa = match &global.isa {
            Some(name) if !name.is_empty() => Isa::from_name(name).context("--isa (or TAOYE_ISA)")?,
            _ => Isa::detect(),
        };
        let progress = if global.json { Output::Silent } else { Output::Auto };
        let threads = global.threads.map_or_else(base::machine::cores, usize::from);
        Ok(Context { threads, progress, json: global.json, isa })
    }

    /// The processor with its pool of threads.
    ///
    /// # Errors
    /// None on an instruction set that [`Context::new`] accepted.
    pub fn device(&self) -> Result<Device> {
        Ok(Device::cpu(self.threads, self.isa)?)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Tells a person something, on standard error; silent with `--json`.
    pub fn say(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// Prints a result on standard output: `text` for a person, or `json` for a machine.
    pub fn print(&self, text: &str, json: &serde_json::Value) {
        if self.json {
            put(json);
        } else {
            put(&text);
        }
    }
}

/// Exit status where nobody reads standard output any longer, as shells report it: 128 + SIGPIPE.
const UNREAD: i32 = 141;

/// Prints a line on standard output. Where that cannot be, nothing is left to do: the program ends, silently where the
/// reader is gone (`| head`), with the reason elsewhere (a full disk).
pub fn put(line: &dyn std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(UNREAD);
    }
    eprintln!("error: standard output cannot be written: {error}");
    std::process::exit(1);
}

/// What went wrong and why, as a user reads it: the causes in order, without those whose words are in what was said before.
pub fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cause_is_told_once() {
        let system = std::io::Error::from(std::io::ErrorKind::NotFound);
        let words = system.to_string();
        let read = base::Error::io("read", std::path::Path::new("gone.toml"), system);
        let told = super::explain(&anyhow::Error::new(read).context("the portfolio"));
        assert_eq!(told, format!("the portfolio: cannot read gone.toml: {words}"));
    }
}
