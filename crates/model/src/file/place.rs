//! Where an entry of a layout lies in a file: which tensor, which of its rows, and what is to be done to them.
//!
//! It must not know which family gives which names; that is what [`Candidate`]s say.

use super::container::{Container, RawTensor};
use crate::{Entry, Error};
use std::collections::BTreeSet;
use tensor::Exec;
use tensor::quant::{BlockType, dequantize};

/// A tensor that may hold an entry: its name and the shape that it has then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// The whole stored tensor's shape, the fastest axis last.
    pub(crate) shape: Vec<usize>,
    /// The entry's first row among the stored tensor's (with [`Change::Transposed`]: its first column).
    pub(crate) first_row: usize,
    pub(crate) order: RowOrder,
    pub(crate) change: Change,
}

impl Candidate {
    /// The entry as it is, under a name.
    pub(crate) fn whole(name: impl Into<String>, entry: &Entry) -> Candidate {
        let (order, change) = (RowOrder::AsStored, Change::None);
        Candidate { name: name.into(), shape: entry.shape(), first_row: 0, order, change }
    }
}

/// The order in which a stored tensor has an entry's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Row r is stored row r.
    AsStored,
    /// The two halves of each head's rows are interleaved, as llama.cpp wants them where the rotary embedding turns
    /// neighbouring elements: row h·d + s·d/2 + i is stored row h·d + 2·i + s, for heads of d rows and s of 0 or 1.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row of an entry's row.
    pub fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::AsStored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (side, index) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * index + side
            }
        }
    }

    /// The entry's row of a stored row.
    pub fn entry(self, stored: usize) -> usize {
        match self {
            RowOrder::AsStored => stored,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (stored / head_dim, stored % head_dim);
                head * head_dim + within % 2 * (head_dim / 2) + within / 2
            }
        }
    }
}

/// What is to be done to a stored tensor's elements; only tensors of f32, f16 and bf16 have anything done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// 1 is added to each: Hugging Face's Gemma stores w where the gain is 1 + w.
    PlusOne,
    /// The stored tensor is (columns, rows): GPT-2's `Conv1D`.
    Transposed,
}

/// An entry's rows as a file holds them, borrowed from its memory map.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The elements' type.
    pub kind: BlockType,
    /// Rows of the entry.
    pub rows: usize,
    /// Columns of the entry.
    pub columns: usize,
    /// Where each row is.
    pub order: RowOrder,
    /// What is to be done to the elements.
    pub change: Change,
    /// The entry's rows in the order of the file; with [`Change::Transposed`] the whole stored tensor.
    pub bytes: &'a [u8],
    /// Of a transposed tensor: the columns that are stored, and the first that is the entry's.
    transposed: (usize, usize),
}

impl<'a> Stored<'a> {
    /// A whole matrix of (rows, columns) as it is.
    pub(crate) fn whole(kind: BlockType, (rows, columns): (usize, usize), bytes: &'a [u8]) -> Stored<'a> {
        let (order, change) = (RowOrder::AsStored, Change::None);
        Stored { kind, rows, columns, order, change, bytes, transposed: (0, 0) }
    }

    /// A row of the entry as it is stored.
    ///
    /// # Panics
    /// There is no such row, or the tensor is transposed.
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(self.change != Change::Transposed, "a transposed tensor has no rows that lie together");
        let bytes = self.bytes.len() / self.rows;
        let stored = self.order.stored(row);
        &self.bytes[stored * bytes..(stored + 1) * bytes]
    }

    /// Whether [`Stored::bytes`] are the entry's rows one after the other, and nothing is to be done to them.
    pub fn is_plain(&self) -> bool {
        self.order == RowOrder::AsStored && self.change == Change::None
    }

    /// The entry as f32, (rows, columns), whatever is to be done to it done.
    ///
    /// # Panics
    /// `out` has another length.
    pub fn read_f32(&self, exec: Exec<'_>, out: &mut [f32]) {
        assert_eq!(out.len(), self.rows * self.columns, "the place is as large as the entry");
        let grain = self.columns * (1usize << 14).div_ceil(self.columns);
        exec.pool().run_slices(out, grain, &|start, elements, _| {
            for (index, elements) in elements.chunks_exact_mut(self.columns).enumerate() {
                self.read_row(start / self.columns + index, elements);
            }
        });
    }

