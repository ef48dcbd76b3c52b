//! Measures the steps one by one on the local crates: `cargo run --release -p corpus --example step_speed`.

use corpus::step::{STEPS, Step, duplicate};
use corpus::{Document, Error, cargo_registry, source};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Error> {
    let listing = cargo_registry::find(&PathBuf::from("."))?;
    let mut documents: Vec<Document> = Vec::new();
    let started = Instant::now();
    for file in &listing.files {
        source::read_file(file, 1 << 20, &mut |result| {
            documents.extend(result.ok());
            true
        });
    }
    let megabytes = documents.iter().map(|document| document.text.len()).sum::<usize>() as f64 / 1e6;
    let report = |name: &str, seconds: f64| println!("{name:<16} {:>8.0} MB/s", megabytes / seconds);
    report("read and decode", started.elapsed().as_secs_f64());
    for (index, step) in STEPS.iter().enumerate() {
        let seconds = best_of_three(|| match step {
            Step::Transform(transform) => documents.iter().for_each(|document| {
                black_box(transform(document));
            }),
            Step::Check(check) => documents.iter().for_each(|document| {
                black_box(check(document));
            }),
        });
        report(&format!("step {index}"), seconds);
    }
    let seconds = best_of_three(|| {
        documents.iter().for_each(|document| {
            black_box(duplicate::key(&document.text));
        })
    });
    report("duplicate", seconds);
    Ok(())
}

fn best_of_three(mut work: impl FnMut()) -> f64 {
    let times = (0..3).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}
