//! One file of a model: its metadata and its directory of tensors, every count and offset checked against the file's
//! size before anything is allocated for it. It must not know that there are other files.

use super::cursor::Cursor;
use super::value::{Kind, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, DIMENSIONS_MAX, MAGIC};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// More keys or tensors than this are no model.
const ENTRIES_MAX: usize = 1 << 20;
/// Alignments up to this are accepted, in bytes.
const ALIGNMENT_MAX: usize = 1 << 20;

/// What a file's header says.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) version: u32,
    pub(super) alignment: usize,
    /// Where each value lies in the file.
    pub(super) metadata: BTreeMap<String, (Kind, Range<usize>)>,
    /// Keys in the order of the file.
    pub(super) keys: Vec<String>,
    pub(super) tensors: Vec<PartTensor>,
}

/// A tensor of the directory.
#[derive(Debug)]
pub(super) struct PartTensor {
    pub(super) name: String,
    /// Fastest first.
    pub(super) dimensions: Vec<usize>,
    pub(super) type_number: u32,
    /// From the tensor's first byte to where the next tensor or the file's end is.
    pub(super) room: Range<usize>,
}

impl Part {
    /// Reads the header of a whole file's bytes. Errors are sentences without the file's name.
    pub(super) fn parse(bytes: &[u8]) -> Result<Part, String> {
        let mut cursor = Cursor::new(bytes);
        let version = version(&mut cursor)?;
        // A tensor: name 8, dimensions 4 + 8, type 4, offset 8. A pair: key 8, type 4, value 1.
        let tensors = limited(cursor.count("tensors", 32)?, "tensors")?;
        let pairs = limited(cursor.count("metadata keys", 13)?, "metadata keys")?;
        let mut part = Part { version, alignment: DEFAULT_ALIGNMENT, ..Part::default() };
        for _ in 0..pairs {
            part.pair(&mut cursor)?;
        }
        let mut seen = BTreeSet::new();
        for _ in 0..tensors {
            let (tensor, offset) = tensor(&mut cursor)?;
            if !seen.insert(tensor.name.clone()) {
                return Err(format!("the tensor `{}` appears twice", tensor.name));
            }
            part.tensors.push(PartTensor { room: offset..offset, ..tensor });
        }
        part.place(cursor.offset(), bytes.len())?;
        Ok(part)
    }

    fn pair(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let key = cursor.string()?;
        let in_key = |reason| format!("metadata key `{key}`: {reason}");
        let kind = cursor.kind().map_err(in_key)?;
        let start = cursor.offset();
        let value = cursor.value(kind).map_err(in_key)?;
        if key == ALIGNMENT_KEY {
            self.alignment = alignment(value)?;
        }
        if self.metadata.insert(key.to_owned(), (kind, start..cursor.offset())).is_some() {
            return Err(format!("the metadata key `{key}` appears twice"));
        }
        self.keys.push(key.to_owned());
        Ok(())
    }

    /// Turns offsets from the data's start into places in the file, each ending where the next begins.
    fn place(&mut self, header_end: usize, file_len: usize) -> Result<(), String> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let start = header_end.next_multiple_of(self.alignment);
        let mut order: Vec<usize> = (0..self.tensors.len()).collect();
        order.sort_by_key(|&index| self.tensors[index].room.start);
        let mut end = file_len;
        for (later, &index) in order.iter().enumerate().rev() {
            let tensor = &mut self.tensors[index];
            let (name, offset) = (&tensor.name, tensor.room.start);
            if !offset.is_multiple_of(self.alignment) {
                let alignment = self.alignment;
                return Err(format!(
                    "the tensor `{name}` lies at {offset}, no multiple of {alignment} bytes"
                ));
            }
            let place = start.checked_add(offset).filter(|place| *place < file_len).ok_or_else(|| {
                format!("the tensor `{name}` lies at {offset}, after the end of the file; it was cut short")
            })?;
            if place >= end {
                let other = &self.tensors[order[later + 1]].name;
                return Err(format!("the tensors `{}` and `{other}` overlap", self.tensors[index].name));
            }
            tensor.room = place..end;
            end = place;
        }
        Ok(())
    }
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, String> {
    if cursor.take(4).ok() != Some(MAGIC.as_slice()) {
        return Err("it does not begin with `GGUF`".into());
    }
    match cursor.u32()? {
        version @ 2..=3 => Ok(version),
        version if version.swap_bytes() <= 3 => {
            Err("it was written for a big-endian machine; get or convert a little-endian file".into())
        }
        version => Err(format!("its format version is {version}; 2 and 3 are supported")),
    }
}

fn limited(count: usize, what: &str) -> Result<usize, String> {
    match count {
        0..=ENTRIES_MAX => Ok(count),
        _ => Err(format!("it claims {count} {what}; up to {ENTRIES_MAX} are supported")),
    }
}

fn alignment(value: Value<'_>) -> Result<usize, String> {
    let number = value.integer().and_then(|number| usize::try_from(number).ok());
    number.filter(|number| number.is_power_of_two() && *number <= ALIGNMENT_MAX).ok_or_else(|| {
        format!("`{ALIGNMENT_KEY}` is {}; a power of two up to {ALIGNMENT_MAX} is needed", value.describe())
    })
}

/// A tensor without its room, and its offset.
fn tensor(cursor: &mut Cursor<'_>) -> Result<(PartTensor, usize), String> {
    let name = cursor.string()?.to_owned();
    let in_tensor = |reason| format!("tensor `{name}`: {reason}");
    let axes = cursor.u32().map_err(in_tensor)? as usize;
    if !(1..=DIMENSIONS_MAX).contains(&axes) {
        return Err(in_tensor(format!("it has {axes} dimensions; 1 to {DIMENSIONS_MAX} are supported")));
    }
    let mut dimensions = Vec::with_capacity(axes);
    let mut elements = 1usize;
    for _ in 0..axes {
        let dimension = usize::try_from(cursor.u64().map_err(in_tensor)?).unwrap_or(usize::MAX);
        dimensions.push(dimension);
        elements = match elements.checked_mul(dimension) {
            Some(0) => return Err(in_tensor("a dimension is zero".into())),
            // Signed arithmetic on counts of bits must not overflow either.
            Some(product) if product <= isize::MAX as usize / 64 => product,
            _ => return Err(in_tensor(format!("its dimensions {dimensions:?} are too large"))),
        };
    }
    let type_number = cursor.u32().map_err(in_tensor)?;
    let offset = usize::try_from(cursor.u64().map_err(in_tensor)?).unwrap_or(usize::MAX);
    let offset = if offset.checked_add(1).is_none() { usize::MAX - 1 } else { offset };
    Ok((PartTensor { name, dimensions, type_number, room: 0..0 }, offset))
}
