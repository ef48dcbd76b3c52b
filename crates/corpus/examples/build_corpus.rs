//! Builds a corpus from folders, or from the local crates where none is given, and prints the report:
//! `cargo run --release -p corpus --example build_corpus -- OUTPUT [FOLDER ...]`.

use base::progress::{Output, Progress, Unit};
use corpus::{Error, Options, build, cargo_registry, list_folders};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Error> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let Some((output, folders)) = arguments.split_first() else {
        eprintln!("usage: build_corpus OUTPUT [FOLDER ...]");
        std::process::exit(2);
    };
    let (listing, options) = if folders.is_empty() {
        (cargo_registry::find(&PathBuf::from("."))?, Options::for_crates())
    } else {
        (list_folders(folders)?, Options::default())
    };
    let started = Instant::now();
    let total = listing.files.iter().map(|file| file.bytes).sum();
    let mut progress = Progress::start(Output::Auto, "corpus", Unit::Bytes, Some(total));
    let report = build(&listing, &options, output, &mut |tick| {
        progress.set(tick.bytes_read);
        ControlFlow::Continue(())
    })?;
    progress.finish();
    println!("{report:#?}");
    println!("{:.1} MB/s of input", report.files.bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
    Ok(())
}
