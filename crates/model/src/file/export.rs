//! Writing a model as a GGUF file, its matrices as they are or quantised by a [`Mix`], a few rows at a time.
//!
//! It must not know the tokenizer: its keys come with the header that the caller hands over.

use super::mix::{Facts, Mix};
use super::place::{RowOrder, Stored};
use super::{ModelFile, architecture, gguf_config};
use crate::{Entry, Error};
use base::gguf::{TensorStream, Writer};
use std::collections::BTreeMap;
use std::path::Path;
use tensor::Exec;
use tensor::quant::{BlockType, Rows, quantize_on};

/// Elements that are converted at a time.
const CHUNK_ELEMENTS: usize = 1 << 22;

/// A tensor to be written: entries one after the other under one name.
struct Planned<'a> {
    name: String,
    /// Fastest first.
    dimensions: Vec<usize>,
    kind: BlockType,
    parts: Vec<Part<'a>>,
}

/// What a planned tensor is made of.
enum Part<'a> {
    /// A stored matrix, and the order that its rows are to have.
    Stored(Stored<'a>, RowOrder),
    /// Elements that follow from the configuration.
    Elements(Vec<f32>),
}

/// What a written file consists of: for each type its tensors and their bytes.
pub type Composition = BTreeMap<BlockType, (usize, u64)>;

impl ModelFile {
    /// Writes the model as a GGUF file: keys of `header` (the tokenizer's), of the model, and all tensors. Without a mix
    /// matrices keep their types. `on_bytes` is told how many bytes have been written.
    ///
    /// # Errors
    /// When the family has no GGUF form, a weight is no number, or the file cannot be written.
    pub fn write_gguf(
        &self,
        exec: Exec<'_>,
        (path, mut header): (&Path, Writer),
        mix: Option<Mix>,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<Composition, Error> {
        let planned = self.planned(mix)?;
        self.describe(&mut header, mix, &planned)?;
        let mut composition = Composition::new();
        for tensor in &planned {
            let bytes = tensor.bytes();
            header.tensor(&tensor.name, &tensor.dimensions, tensor.kind.number(), bytes);
            let of_kind = composition.entry(tensor.kind).or_default();
            *of_kind = (of_kind.0 + 1, of_kind.1 + bytes);
        }
        let mut stream = header.begin(path)?;
        for tensor in &planned {
            for part in &tensor.parts {
                let told = write_part(exec, tensor.kind, part, &mut |bytes| {
                    on_bytes(bytes.len() as u64);
                    stream_append(&mut stream, bytes)
                });
                told.map_err(|reason| self.named(reason, &tensor.name))?;
            }
        }
        stream.finish()?;
        Ok(composition)
    }

    /// Bytes that [`ModelFile::write_gguf`] will write for the tensors.
    ///
    /// # Errors
    /// When the family has no GGUF form.
    pub fn gguf_bytes(&self, mix: Option<Mix>) -> Result<u64, Error> {
        Ok(self.planned(mix)?.iter().map(Planned::bytes).sum())
    }

    fn named(&self, error: Error, tensor: &str) -> Error {
        match error {
            Error::Tensor(source) => {
                Error::weights(&self.path, format!("tensor `{tensor}` cannot be quantised: {source}"))
            }
            error => error,
        }
    }

    fn planned(&self, mix: Option<Mix>) -> Result<Vec<Planned<'_>>, Error> {
        let mut planned = match self.gguf() {
            Some(_) => self.planned_as_stored(),
            None => self.planned_by_entries()?,
        };
        for tensor in &mut planned {
            tensor.kind = self.kind_of(tensor, mix);
        }
        Ok(planned)
    }

