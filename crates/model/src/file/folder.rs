//! Writing a model as a Hugging Face folder: `config.json` and `model.safetensors`, one tensor at a time. Float tensors keep
//! their types, quantised ones become f32. It must not know the tokenizer.

use super::ModelFile;
use super::place::{Change, Stored};
use crate::{Entry, Error, Storage};
use std::io::Write;
use std::path::Path;
use tensor::Exec;
use tensor::quant::BlockType;

impl ModelFile {
    /// Writes the model into a folder, each file whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_folder(&self, exec: Exec<'_>, folder: &Path) -> Result<(), Error> {
        let entries = self.decoder.layout().entries();
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        let mut start = 0;
        for entry in entries {
            let kind = kind_of(entry, &self.stored(entry));
            let end = start + entry.weight.len() * kind.block_bytes();
            let tensor = serde_json::json!({"dtype": kind.name(), "shape": entry.shape(), "data_offsets": [start, end]});
            header.insert(entry.name.clone(), tensor);
            start = end;
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        base::fs::write_atomic(&folder.join("model.safetensors"), |file| {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            entries.iter().try_for_each(|entry| write_entry(exec, entry, &self.stored(entry), file))
        })?;
        let text = format!("{:#}\n", self.config().to_json());
        base::fs::write_bytes(&folder.join("config.json"), text.as_bytes())?;
        Ok(())
    }
}

/// The type that an entry is written in.
fn kind_of(entry: &Entry, stored: &Stored<'_>) -> BlockType {
    let is_as_stored = stored.change == Change::None && entry.storage == Storage::AsIs;
    if is_as_stored && stored.kind.block_len() == 1 { stored.kind } else { BlockType::F32 }
}

fn write_entry(
    exec: Exec<'_>,
    entry: &Entry,
    stored: &Stored<'_>,
    file: &mut impl Write,
) -> std::io::Result<()> {
    if kind_of(entry, stored) == stored.kind
        && stored.change == Change::None
        && entry.storage == Storage::AsIs
    {
        return (0..stored.rows).try_for_each(|row| file.write_all(stored.row(row)));
    }
    let mut elements = vec![0.0; entry.weight.len()];
    stored.read_f32(exec, &mut elements);
    for elements in entry.store(&elements).chunks(1 << 16) {
        let bytes: Vec<u8> = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
        file.write_all(&bytes)?;
    }
    Ok(())
}
