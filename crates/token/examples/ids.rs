//! Encodes texts with any tokenizer, to be set beside those of other programs: `ids TOKENIZER < TEXTS`, both lines of JSON. Each
//! line in is a text, each line out has its ids, those with special tokens, and what the latter decode to. How long loading
//! and encoding took goes to the error output.

use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::json;
use token::{SpecialTokens, StreamDecoder, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: ids TOKENIZER < TEXTS")?;
    let mut load_s = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        Tokenizer::load(&path)?;
        load_s.push(start.elapsed().as_secs_f64());
    }
    load_s.sort_by(f64::total_cmp);
    let tokenizer = Tokenizer::load(&path)?;
    let texts: Vec<String> = std::io::stdin()
        .lock()
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let ids: usize = texts.iter().map(|text| tokenizer.encode(text).len()).sum();
        seconds.push(start.elapsed().as_secs_f64());
        if seconds.len() == 3 {
            seconds.sort_by(f64::total_cmp);
            let rate = bytes as f64 / 1e6 / seconds[1];
            eprintln!(
                "loaded {} ids in {:.3} s; {ids} ids at {rate:.1} MB/s (first {:.1})",
                tokenizer.vocab_size(),
                load_s[1],
                bytes as f64 / 1e6 / seconds[2]
            );
        }
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    writeln!(
        out,
        "{}",
        json!({"opening": tokenizer.opening_ids(), "closing": tokenizer.closing_ids(), "ends": tokenizer.end_ids()})
    )?;
    for text in &texts {
        let special = tokenizer.encode_with_special(text);
        let decoded = tokenizer.decode(&special);
        let mut stream = StreamDecoder::new(&tokenizer, SpecialTokens::Show);
        let mut streamed: String = special.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, decoded);
        writeln!(out, "{}", json!({"ids": tokenizer.encode(text), "special": special, "decoded": decoded}))?;
    }
    Ok(())
}
