//! Writes `check.json` for `fixtures/check_saved_model.py`: the logits after the last of some ids of a model folder, or of
//! a PEFT folder over it, into the folder that is checked.
//!
//! Usage: `cargo run --release -p model --example check -- FOLDER [--adapter FOLDER] ID [ID…]`

use model::{Adapters, Parameters, Pass, Weights};
use std::path::PathBuf;
use tensor::{Batch, Device, Isa};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let folder = PathBuf::from(arguments.next().ok_or("give a model folder and token ids")?);
    let adapter = match arguments.next_if(|argument| argument == "--adapter") {
        Some(_) => Some(PathBuf::from(arguments.next().ok_or("give a PEFT folder after --adapter")?)),
        None => None,
    };
    let ids = arguments.map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;
    let device = Device::cpu(2, Isa::from_environment()?)?;
    let Parameters { decoder, flat } = Parameters::load(&device, &folder)?;
    let adapters = adapter.as_ref().map(|folder| Adapters::load(&device, &decoder, folder)).transpose()?;
    let weights = Weights { base: flat.data(), adapters: adapters.as_ref() };
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let document = 0..ids.len();
    let batch = Batch { positions: &positions, documents: std::slice::from_ref(&document) };
    let logits = Pass::new(&device, &decoder, ids.len()).logits(&decoder, weights, &ids, batch);
    let rows: Vec<&[f32]> = logits.chunks(decoder.config().vocab_size).collect();
    let text = serde_json::json!({"ids": ids, "logits_rows": rows}).to_string();
    base::fs::write_bytes(&adapter.unwrap_or(folder).join("check.json"), text.as_bytes())?;
    Ok(())
}
