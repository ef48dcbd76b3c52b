//! House-keeping of the repository: `cargo xtask tidy` and `cargo xtask docs`.
//!
//! It must not know what the product does, only how its sources are to look.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod tidy;

const USAGE: &str = "usage: cargo xtask tidy [--write-baseline]
       cargo xtask docs

tidy    checks dependency directions, file headers, sizes, forbidden words, unsafe code, the two
        READMEs against each other, tables of keys against the code, and links; prints each fault
        as path:line: [rule] message
        --write-baseline  writes today's over-long functions and files to xtask/tidy-baseline.toml
docs    writes the tables in docs/training.md, docs/models.md, docs/serving.md, docs/plan.md and their
        translations anew from the code";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the task found nothing wrong.
fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace_root()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => report(&root),
        ["tidy", "--write-baseline"] => {
            tidy::write_baseline(&root)?;
            Ok(true)
        }
        ["docs"] => {
            tidy::write_docs(&root)?;
            write_plan_tables(&root)
        }
        _ => bail!("{USAGE}"),
    }
}

fn report(root: &Path) -> Result<bool> {
    let faults = tidy::check(root)?;
    for fault in &faults {
        println!("{fault}");
    }
    match faults.len() {
        0 => println!("tidy: nothing to report"),
        count => println!("tidy: {count} fault{}", if count == 1 { "" } else { "s" }),
    }
    Ok(faults.is_empty())
}

/// Has the crate `plan` compute the tables of `docs/plan.md`: its test that compares them also writes them.
fn write_plan_tables(root: &Path) -> Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--quiet", "--package", "plan", "--test", "documents"])
        .env("TAOYE_WRITE_DOCS", "1")
        .current_dir(root)
        .status()
        .context("cannot start cargo")?;
    Ok(status.success())
}

/// The folder that holds this package's folder.
fn workspace_root() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().context("the xtask package lies in the workspace's root")?;
    Ok(root.to_owned())
}
