//! How each matrix of a file is packed, and packing it. Knows nothing of caches on disk.

use std::borrow::Cow;

use model::{Change, Entry, ModelFile, Stored};
use tensor::gemm::{HalfMatrix, MatRef, PackedMatrix, PanelType, pack_half};
use tensor::quant::{BlockType, QuantMatrix, Rows, can_quantize, is_supported, quantize_on};
use tensor::{AlignedBuffer, Exec, Weight};

use super::{Packing, Part, PartShape};
use crate::{Error, Result, WeightType};

/// Which entries of a model's layout make up which products, and which are held as f32.
pub(crate) struct Plan {
    pub products: Vec<Product>,
    /// Entries that are no part of a product and no embedding table, by their places in the layout.
    pub plain: Vec<usize>,
}

/// One product and its parts.
pub(crate) struct Product {
    pub weight: Weight,
    pub parts: Vec<PlannedPart>,
}

/// Entries, by their places in the layout, that are packed together.
pub(crate) struct PlannedPart {
    pub entries: Vec<usize>,
    pub shape: PartShape,
}

impl Plan {
    /// The plan for a file.
    pub fn new(file: &ModelFile, weights: WeightType) -> Plan {
        let layout = file.decoder().layout();
        let matrices = layout.matrices();
        let mut products: Vec<Product> =
            matrices.into_iter().map(|weight| Product { weight, parts: Vec::new() }).collect();
        products.sort_by_key(|product| product.weight.offset);
        let mut plain = Vec::new();
        for (index, entry) in layout.entries().iter().enumerate() {
            let of = products.partition_point(|product| product.weight.offset <= entry.weight.offset);
            let product = products[..of].last_mut();
            match product.filter(|product| product.weight.range().contains(&entry.weight.offset)) {
                Some(product) => product.add(index, &file.stored(entry), type_of(file, entry, weights)),
                None if entry.weight == layout.embedding() => {}
                None => plain.push(index),
            }
        }
        Plan { products, plain }
    }

    /// Whether reading the packed weights back saves work: f32 weights are packed as fast as they are read.
    pub fn is_worth_caching(&self) -> bool {
        let mut parts = self.products.iter().flat_map(|product| &product.parts);
        parts.any(|part| part.shape.packing != Packing::Dense(PanelType::F32))
    }

    /// Bytes of all packed matrices.
    pub fn bytes(&self, isa: tensor::Isa) -> usize {
        self.products.iter().flat_map(|product| &product.parts).map(|part| part.shape.bytes(isa)).sum()
    }
}

impl Product {
    /// Adds an entry, to the last part where that is packed alike and as panels of numbers.
    fn add(&mut self, index: usize, stored: &Stored<'_>, weights: WeightType) {
        let packing = packing_of(stored, weights);
        let inputs = stored.columns;
        let is_alike =
            |part: &&mut PlannedPart| part.shape.packing == packing && matches!(packing, Packing::Dense(_));
        match self.parts.last_mut().filter(is_alike) {
            Some(part) => {
                part.entries.push(index);
                part.shape.outputs += stored.rows;
            }
            None => {
                let shape = PartShape { packing, outputs: stored.rows, inputs };
                self.parts.push(PlannedPart { entries: vec![index], shape });
            }
        }
    }
}

/// A mix says of each matrix what it is to be; what it leaves in floating-point numbers stays as it is stored.
fn type_of(file: &ModelFile, entry: &Entry, weights: WeightType) -> WeightType {
    match weights {
        WeightType::Mixed(mix) => match file.type_in(mix, entry) {
            kind if is_float(kind) => WeightType::AsStored,
            kind => WeightType::Quantized(kind),
        },
        weights => weights,
    }
}

/// How a stored matrix is packed: as it is where there is a product for its type, else as f32.
fn packing_of(stored: &Stored<'_>, weights: WeightType) -> Packing {
    if stored.change != Change::None {
        return Packing::Dense(PanelType::F32);
    }
    match weights {
        WeightType::F32 => Packing::Dense(PanelType::F32),
        WeightType::Quantized(kind) if is_float(stored.kind) && fits(kind, stored) && can_quantize(kind) => {
            Packing::Blocks(kind)
        }
        WeightType::Quantized(_) | WeightType::Mixed(_) | WeightType::AsStored => match stored.kind {
            BlockType::F16 => Packing::Dense(PanelType::F16),
            BlockType::BF16 => Packing::Dense(PanelType::Bf16),
            kind if fits(kind, stored) => Packing::Blocks(kind),
            _ => Packing::Dense(PanelType::F32),
        },
    }
}

