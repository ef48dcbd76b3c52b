//! The tensors of a GGUF file or of safetensors files, by name, as typed bytes of a memory map.
//!
//! Sizes are checked here: each tensor's bytes are as many as its type and shape ask for. It must not know what a
//! tensor is for.

use crate::Error;
use base::fs::Mmap;
use base::gguf;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tensor::quant::BlockType;

/// Named tensors over memory maps.
pub(crate) struct Container {
    source: Source,
    tensors: BTreeMap<String, RawTensor>,
}

enum Source {
    Gguf(gguf::File),
    Safetensors(Vec<(PathBuf, Mmap)>),
}

/// A tensor as it is stored.
pub(crate) struct RawTensor {
    /// The elements' type; where this crate does not know it, its name.
    pub(crate) kind: Result<BlockType, String>,
    /// Elements of each axis, the fastest last.
    pub(crate) shape: Vec<usize>,
    /// Which shard or which entry of the directory.
    index: usize,
    bytes: Range<usize>,
}

impl Container {
    /// The tensors of an opened GGUF file.
    ///
    /// # Errors
    /// A tensor overlaps the next or the file was cut short.
    pub(crate) fn gguf(file: gguf::File) -> Result<Container, Error> {
        let mut tensors = BTreeMap::new();
        for (index, info) in file.tensors().iter().enumerate() {
            let kind = BlockType::from_number(info.type_number)
                .ok_or_else(|| format!("of number {}", info.type_number));
            let shape: Vec<usize> = info.dimensions.iter().rev().copied().collect();
            let bytes = match kind {
                Ok(kind) => 0..gguf_bytes(&file, info, kind)?,
                Err(_) => 0..0,
            };
            tensors.insert(info.name.clone(), RawTensor { kind, shape, index, bytes });
        }
        Ok(Container { source: Source::Gguf(file), tensors })
    }

    /// The tensors of safetensors files together.
    ///
    /// # Errors
    /// A file cannot be read, is damaged, or a tensor appears twice.
    pub(crate) fn safetensors(paths: &[PathBuf]) -> Result<Container, Error> {
        let mut tensors = BTreeMap::new();
        let mut files = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let map = Mmap::open(path).map_err(|error| match error {
                base::Error::Io { path, source, .. } => Error::Read { path, source },
                error => error.into(),
            })?;
            let damaged = |source: safetensors::SafeTensorError| {
                Error::weights(path, format!("not a whole safetensors file: {source}"))
            };
            let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
            let data = 8 + header_bytes; // after the header's length, eight bytes
            for (name, info) in metadata.tensors() {
                let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
                let tensor = RawTensor { kind: kind_of(info.dtype), shape: info.shape.clone(), index, bytes };
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(Error::weights(path, format!("tensor `{name}` appears twice")));
                }
            }
            files.push((path.clone(), map));
        }
        Ok(Container { source: Source::Safetensors(files), tensors })
    }

    /// The GGUF file, if it is one.
    pub(crate) fn as_gguf(&self) -> Option<&gguf::File> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            Source::Safetensors(_) => None,
        }
    }

    /// A tensor by its name.
    pub(crate) fn find(&self, name: &str) -> Option<&RawTensor> {
        self.tensors.get(name)
    }

    /// All tensors in the order of their names.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &RawTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// A tensor's elements.
    pub(crate) fn bytes(&self, tensor: &RawTensor) -> &[u8] {
        match &self.source {
            Source::Gguf(file) => &file.bytes(&file.tensors()[tensor.index])[tensor.bytes.clone()],
            Source::Safetensors(files) => &files[tensor.index].1[tensor.bytes.clone()],
        }
    }

    /// Gives back the memory of what was read.
    pub(crate) fn release(&self) {
        match &self.source {
            Source::Gguf(file) => file.release(),
            Source::Safetensors(files) => files.iter().for_each(|(_, map)| map.release()),
        }
    }

    /// Bytes of all files together.
    pub(crate) fn len_bytes(&self) -> u64 {
        match &self.source {
            Source::Gguf(file) => file.len_bytes(),
            Source::Safetensors(files) => files.iter().map(|(_, map)| map.len() as u64).sum(),
        }
    }

    /// The files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match &self.source {
            Source::Gguf(file) => file.paths(),
            Source::Safetensors(files) => files.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// An error that names the file of a tensor, or the first file.
    pub(crate) fn error(&self, tensor: Option<&RawTensor>, reason: String) -> Error {
        match &self.source {
            Source::Gguf(file) => Error::weights(file.path(), reason),
            Source::Safetensors(files) => {
                let file = files.get(tensor.map_or(0, |tensor| tensor.index));
                Error::weights(file.map_or(Path::new(""), |(path, _)| path), reason)
            }
        }
    }
}

/// A folder's safetensors files: the single one, or those that its index names.
pub(crate) fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
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

/// Bytes that a GGUF tensor's type and dimensions ask for; refused where there are fewer.
fn gguf_bytes(file: &gguf::File, info: &gguf::TensorInfo, kind: BlockType) -> Result<usize, Error> {
    let (name, columns) = (&info.name, info.dimensions[0]);
    let rows: usize = info.dimensions[1..].iter().product();
    let bytes = kind.row_bytes(columns).and_then(|bytes| bytes.checked_mul(rows)).ok_or_else(|| {
        let (kind, block) = (kind.name(), kind.block_len());
        file.error(format!(
            "tensor `{name}` has rows of {columns} elements, which is no whole number of {kind}'s blocks of {block}"
        ))
    })?;
    let room = file.bytes(info).len();
    if room < bytes {
        return Err(file.error(format!(
            "tensor `{name}` needs {bytes} bytes and has {room}: it overlaps the next, or the file was cut short; get \
             the file again"
        ))
        .into());
    }
    Ok(bytes)
}

fn kind_of(dtype: Dtype) -> Result<BlockType, String> {
    match dtype {
        Dtype::F32 => Ok(BlockType::F32),
        Dtype::F16 => Ok(BlockType::F16),
        Dtype::BF16 => Ok(BlockType::BF16),
        other => Err(format!("{other:?}")),
    }
}