    /// A row of the entry as f32, whatever is to be done to it done.
    ///
    /// # Panics
    /// There is no such row, or `out` has another length.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        match self.change {
            Change::None => dequantize(self.kind, self.row(row), out),
            Change::PlusOne => {
                dequantize(self.kind, self.row(row), out);
                out.iter_mut().for_each(|element| *element += 1.0);
            }
            Change::Transposed => {
                let (stored_columns, first) = self.transposed;
                let size = self.kind.block_bytes();
                for (column, element) in out.iter_mut().enumerate() {
                    let place = (column * stored_columns + first + row) * size;
                    dequantize(self.kind, &self.bytes[place..place + size], std::slice::from_mut(element));
                }
            }
        }
    }
}

/// The places of a layout's entries, in its order.
pub(crate) struct Places {
    places: Vec<Place>,
}

struct Place {
    tensor: String,
    candidate: Candidate,
    rows: usize,
    columns: usize,
}

impl Places {
    /// Finds every entry's tensor.
    ///
    /// # Errors
    /// A tensor is missing, of another shape or of a type that is not supported, or there is one that no entry asks
    /// for and that `may_be_there` does not let pass.
    pub(crate) fn resolve(
        container: &Container,
        entries: &[Entry],
        candidates: &dyn Fn(&Entry) -> Vec<Candidate>,
        may_be_there: &dyn Fn(&str) -> bool,
    ) -> Result<Places, Error> {
        let mut used = BTreeSet::new();
        let mut missing = Vec::new();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let candidates = candidates(entry);
            let found =
                candidates.iter().find_map(|candidate| Some((candidate, container.find(&candidate.name)?)));
            let Some((candidate, raw)) = found else {
                missing.push(candidates.first().map_or(entry.name.clone(), |first| first.name.clone()));
                continue;
            };
            check(container, candidate, raw)?;
            used.insert(candidate.name.clone());
            let (rows, columns) = (entry.weight.rows, entry.weight.cols);
            places.push(Place {
                tensor: candidate.name.clone(),
                candidate: candidate.clone(),
                rows,
                columns,
            });
        }
        let stranger = container.tensors().find(|(name, _)| !used.contains(*name) && !may_be_there(name));
        if let Some((name, raw)) = stranger {
            let reason = format!("tensor `{name}` is not one that its configuration implies");
            return Err(container.error(Some(raw), reason));
        }
        match missing.first() {
            None => Ok(Places { places }),
            Some(name) => {
                let reason = format!("{} tensors are missing, the first is `{name}`", missing.len());
                Err(container.error(None, reason))
            }
        }
    }

    /// The entry of an index in the layout.
    pub(crate) fn stored<'a>(&self, container: &'a Container, index: usize) -> Stored<'a> {
        let Place { tensor, candidate, rows, columns } = &self.places[index];
        let raw = container.find(tensor).expect("a place's tensor was found when it was made");
        let kind = *raw.kind.as_ref().expect("a place's type was checked when it was made");
        let whole = container.bytes(raw);
        let (bytes, transposed) = match candidate.change {
            Change::Transposed => {
                (whole, (*candidate.shape.last().expect("it has two axes"), candidate.first_row))
            }
            _ => {
                let row_bytes = kind.row_bytes(*columns).expect("the tensor's rows were checked");
                let first = candidate.first_row * row_bytes;
                (&whole[first..first + rows * row_bytes], (0, 0))
            }
        };
        let (order, change) = (candidate.order, candidate.change);
        Stored { kind, rows: *rows, columns: *columns, order, change, bytes, transposed }
    }
}

/// Checks that a tensor has the shape and a type that its candidate asks for.
fn check(container: &Container, candidate: &Candidate, raw: &RawTensor) -> Result<(), Error> {
    let name = &candidate.name;
    if raw.shape != candidate.shape {
        let (found, wanted) = (&raw.shape, &candidate.shape);
        let reason = format!("tensor `{name}` has shape {found:?}, its configuration implies {wanted:?}");
        return Err(container.error(Some(raw), reason));
    }
    let supported = match (&raw.kind, candidate.change) {
        (Ok(_), Change::None) => return Ok(()),
        (Ok(kind), _) if kind.block_len() == 1 => return Ok(()),
        (_, Change::None) if container.as_gguf().is_some() => {
            BlockType::all().map(BlockType::name).collect::<Vec<_>>().join(", ")
        }
        _ => "f32, f16 and bf16".into(),
    };
    let kind = match &raw.kind {
        Ok(kind) => kind.name(),
        Err(name) => name,
    };
    Err(container.error(Some(raw), format!("tensor `{name}` has the type {kind}; supported: {supported}")))
}
