//! The weights as the engine reads them: matrices packed for products in the type that their file has, tables looked up
//! in the file itself, gains and biases plain. Knows neither the model's structure nor how a product is computed.

mod packing;
mod repack_cache;

pub(crate) use repack_cache::RepackCache;

use std::collections::BTreeMap;

use model::{ModelFile, Parameters};
use tensor::gemm::{Into, MatMut, MatRef, PackedRef, PanelType, gemm_packed, packed_bytes};
use tensor::quant::{BlockType, QuantMatrix, QuantRows, multiply};
use tensor::{AlignedBuffer, Device, Exec, Isa, Weight, kernels};

use crate::Result;
pub(crate) use packing::Plan;

/// Parts of one product: query, key and value.
const PARTS_MAX: usize = 4;
/// Up to this many rows a product is as long as reading its weights takes.
const FEW_ROWS: usize = 4;

/// All weights of a model, by their place in the decoder's flat buffer.
pub(crate) struct Weights {
    /// Matrices of products.
    products: BTreeMap<usize, Vec<Part>>,
    /// Gains, biases and tables that are held as they are.
    plain: BTreeMap<usize, Vec<f32>>,
    /// Where rows of the embedding table are read.
    file: Option<ModelFile>,
}

/// Outputs of one product that are stored alike.
pub(crate) struct Part {
    pub shape: PartShape,
    pub bytes: AlignedBuffer,
}

/// What a part holds and how it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartShape {
    pub packing: Packing,
    pub outputs: usize,
    pub inputs: usize,
}

/// How weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Panels of floating-point numbers.
    Dense(PanelType),
    /// Panels of blocks, multiplied as integers.
    Blocks(BlockType),
}

impl Weights {
    /// Packs f32 weights that lie in memory.
    pub fn pack(parameters: &Parameters, device: &Device) -> Self {
        let (layout, flat) = (parameters.decoder.layout(), parameters.flat.data());
        let matrices = layout.matrices();
        let products = matrices.iter().map(|weight| {
            let shape = PartShape {
                packing: Packing::Dense(PanelType::F32),
                outputs: weight.rows,
                inputs: weight.cols,
            };
            (weight.offset, vec![packing::pack_f32(device.exec(), shape, weight.of(flat))])
        });
        let products = products.collect();
        let in_product = |offset: usize| matrices.iter().any(|matrix| matrix.range().contains(&offset));
        let plain = layout.entries().iter().map(|entry| entry.weight);
        let plain = plain.filter(|weight| !in_product(weight.offset) || *weight == layout.embedding());
        let plain = plain.map(|weight| (weight.offset, weight.of(flat).to_vec())).collect();
        Self { products, plain, file: None }
    }

    /// Packs the weights of a file in the types that it has, or takes them packed from the cache.
    ///
    /// # Errors
    /// The file's weights cannot be read.
    pub fn open(file: ModelFile, device: &Device, plan: &Plan, cache: &RepackCache) -> Result<Self> {
        let products = cache.load_or_pack(device.exec(), &file, plan)?;
        let mut plain = BTreeMap::new();
        for entry in plan.plain.iter().map(|&index| &file.decoder().layout().entries()[index]) {
            let mut values = vec![0.0; entry.weight.len()];
            file.stored(entry).read_f32(device.exec(), &mut values);
            plain.insert(entry.weight.offset, values);
        }
        Ok(Self { products, plain, file: Some(file) })
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.product_bytes()
            + self.plain.values().map(|values| values.len() * size_of::<f32>()).sum::<usize>()
    }

    /// Bytes of the matrices of products.
    pub fn product_bytes(&self) -> usize {
        self.products.values().flatten().map(|part| part.bytes.as_bytes().len()).sum()
    }

    /// Whether most of the products' bytes are blocks.
    pub fn is_quantized(&self) -> bool {
        let blocks = self.products.values().flatten().filter(|part| part.is_blocks());
        2 * blocks.map(|part| part.bytes.as_bytes().len()).sum::<usize>() > self.product_bytes()
    }

