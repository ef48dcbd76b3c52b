//! `model.safetensors` written from the flat buffer.
//!
//! The format: eight bytes with the header's length, a JSON header, then raw little-endian elements
//! (<https://huggingface.co/docs/safetensors>). It must not know what a tensor is for.

use crate::{Entry, Error};
use std::io::Write;
use std::path::Path;

/// Writes the parameters as f32 under their names, whole or not at all.
pub(crate) fn write(path: &Path, entries: &[Entry], flat: &[f32]) -> Result<(), Error> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    for entry in entries {
        let bytes = entry.weight.range().start * 4..entry.weight.range().end * 4;
        let tensor = serde_json::json!({"dtype": "F32", "shape": entry.shape(), "data_offsets": [bytes.start, bytes.end]});
        header.insert(entry.name.clone(), tensor);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    base::fs::write_atomic(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = Vec::with_capacity(1 << 18);
        for entry in entries {
            let stored = entry.store(entry.weight.of(flat));
            for elements in stored.chunks(1 << 16) {
                bytes.clear();
                bytes.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
                file.write_all(&bytes)?;
            }
        }
        Ok(())
    })?;
    Ok(())
}