fn is_float(kind: BlockType) -> bool {
    kind.block_len() == 1
}

fn fits(kind: BlockType, stored: &Stored<'_>) -> bool {
    is_supported(kind) && QuantMatrix::packed_bytes(kind, stored.rows, stored.columns).is_some()
}

/// Packs f32 weights, (outputs, inputs).
pub(super) fn pack_f32(exec: Exec<'_>, shape: PartShape, values: &[f32]) -> Part {
    let packed = PackedMatrix::pack(exec, MatRef::new(values, shape.outputs, shape.inputs).t());
    Part { shape, bytes: packed.into_buffer() }
}

/// Packs a part of a file.
///
/// # Errors
/// A value that is to be quantised is not finite.
pub(super) fn pack(exec: Exec<'_>, file: &ModelFile, part: &PlannedPart) -> Result<Part> {
    let shape = part.shape;
    let entries = file.decoder().layout().entries();
    let stored: Vec<Stored<'_>> = part.entries.iter().map(|&index| file.stored(&entries[index])).collect();
    match shape.packing {
        Packing::Dense(PanelType::F32) => Ok(pack_f32(exec, shape, &values_of(exec, &stored))),
        Packing::Dense(half) => {
            let bytes = bytes_of(&stored);
            let weights = HalfMatrix { bytes: &bytes, half, outputs: shape.outputs, inputs: shape.inputs };
            let mut part = room(exec, shape);
            let length = shape.bytes(exec.isa());
            pack_half(exec, weights, &mut part.bytes.as_bytes_mut()[..length]);
            Ok(part)
        }
        Packing::Blocks(kind) => {
            let mut part = room(exec, shape);
            let length = shape.bytes(exec.isa());
            let bytes = match stored.iter().all(|stored| stored.kind == kind) {
                true => bytes_of(&stored),
                false => quantized(exec, kind, &stored)?.into(),
            };
            let packed = &mut part.bytes.as_bytes_mut()[..length];
            QuantMatrix::pack(exec, kind, shape.inputs, &bytes, packed);
            Ok(part)
        }
    }
}

/// An empty part of a shape.
pub(super) fn room(exec: Exec<'_>, shape: PartShape) -> Part {
    Part { shape, bytes: AlignedBuffer::zeroed(shape.bytes(exec.isa()).div_ceil(size_of::<f32>())) }
}

/// The rows of entries one after the other, borrowed from the file where they lie there so.
fn bytes_of<'a>(stored: &[Stored<'a>]) -> Cow<'a, [u8]> {
    match stored {
        [one] if one.is_plain() => one.bytes.into(),
        all => {
            let rows = all.iter().flat_map(|stored| (0..stored.rows).map(|row| stored.row(row)));
            let mut bytes = Vec::with_capacity(all.iter().map(|stored| stored.bytes.len()).sum());
            rows.for_each(|row| bytes.extend_from_slice(row));
            bytes.into()
        }
    }
}

fn values_of(exec: Exec<'_>, stored: &[Stored<'_>]) -> Vec<f32> {
    let mut values = vec![0.0; stored.iter().map(|stored| stored.rows * stored.columns).sum()];
    let mut rest = values.as_mut_slice();
    for stored in stored {
        let (place, others) = rest.split_at_mut(stored.rows * stored.columns);
        stored.read_f32(exec, place);
        rest = others;
    }
    values
}

fn quantized(exec: Exec<'_>, kind: BlockType, stored: &[Stored<'_>]) -> Result<Vec<u8>> {
    let columns = stored[0].columns;
    let values = values_of(exec, stored);
    let row_bytes = kind.row_bytes(columns).expect("the plan checked that rows are whole blocks");
    let mut bytes = vec![0; values.len() / columns * row_bytes];
    let rows = Rows { values: &values, columns, importance: None };
    quantize_on(exec.pool(), kind, rows, &mut bytes).map_err(Error::Quantize)?;
    Ok(bytes)
}
