//! Writing a GGUF file: first everything that the header says, then the tensors' bytes as a stream. It must not know
//! what the bytes mean.

use super::value::{Kind, Scalar, Value, encode_string};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, DIMENSIONS_MAX, MAGIC, VERSION};
use crate::fs::AtomicFile;
use crate::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A header under construction.
#[derive(Debug, Default)]
pub struct Writer {
    /// Keys with their values' types and bytes.
    metadata: Vec<(String, Kind, Vec<u8>)>,
    tensors: Vec<PlannedTensor>,
}

#[derive(Debug)]
struct PlannedTensor {
    name: String,
    dimensions: Vec<usize>,
    type_number: u32,
    bytes: u64,
}

impl Writer {
    /// A header without keys and tensors.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Sets a key to a value, in place of an earlier one. The alignment is always 32 bytes, so its key is left out.
    pub fn set<'a>(&mut self, key: &str, value: impl Into<Value<'a>>) {
        let value = value.into();
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        self.put(key, value.kind(), bytes);
    }

    /// Sets a key to an array of numbers or flags.
    pub fn set_array<T: Scalar>(&mut self, key: &str, elements: &[T]) {
        let mut bytes = array_header(T::KIND, elements.len());
        elements.iter().for_each(|element| element.value().encode(&mut bytes));
        self.put(key, Kind::Array, bytes);
    }

    /// Sets a key to an array of strings.
    pub fn set_strings<T: AsRef<str>>(&mut self, key: &str, elements: &[T]) {
        let mut bytes = array_header(Kind::String, elements.len());
        elements.iter().for_each(|element| encode_string(element.as_ref(), &mut bytes));
        self.put(key, Kind::Array, bytes);
    }

    /// Announces a tensor: dimensions with the fastest first, the number of its type, its size in bytes.
    /// The stream takes tensors in this order.
    pub fn tensor(&mut self, name: &str, dimensions: &[usize], type_number: u32, bytes: u64) {
        debug_assert!((1..=DIMENSIONS_MAX).contains(&dimensions.len()));
        let dimensions = dimensions.to_vec();
        self.tensors.push(PlannedTensor { name: name.to_owned(), dimensions, type_number, bytes });
    }

    /// Writes the header beside `path`; the file appears there with [`TensorStream::finish`].
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::DiskFull`].
    pub fn begin(self, path: &Path) -> Result<TensorStream> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, bytes) in &self.metadata {
            encode_string(key, &mut header);
            header.extend(kind.number().to_le_bytes());
            header.extend(bytes);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            encode_string(&tensor.name, &mut header);
            header.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|axis| header.extend((*axis as u64).to_le_bytes()));
            header.extend(tensor.type_number.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT as u64);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        let mut file = AtomicFile::create(path)?;
        file.write_all(&header).map_err(|error| Error::io("write", path, error))?;
        let sizes = self.tensors.into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect();
        let mut stream = TensorStream { path: path.to_owned(), file, sizes, current: 0, written: 0 };
        stream.complete()?;
        Ok(stream)
    }

    fn put(&mut self, key: &str, kind: Kind, bytes: Vec<u8>) {
        if key == ALIGNMENT_KEY {
            return;
        }
        match self.metadata.iter_mut().find(|known| known.0 == key) {
            Some(known) => (known.1, known.2) = (kind, bytes),
            None => self.metadata.push((key.to_owned(), kind, bytes)),
        }
    }
}

/// A file whose header is written and whose tensors follow. Dropped before [`TensorStream::finish`], it leaves no trace.
pub struct TensorStream {
    path: PathBuf,
    file: AtomicFile,
    sizes: Vec<(String, u64)>,
    current: usize,
    written: u64,
}

impl TensorStream {
    /// Appends bytes to the tensor whose turn it is; once it is whole the next one's turn comes.
    ///
    /// # Errors
    /// [`Error::Gguf`] where these are more than the tensor was announced with; else as [`Writer::begin`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let (name, size) = self.sizes.get(self.current).map_or(("", 0), |known| (known.0.as_str(), known.1));
        if self.written + bytes.len() as u64 > size {
            let reason = format!("the tensor `{name}` was announced with {size} bytes and got more");
            return Err(Error::Gguf { path: self.path.clone(), reason });
        }
        self.file.write_all(bytes).map_err(|error| Error::io("write", &self.path, error))?;
        self.written += bytes.len() as u64;
        self.complete()
    }

    /// Syncs the file and puts it into its place.
    ///
    /// # Errors
    /// [`Error::Gguf`] where tensors are missing; else as [`Writer::begin`].
    pub fn finish(self) -> Result<()> {
        if let Some((name, size)) = self.sizes.get(self.current) {
            let reason =
                format!("the tensor `{name}` was announced with {size} bytes and got {}", self.written);
            return Err(Error::Gguf { path: self.path, reason });
        }
        self.file.commit()
    }

    /// Pads tensors that are whole and steps to the next.
    fn complete(&mut self) -> Result<()> {
        while self.sizes.get(self.current).is_some_and(|known| known.1 == self.written) {
            let padding = self.written.next_multiple_of(DEFAULT_ALIGNMENT as u64) - self.written;
            let zeros = &[0; DEFAULT_ALIGNMENT][..padding as usize];
            self.file.write_all(zeros).map_err(|error| Error::io("write", &self.path, error))?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }
}

fn array_header(kind: Kind, count: usize) -> Vec<u8> {
    let mut bytes = kind.number().to_le_bytes().to_vec();
    bytes.extend((count as u64).to_le_bytes());
    bytes
}
