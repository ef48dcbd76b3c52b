//! `model.safetensors`: reading into and writing from the flat buffer.
//!
//! The format: eight bytes with the header's length, a JSON header, then raw little-endian elements
//! (<https://huggingface.co/docs/safetensors>). It must not know what a tensor is for.

use crate::{Entry, Error, Layout};
use base::fs::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Reads every parameter of `layout` from a folder's safetensors files into `flat`.
///
/// A tensor that the layout lacks is an error, but for those that carry nothing: a tied model's copy of the embedding
/// table and old exports' rotary tables.
pub(crate) fn read_folder(folder: &Path, layout: &Layout, flat: &mut [f32]) -> Result<(), Error> {
    let is_tied = layout.head() == layout.embedding();
    let carries_nothing =
        |name: &str| (is_tied && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq");
    read(&files(folder)?, layout.entries(), &carries_nothing, flat)
}

/// Reads every entry from safetensors files into `flat`; tensors that are no entry are errors unless `may_be_there`.
pub(crate) fn read(
    paths: &[PathBuf],
    entries: &[Entry],
    may_be_there: &dyn Fn(&str) -> bool,
    flat: &mut [f32],
) -> Result<(), Error> {
    let by_name: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let mut missing: BTreeSet<&str> = by_name.keys().copied().collect();
    for path in paths {
        let map = Mmap::open(path)?;
        let file = SafeTensors::deserialize(&map)
            .map_err(|source| Error::weights(path, format!("not a whole safetensors file: {source}")))?;
        // In the order of the names, so that the same damage is always told in the same words.
        let views: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
        for (name, view) in views {
            let Some(entry) = by_name.get(name) else {
                if may_be_there(name) {
                    continue;
                }
                return Err(Error::weights(
                    path,
                    format!("tensor `{name}` is not one that its configuration implies"),
                ));
            };
            if !missing.remove(name) {
                return Err(Error::weights(path, format!("tensor `{name}` appears twice")));
            }
            if view.shape() != entry.shape() {
                let (found, wanted) = (view.shape(), entry.shape());
                let reason =
                    format!("tensor `{name}` has shape {found:?}, its configuration implies {wanted:?}");
                return Err(Error::weights(path, reason));
            }
            widen(&view, entry.weight.of_mut(flat)).map_err(|reason| {
                Error::weights(path, format!("tensor `{name}` {reason}; f32, f16 and bf16 are supported"))
            })?;
        }
    }
    match missing.first() {
        None => Ok(()),
        Some(name) => {
            let reason = format!("{} tensors are missing, the first is `{name}`", missing.len());
            Err(Error::weights(first(paths), reason))
        }
    }
}

/// Refuses files that are too short for the parameters even at two bytes each, before memory is taken for them.
/// `configuration` is the file that says how many there are.
pub(crate) fn check_size(paths: &[PathBuf], parameters: usize, configuration: &str) -> Result<(), Error> {
    let mut bytes = 0;
    for path in paths {
        bytes += std::fs::metadata(path).map_err(|source| Error::read(path, source))?.len();
    }
    if bytes / 2 >= parameters as u64 {
        return Ok(());
    }
    let reason = format!(
        "the weights are {bytes} bytes, but {configuration} implies {parameters} parameters: one of the two files is \
         damaged or belongs to another model; copy the folder again"
    );
    Err(Error::weights(first(paths), reason))
}

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
        for elements in flat.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
            file.write_all(&bytes)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The folder's safetensors files: the single one, or those that its index names.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let single = folder.join("model.safetensors");
    let index = folder.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    let text = std::fs::read_to_string(&index).map_err(|source| Error::read(&index, source))?;
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index =
        serde_json::from_str(&text).map_err(|source| Error::weights(&index, source.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).components().count() != 1) {
        return Err(Error::weights(&index, format!("the shard name `{name}` leads out of the folder")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn first(paths: &[PathBuf]) -> &Path {
    paths.first().map_or(Path::new(""), PathBuf::as_path)
}

fn widen(view: &TensorView<'_>, elements: &mut [f32]) -> Result<(), String> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => {
            for (element, bytes) in elements.iter_mut().zip(data.as_chunks::<4>().0) {
                *element = f32::from_le_bytes(*bytes);
            }
        }
        Dtype::BF16 => {
            for (element, bytes) in elements.iter_mut().zip(data.as_chunks::<2>().0) {
                *element = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        Dtype::F16 => {
            for (element, bytes) in elements.iter_mut().zip(data.as_chunks::<2>().0) {
                *element = half::f16::from_le_bytes(*bytes).to_f32();
            }
        }
        other => return Err(format!("has the type {other:?}")),
    }
    Ok(())
}