    /// A gain or a bias; what lies side by side in the flat buffer is asked for in one piece.
    pub fn plain(&self, weight: Weight) -> std::borrow::Cow<'_, [f32]> {
        let values = &self.plain[&weight.offset];
        if values.len() >= weight.len() {
            return values[..weight.len()].into();
        }
        let mut all = Vec::with_capacity(weight.len());
        let pieces = self.plain.range(weight.range()).map(|(_, values)| values);
        pieces.for_each(|values| all.extend_from_slice(values));
        all.into()
    }

    /// Rows of a table chosen by ids: `out` (ids, columns).
    pub fn look_up(&self, exec: Exec<'_>, table: Weight, ids: &[u32], out: &mut [f32]) {
        if let Some(values) = self.plain.get(&table.offset) {
            return kernels::gather_rows(exec, values, ids, out);
        }
        let file = self.file.as_ref().expect("a table that is not held lies in a file");
        let entry = file
            .decoder()
            .layout()
            .entries()
            .iter()
            .find(|entry| entry.weight == table)
            .expect("a table is an entry");
        let stored = file.stored(entry);
        for (&id, row) in ids.iter().zip(out.chunks_exact_mut(table.cols)) {
            stored.read_row(id as usize, row);
        }
    }

    /// Tells idle threads which matrix comes next: the one that lies next, but for experts. Dense ones are not divided in the same
    /// way.
    fn foresee(&self, exec: Exec<'_>, weight: Weight) {
        let Some((_, parts)) = self.products.range(weight.offset + 1..).next() else { return };
        if !parts.iter().all(Part::is_blocks) {
            return;
        }
        let mut bytes: [&[u8]; PARTS_MAX] = [&[]; PARTS_MAX];
        bytes.iter_mut().zip(parts).for_each(|(bytes, part)| *bytes = part.bytes.as_bytes());
        exec.pool().foresee(&bytes);
    }

    /// `x · wᵀ`: (rows, inputs) → `out` (rows, outputs). `quantized` is room for the rows as integers.
    pub fn product(
        &self,
        exec: Exec<'_>,
        (x, rows): (&[f32], usize),
        weight: Weight,
        (out, quantized): (&mut [f32], &mut QuantRows),
    ) {
        let parts = &self.products[&weight.offset];
        if rows <= FEW_ROWS {
            self.foresee(exec, weight);
        }
        if parts.iter().any(Part::is_blocks) {
            quantized.quantize(exec, x, rows, weight.cols);
        }
        let (mut column, mut rest) = (0, parts.as_slice());
        while let Some(first) = rest.first() {
            let blocks = rest.iter().take(PARTS_MAX).take_while(|part| part.is_blocks()).count();
            let (group, others) = rest.split_at(blocks.max(1));
            let outputs: usize = group.iter().map(|part| part.shape.outputs).sum();
            let c = MatMut::with_row_stride(&mut out[column..], rows, outputs, weight.rows);
            match first.shape.packing {
                Packing::Dense(_) => {
                    let x = MatRef::new(x, rows, weight.cols);
                    gemm_packed(exec, x, first.dense(exec), c, Into::Overwrite);
                }
                Packing::Blocks(_) => {
                    let mut matrices = [first.blocks(); PARTS_MAX];
                    matrices.iter_mut().zip(group).for_each(|(place, part)| *place = part.blocks());
                    multiply(exec, quantized, &matrices[..blocks], c, Into::Overwrite);
                }
            }
            (column, rest) = (column + outputs, others);
        }
    }
}

impl Part {
    fn is_blocks(&self) -> bool {
        matches!(self.shape.packing, Packing::Blocks(_))
    }

    fn dense(&self, exec: Exec<'_>) -> PackedRef<'_> {
        let PartShape { packing, outputs, inputs } = self.shape;
        let Packing::Dense(panels) = packing else { unreachable!("asked for dense parts alone") };
        let bytes = &self.bytes.as_bytes()[..self.shape.bytes(exec.isa())];
        PackedRef::from_bytes(exec.isa(), panels, (inputs, outputs), bytes)
            .expect("a part has the size of its shape, in an aligned buffer")
    }

    fn blocks(&self) -> QuantMatrix<'_> {
        let PartShape { packing, outputs, inputs } = self.shape;
        let Packing::Blocks(kind) = packing else { unreachable!("asked for parts of blocks alone") };
        let bytes = QuantMatrix::packed_bytes(kind, outputs, inputs).expect("the plan checked the type");
        QuantMatrix::new(kind, outputs, inputs, &self.bytes.as_bytes()[..bytes])
    }
}

impl PartShape {
    /// Bytes of the packed part.
    pub fn bytes(self, isa: Isa) -> usize {
        match self.packing {
            Packing::Dense(panels) => packed_bytes(isa, panels, (self.inputs, self.outputs)),
            Packing::Blocks(kind) => QuantMatrix::packed_bytes(kind, self.outputs, self.inputs)
                .expect("a plan has supported types alone"),
        }
    }
}
