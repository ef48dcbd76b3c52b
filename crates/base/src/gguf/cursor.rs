//! A reader over the bytes of a file that cannot read past their end. It must not know what the bytes are for.

use super::value::{Kind, Value};

/// Arrays of arrays may be nested so deep.
const DEPTH_MAX: usize = 4;

/// What is left to read, with the offset of its start in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, offset: 0 }
    }

    /// Offset in bytes of what is read next.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(format!(
                "the file ends too early: {count} bytes are needed at offset {}, {} are left",
                self.offset,
                self.rest.len()
            ));
        };
        self.rest = rest;
        self.offset += count;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.take(4).map(|bytes| u32::from_le_bytes(array(bytes)))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.take(8).map(|bytes| u64::from_le_bytes(array(bytes)))
    }

    /// A count of things that take `bytes_each` bytes or more; refused where the file cannot hold so many.
    pub(super) fn count(&mut self, what: &str, bytes_each: usize) -> Result<usize, String> {
        let offset = self.offset;
        let count = self.u64()?;
        let possible = self.remaining() / bytes_each;
        match usize::try_from(count) {
            Ok(count) if count <= possible => Ok(count),
            _ => Err(format!(
                "the file claims {count} {what} at offset {offset}, and has room for at most {possible}"
            )),
        }
    }

    /// A string: its length in bytes, then UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str, String> {
        let offset = self.offset;
        let count = self.count("bytes of a string", 1)?;
        std::str::from_utf8(self.take(count)?)
            .map_err(|error| format!("the string at offset {offset} is not UTF-8: {error}"))
    }

    /// The number of a value's type.
    pub(super) fn kind(&mut self) -> Result<Kind, String> {
        let (offset, number) = (self.offset, self.u32()?);
        Kind::from_number(number).ok_or_else(|| {
            format!("the value type {number} at offset {offset} is unknown (0 to 12 are known)")
        })
    }

    /// A value, all of it checked.
    pub(super) fn value(&mut self, kind: Kind) -> Result<Value<'a>, String> {
        self.nested_value(kind, 0)
    }

    fn nested_value(&mut self, kind: Kind, depth: usize) -> Result<Value<'a>, String> {
        match kind {
            Kind::String => self.string().map(Value::String),
            Kind::Array => self.array(depth),
            _ => Ok(Value::scalar(kind, self.take(kind.bytes_min())?)),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, String> {
        if depth == DEPTH_MAX {
            return Err(format!("arrays are nested deeper than {DEPTH_MAX} at offset {}", self.offset));
        }
        let kind = self.kind()?;
        let count = self.count("elements of an array", kind.bytes_min())?;
        let start = *self;
        match kind {
            Kind::String | Kind::Array => {
                for _ in 0..count {
                    self.nested_value(kind, depth + 1)?;
                }
            }
            // No overflow: the count was checked against what is left.
            _ => drop(self.take(count * kind.bytes_min())?),
        }
        let bytes = &start.rest[..self.offset - start.offset];
        Ok(Value::Array(super::Array::new(kind, count, bytes)))
    }
}

/// Bytes whose number has been checked.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller took N bytes")
}
