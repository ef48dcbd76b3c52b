//! Trains the small tokenizer of `fixtures/tokenizer` on its `text.txt` and saves it there.

use std::path::Path;

use token::{Tokenizer, TrainOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer");
    let text = std::fs::read_to_string(folder.join("text.txt"))?;
    let options = TrainOptions { vocab_size: 1200, ..Default::default() };
    let mut tokenizer = Tokenizer::train(&[text], &options, 1)?;
    tokenizer.settings.model_max_length = Some(2048);
    tokenizer.save(&folder)?;
    println!("{} entries, fingerprint {}", tokenizer.vocab_size(), tokenizer.fingerprint());
    Ok(())
}