    /// A GGUF file's tensors as they are, whatever they are for.
    fn planned_as_stored(&self) -> Vec<Planned<'_>> {
        let Some(file) = self.gguf() else { return Vec::new() };
        let known = file.tensors().iter().filter_map(|info| {
            let raw = self.container.find(&info.name)?;
            Some((info, (*raw.kind.as_ref().ok()?, raw)))
        });
        let planned = known.map(|(info, (kind, raw))| {
            let rows = info.dimensions[1..].iter().product();
            let stored = Stored::whole(kind, (rows, info.dimensions[0]), self.container.bytes(raw));
            let parts = vec![Part::Stored(stored, RowOrder::AsStored)];
            Planned { name: info.name.clone(), dimensions: info.dimensions.clone(), kind, parts }
        });
        planned.collect()
    }

    /// The layout's entries under GGUF's names; experts' matrices together.
    fn planned_by_entries(&self) -> Result<Vec<Planned<'_>>, Error> {
        let config = self.config();
        let mut planned: Vec<Planned<'_>> = Vec::new();
        let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.decoder.layout().entries() {
            let place = architecture::place(config, entry).ok_or_else(|| {
                Error::weights(&self.path, format!("GGUF has no name for the tensor `{}`", entry.name))
            })?;
            let stored = self.stored(entry);
            let part = Part::Stored(stored, place.order);
            match by_name.get(&place.name) {
                Some(&index) => planned[index].parts.push(part),
                None => {
                    by_name.insert(place.name.clone(), planned.len());
                    let dimensions = place.shape.iter().rev().copied().collect();
                    planned.push(Planned {
                        name: place.name,
                        dimensions,
                        kind: stored.kind,
                        parts: vec![part],
                    });
                }
            }
        }
        for (name, elements) in gguf_config::rotary_tensors(config) {
            let dimensions = vec![elements.len()];
            let parts = vec![Part::Elements(elements)];
            planned.push(Planned { name: name.to_owned(), dimensions, kind: BlockType::F32, parts });
        }
        Ok(planned)
    }

    /// The type that a mix gives a matrix, whatever it is stored as.
    pub fn type_in(&self, mix: Mix, entry: &Entry) -> BlockType {
        match architecture::place(self.config(), entry) {
            Some(place) => {
                let dimensions: Vec<usize> = place.shape.iter().rev().copied().collect();
                mix.of(self.facts(&place.name, &dimensions))
            }
            None => self.stored(entry).kind,
        }
    }

    fn facts<'a>(&self, name: &'a str, dimensions: &'a [usize]) -> Facts<'a> {
        let config = self.config();
        let is_80 = config.layers == 80;
        let is_70b = match architecture::Architecture::of(config.family).name {
            "llama" => is_80 && config.heads != config.kv_heads,
            "qwen2" => is_80,
            _ => false,
        };
        Facts {
            name,
            dimensions,
            layers: config.layers,
            group: config.heads / config.kv_heads,
            experts: gguf_config::experts(config),
            is_tied: config.tie_embeddings,
            is_70b,
        }
    }

    fn kind_of(&self, tensor: &Planned<'_>, mix: Option<Mix>) -> BlockType {
        let facts = self.facts(&tensor.name, &tensor.dimensions);
        match mix {
            Some(mix) => mix.of(facts),
            // llama.cpp computes with vectors, routers and the like in f32 alone.
            None if self.gguf().is_none() && Mix::F16.of(facts) == BlockType::F32 => BlockType::F32,
            None => tensor.kind,
        }
    }

    /// Sets the keys that tell what the model is and how it is stored.
    fn describe(&self, header: &mut Writer, mix: Option<Mix>, planned: &[Planned<'_>]) -> Result<(), Error> {
        match self.gguf() {
            Some(file) => {
                let copied = |key: &&str| !key.starts_with("split.");
                for key in file.keys().filter(copied) {
                    header.set(key, file.get(key).expect("a file has its keys"));
                }
            }
            None => gguf_config::write(self.config(), header)
                .map_err(|reason| Error::Config { path: self.path.clone(), reason })?,
        }
        if let Some(number) = mix.map(Mix::number).or_else(|| float_number(planned)) {
            header.set("general.file_type", number);
        }
        header.set("general.quantization_version", 2u32);
        Ok(())
    }
}

impl Planned<'_> {
    fn bytes(&self) -> u64 {
        let row = self.kind.row_bytes(self.dimensions[0]).expect("the type was chosen for these rows");
        (row * self.dimensions[1..].iter().product::<usize>()) as u64
    }
}

/// The file type of a model whose matrices all have the same float type.
fn float_number(planned: &[Planned<'_>]) -> Option<u32> {
    let matrices = planned.iter().filter(|tensor| tensor.dimensions.len() > 1);
    let mut kinds: Vec<BlockType> = matrices.map(|tensor| tensor.kind).collect();
    kinds.retain(|kind| *kind != BlockType::F32);
    kinds.dedup();
    match kinds[..] {
        [] => Some(0),
        [BlockType::F16] => Some(1),
        [BlockType::BF16] => Some(32),
        _ => None,
    }
}

fn write_part(
    exec: Exec<'_>,
    kind: BlockType,
    part: &Part<'_>,
    append: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let (stored, order) = match part {
        Part::Stored(stored, order) => (stored, *order),
        Part::Elements(elements) => {
            return append(&elements.iter().flat_map(|element| element.to_le_bytes()).collect::<Vec<u8>>());
        }
    };
    if stored.kind == kind && stored.is_plain() && order == RowOrder::AsStored {
        return append(stored.bytes);
    }
    let columns = stored.columns;
    let rows_at_once = (CHUNK_ELEMENTS / columns).clamp(1, stored.rows);
    let mut elements = vec![0.0; rows_at_once * columns];
    let row_bytes = kind.row_bytes(columns).expect("the type was chosen for these rows");
    let mut bytes = vec![0; rows_at_once * row_bytes];
    for start in (0..stored.rows).step_by(rows_at_once) {
        let count = rows_at_once.min(stored.rows - start);
        let (elements, bytes) = (&mut elements[..count * columns], &mut bytes[..count * row_bytes]);
        exec.pool().run_slices(elements, columns, &|at, row, _| {
            stored.read_row(order.entry(start + at / columns), row);
        });
        quantize_on(exec.pool(), kind, Rows { values: elements, columns, importance: None }, bytes)?;
        append(bytes)?;
    }
    Ok(())
}

fn stream_append(stream: &mut TensorStream, bytes: &[u8]) -> Result<(), Error> {
    Ok(stream.append(bytes)?)
}

#[cfg(test)]
mod tests;
