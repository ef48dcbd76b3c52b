//! Times training and encoding on a text file, as `bench/tokenizer.py` does for the peers:
//! `bench TEXT VOCAB FOLDER` trains, saves into FOLDER and encodes; prints one JSON object.

use std::time::Instant;

use token::{Tokenizer, TrainOptions, WordCounts};

const DOCUMENT_BYTES: usize = 20_000;
const ENCODE_BYTES: usize = 20_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: bench TEXT VOCAB FOLDER";
    let (path, vocab, folder) = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(path), Some(vocab), Some(folder)) => (path, vocab.parse::<usize>()?, folder),
        _ => return Err(usage.into()),
    };
    let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    let documents = documents_of(&text);
    let options = TrainOptions { vocab_size: vocab, ..Default::default() };
    for threads in [1, 2] {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut words = WordCounts::default();
        words.add(&documents, options.digits, threads);
        let counted = start.elapsed().as_secs_f64();
        let kinds = words.len();
        let tokenizer = Tokenizer::train_on_counts(words, &options)?;
        let whole = start.elapsed().as_secs_f64();
        println!(
            "{threads} threads: counted {kinds} words in {counted:.2} s, trained in {whole:.2} s; CPU {:.2} s",
            cpu_seconds() - cpu
        );
        tokenizer.save(&folder)?;
    }
    let tokenizer = Tokenizer::load(&folder)?;
    let mut sample = Vec::new();
    let mut size = 0;
    for document in &documents {
        if size >= ENCODE_BYTES {
            break;
        }
        size += document.len();
        sample.push(*document);
    }
    for threads in [1, 2] {
        let mut rates = Vec::new();
        let mut tokens = 0;
        let cpu = cpu_seconds();
        for _ in 0..5 {
            let start = Instant::now();
            tokens = tokenizer.encode_batch(&sample, threads).iter().map(Vec::len).sum();
            rates.push(size as f64 / 1e6 / start.elapsed().as_secs_f64());
        }
        rates.sort_by(f64::total_cmp);
        println!(
            "encode, {threads} threads: {:.1} MB/s (best {:.1}; per CPU second {:.1}), {tokens} tokens",
            rates[2],
            rates[4],
            size as f64 * 5.0 / 1e6 / (cpu_seconds() - cpu)
        );
    }
    let start = Instant::now();
    let pieces: usize = sample.iter().map(|text| token::PreTokens::new(text, 1).count()).sum();
    println!("pre-tokens alone: {:.1} MB/s, {pieces}", size as f64 / 1e6 / start.elapsed().as_secs_f64());
    Ok(())
}

/// CPU seconds of this process, all threads, in steps of 10 ms (`utime` + `stime` of proc(5)).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn documents_of(text: &str) -> Vec<&str> {
    let (mut documents, mut start, mut end) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        end += line.len();
        if end - start >= DOCUMENT_BYTES {
            documents.push(&text[start..end]);
            start = end;
        }
    }
    if start < end {
        documents.push(&text[start..end]);
    }
    documents
}
