//! Writes `check.json` for `fixtures/check_saved_model.py`: the logits after the last of some ids of a model folder.
//!
//! Usage: `cargo run --release -p model --example check -- FOLDER ID [ID…]`

use model::{Parameters, Pass};
use std::path::PathBuf;
use tensor::{Batch, Device, Isa};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give a model folder and token ids")?);
    let ids = arguments.map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;
    let device = Device::cpu(2, Isa::from_environment()?)?;
    let Parameters { decoder, flat } = Parameters::load(&device, &folder)?;
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let document = 0..ids.len();
    let batch = Batch { positions: &positions, documents: std::slice::from_ref(&document) };
    let logits = Pass::new(&device, &decoder, ids.len()).logits(&decoder, flat.data(), &ids, batch);
    let rows: Vec<&[f32]> = logits.chunks(decoder.config().vocab_size).collect();
    let text = serde_json::json!({"ids": ids, "logits_rows": rows}).to_string();
    base::fs::write_bytes(&folder.join("check.json"), text.as_bytes())?;
    Ok(())
}
