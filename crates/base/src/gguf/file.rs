//! A model's GGUF files opened together: metadata by key, tensors by name. It must not know how one file is parsed.

use super::cursor::Cursor;
use super::part::Part;
use super::value::{FromValue, Value};
use crate::fs::Mmap;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A GGUF file, or all files of a split one, mapped into memory.
pub struct File {
    path: PathBuf,
    parts: Vec<(Mmap, Part)>,
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, usize>,
}

/// A tensor's entry in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Elements of each axis, the fastest first: (columns, rows, …).
    pub dimensions: Vec<usize>,
    /// The number of its elements' type (ggml's `ggml_type`), which this container does not interpret.
    pub type_number: u32,
    part: usize,
    room: std::ops::Range<usize>,
}

impl File {
    /// Opens a file; of a split one (`-00001-of-00003.gguf`) all parts, whichever is named.
    ///
    /// Nothing is read but the headers. Counts, lengths and offsets are checked, but not whether each tensor's bytes
    /// suffice for its type and dimensions: that is for who knows the types, see [`File::bytes`].
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Gguf`] saying what is wrong with which file.
    pub fn open(path: &Path) -> Result<File> {
        let Some(split) = SplitName::of(path) else {
            let part = open_part(path)?;
            return match count_of_parts(path, &part)? {
                None | Some(0 | 1) => File::join(path, vec![part]),
                Some(count) => Err(gguf(
                    path,
                    format!(
                        "it is one of {count} parts, so its name must end in `-00001-of-{count:05}.gguf`"
                    ),
                )),
            };
        };
        let mut parts = Vec::new();
        for number in 1..=split.count {
            let path = split.path(number);
            let part = open_part(&path)?;
            split.check(&path, &part, number)?;
            parts.push(part);
        }
        File::join(&split.path(1), parts)
    }

    /// The file's path; of a split one the first's.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of all parts.
    pub fn paths(&self) -> Vec<PathBuf> {
        match SplitName::of(&self.path) {
            Some(split) => (1..=split.count).map(|number| split.path(number)).collect(),
            None => vec![self.path.clone()],
        }
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.parts[0].1.version
    }

    /// Bytes of all parts together.
    pub fn len_bytes(&self) -> u64 {
        self.parts.iter().map(|(map, _)| map.len() as u64).sum()
    }

    /// The metadata's keys in the order of the file; of a split one the first part's.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.parts[0].1.keys.iter().map(String::as_str)
    }

    /// A value of the metadata.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        value_of(&self.parts[0], key)
    }

    /// A value of the metadata as the type asked for: `file.require::<&str>("general.architecture")`.
    ///
    /// # Errors
    /// [`Error::Gguf`] naming the key where it is missing or of another type.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.find(key)?.ok_or_else(|| self.error(format!("the metadata key `{key}` is missing")))
    }

    /// As [`File::require`], `None` where the key is missing.
    ///
    /// # Errors
    /// [`Error::Gguf`] naming the key where its value is of another type.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_value(value)
            .map(Some)
            .ok_or_else(|| self.error(format!("`{key}` is {}; {} is needed", value.describe(), T::wanted())))
    }

    /// Gives back the memory of what was read, see [`Mmap::release`].
    pub fn release(&self) {
        self.parts.iter().for_each(|(map, _)| map.release());
    }

    /// The tensors of all parts, in the order of their directories.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor's entry by its name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// What lies between a tensor's first byte and the next tensor or the file's end: its elements, then perhaps
    /// padding. Rooms are disjoint and never empty; where one is shorter than the tensor's type and dimensions ask for,
    /// tensors overlap or the file was cut short.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part].0[tensor.room.clone()]
    }

    /// An error that names this file.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        gguf(&self.path, reason)
    }

    fn join(path: &Path, parts: Vec<(Mmap, Part)>) -> Result<File> {
        let mut file = File { path: path.to_owned(), parts, tensors: Vec::new(), by_name: BTreeMap::new() };
        for (number, (_, part)) in file.parts.iter_mut().enumerate() {
            for tensor in std::mem::take(&mut part.tensors) {
                if file.by_name.insert(tensor.name.clone(), file.tensors.len()).is_some() {
                    return Err(gguf(path, format!("the tensor `{}` is in two of its parts", tensor.name)));
                }
                file.tensors.push(TensorInfo {
                    name: tensor.name,
                    dimensions: tensor.dimensions,
                    type_number: tensor.type_number,
                    part: number,
                    room: tensor.room,
                });
            }
        }
        let promised = file.find::<usize>("split.tensors.count")?;
        match promised.filter(|count| *count != file.tensors.len()) {
            None => Ok(file),
            Some(count) => {
                Err(file.error(format!("its parts hold {} tensors of {count}", file.tensors.len())))
            }
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "gguf::File({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

/// The name of one part of several: `STEM-00001-of-00003.gguf`.
struct SplitName {
    folder: PathBuf,
    stem: String,
    count: usize,
}

impl SplitName {
    fn of(path: &Path) -> Option<SplitName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        if !five_digits(number) || !five_digits(count) {
            return None;
        }
        let (number, count): (usize, usize) = (number.parse().ok()?, count.parse().ok()?);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        (1 <= number && number <= count).then(|| SplitName { folder, stem: stem.to_owned(), count })
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }

    fn check(&self, path: &Path, part: &(Mmap, Part), number: usize) -> Result<()> {
        let integer = |key| value_of(part, key).and_then(Value::integer);
        match (integer("split.no"), integer("split.count")) {
            (None, None) if self.count == 1 => Ok(()),
            (Some(no), Some(count)) if no + 1 == number as i128 && count == self.count as i128 => Ok(()),
            (no, count) => {
                let told = |value: Option<i128>| value.map_or("missing".into(), |value| value.to_string());
                Err(gguf(
                    path,
                    format!(
                        "by its name it is part {number} of {}, but `split.no` is {} (counted from 0) and \
                         `split.count` {}; get the parts again",
                        self.count,
                        told(no),
                        told(count)
                    ),
                ))
            }
        }
    }
}

fn open_part(path: &Path) -> Result<(Mmap, Part)> {
    let map = Mmap::open(path)?;
    let part = Part::parse(&map).map_err(|reason| gguf(path, reason))?;
    Ok((map, part))
}

fn count_of_parts(path: &Path, part: &(Mmap, Part)) -> Result<Option<usize>> {
    let Some(value) = value_of(part, "split.count") else { return Ok(None) };
    let count = usize::from_value(value);
    count.map(Some).ok_or_else(|| gguf(path, format!("`split.count` is {}", value.describe())))
}

fn value_of<'a>((map, part): &'a (Mmap, Part), key: &str) -> Option<Value<'a>> {
    let (kind, range) = part.metadata.get(key)?;
    let value = Cursor::new(&map[range.clone()]).value(*kind);
    Some(value.expect("the value was checked when the file was opened"))
}

fn gguf(path: &Path, reason: impl Into<String>) -> Error {
    Error::Gguf { path: path.to_owned(), reason: reason.into() }
}
