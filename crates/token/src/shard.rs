//! Shards: the ids of many documents in one flat, checksummed file.
//! Knows ids, loss masks and document boundaries; must not know text, nor how documents become sequences.
//!
//! Layout, all little-endian: a header of 128 bytes; the ids (`u16` when the vocabulary has at most 65,536 entries, else
//! `u32`); the loss mask (one byte an id, if there is one); the boundaries (documents + 1 `u64`: where each document
//! starts, and the end); a CRC-32 for each block of 1 MiB of all between header and checksums.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"TAOYESHD";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
const BLOCK_BYTES: usize = 1 << 20;
const FINGERPRINT_BYTES: usize = 64;

/// Collects documents and writes them as one shard.
pub struct Writer {
    path: PathBuf,
    fingerprint: String,
    vocab_size: usize,
    ids: Vec<u8>,
    mask: Option<Vec<u8>>,
    boundaries: Vec<u64>,
}

/// Does a shard carry a loss mask?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No mask: the loss is on every id (pretraining).
    Everywhere,
    /// A mask of one byte an id: 1 where the loss counts (fine-tuning).
    Masked,
}

/// A shard opened for reading, memory-mapped. Every checksum has been verified.
pub struct Reader {
    path: PathBuf,
    map: base::fs::Mmap,
    header: Header,
}

/// The fixed-size start of a shard.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    id_bytes: usize,
    loss: Loss,
    vocab_size: u64,
    tokens: u64,
    documents: u64,
    fingerprint: String,
}

impl Writer {
    /// A shard to be written to `path` with ids of `tokenizer`. Nothing is on disk before [`Writer::finish`].
    pub fn new(path: impl Into<PathBuf>, tokenizer: &Tokenizer, loss: Loss) -> Writer {
        Writer {
            path: path.into(),
            fingerprint: tokenizer.fingerprint(),
            vocab_size: tokenizer.vocab_size(),
            ids: Vec::new(),
            mask: (loss == Loss::Masked).then(Vec::new),
            boundaries: vec![0],
        }
    }

    /// Adds a document: `ids`, and with [`Loss::Masked`] one mask byte (0 or 1) an id; else `mask` is empty.
    ///
    /// # Errors
    /// [`Error::Document`] when an id is outside the vocabulary or the mask does not fit; the writer is as before.
    pub fn add(&mut self, ids: &[u32], mask: &[u8]) -> Result<()> {
        let reject = |reason: String| Err(Error::Document { path: self.path.clone(), reason });
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return reject(format!("id {id} is outside the vocabulary of {}", self.vocab_size));
        }
        let mask_ids = if self.mask.is_some() { ids.len() } else { 0 };
        if mask.len() != mask_ids {
            return reject(format!("the mask has {} entries, expected {mask_ids}", mask.len()));
        }
        if let Some(value) = mask.iter().find(|&&value| value > 1) {
            return reject(format!("the mask holds {value}, expected 0 or 1"));
        }
        if id_bytes(self.vocab_size as u64) == 2 {
            self.ids.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes()));
        } else {
            self.ids.extend(ids.iter().flat_map(|&id| id.to_le_bytes()));
        }
        if let Some(all) = &mut self.mask {
            all.extend_from_slice(mask);
        }
        self.boundaries.push(self.tokens() + ids.len() as u64);
        Ok(())
    }

    /// The number of ids added so far.
    pub fn tokens(&self) -> u64 {
        self.boundaries.last().copied().unwrap_or(0)
    }

    /// Writes the file under a temporary name, syncs and renames it: it is there whole or not at all.
    ///
    /// # Errors
    /// [`Error::Base`] when the file cannot be written.
    pub fn finish(self) -> Result<()> {
        let header = Header {
            id_bytes: id_bytes(self.vocab_size as u64),
            loss: if self.mask.is_some() { Loss::Masked } else { Loss::Everywhere },
            vocab_size: self.vocab_size as u64,
            tokens: self.tokens(),
            documents: self.boundaries.len() as u64 - 1,
            fingerprint: self.fingerprint,
        };
        let boundaries: Vec<u8> = self.boundaries.iter().flat_map(|start| start.to_le_bytes()).collect();
        let mut payload = self.ids;
        payload.extend(self.mask.unwrap_or_default());
        payload.extend(boundaries);
        base::fs::write_atomic(&self.path, |file| {
            file.write_all(&header.to_bytes())?;
            file.write_all(&payload)?;
            payload
                .chunks(BLOCK_BYTES)
                .try_for_each(|block| file.write_all(&base::hash::crc32(block).to_le_bytes()))
        })?;
        Ok(())
    }
}

impl Reader {
    /// Opens a shard and verifies all of it.
    ///
    /// # Errors
    /// [`Error::Base`] when it cannot be read; [`Error::Shard`] naming the block or field that is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Reader> {
        let path = path.as_ref();
        let map = base::fs::Mmap::open(path)?;
        let reject = |reason: String| Error::Shard { path: path.to_owned(), reason };
        let header = Header::parse(&map).map_err(reject)?;
        let expected =
            header.file_bytes().ok_or_else(|| reject("the header's counts are impossible".into()))?;
        if map.len() as u64 != expected {
            let reason = format!("the file has {} bytes, its header promises {expected}", map.len());
            return Err(reject(reason));
        }
        let payload = HEADER_BYTES..HEADER_BYTES + header.payload_bytes() as usize;
        let checksums = map[payload.end..].chunks_exact(4);
        let blocks = map[payload].chunks(BLOCK_BYTES);
        let count = blocks.len();
        for (index, (block, checksum)) in blocks.zip(checksums).enumerate() {
            if base::hash::crc32(block).to_le_bytes() != *checksum {
                let first = HEADER_BYTES + index * BLOCK_BYTES;
                return Err(reject(format!(
                    "block {index} of {count} (bytes {first} to {}) is damaged: its checksum differs",
                    first + block.len() - 1
                )));
            }
        }
        let reader = Reader { path: path.to_owned(), map, header };
        let orderly =
            (0..reader.documents()).all(|index| reader.boundary(index) <= reader.boundary(index + 1));
        if !orderly || reader.boundary(0) != 0 || reader.boundary(reader.documents()) != reader.tokens() {
            return Err(reject(
                "the document boundaries are not ascending from 0 to the number of ids".into(),
            ));
        }
        Ok(reader)
    }

    /// Refuses a shard that another tokenizer made.
    ///
    /// # Errors
    /// [`Error::Shard`] with both fingerprints.
    pub fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<()> {
        let expected = tokenizer.fingerprint();
        if self.header.fingerprint == expected {
            return Ok(());
        }
        let found = &self.header.fingerprint;
        let reason = format!("made with tokenizer {found:.12}…, but the tokenizer given is {expected:.12}…");
        Err(Error::Shard { path: self.path.clone(), reason })
    }

    /// The number of ids.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// The number of documents.
    pub fn documents(&self) -> usize {
        self.header.documents as usize
    }

    /// The size of the vocabulary that the ids come from.
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// The fingerprint of the tokenizer that made the ids.
    pub fn fingerprint(&self) -> &str {
        &self.header.fingerprint
    }

    /// Is there a loss mask?
    pub fn loss(&self) -> Loss {
        self.header.loss
    }

    /// Where the ids of a document stand. Panics when `document` is not below [`Reader::documents`].
    pub fn document(&self, document: usize) -> Range<u64> {
        assert!(document < self.documents(), "document {document} of {}", self.documents());
        self.boundary(document)..self.boundary(document + 1)
    }

    /// The lengths of all documents in ids, in order.
    pub fn document_lengths(&self) -> Vec<u64> {
        (0..self.documents()).map(|index| self.boundary(index + 1) - self.boundary(index)).collect()
    }

    /// Copies the ids from `start` on into `ids`. Panics when they are not all within [`Reader::tokens`].
    pub fn read_ids(&self, start: u64, ids: &mut [u32]) {
        let width = self.header.id_bytes;
        let first = HEADER_BYTES + self.checked(start, ids.len()) * width;
        let bytes = &self.map[first..first + ids.len() * width];
        if width == 2 {
            for (id, pair) in ids.iter_mut().zip(bytes.chunks_exact(2)) {
                *id = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
            }
        } else {
            for (id, four) in ids.iter_mut().zip(bytes.chunks_exact(4)) {
                *id = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
        }
    }

    /// Copies the loss mask from `start` on into `mask`; all ones without a mask. Panics as [`Reader::read_ids`].
    pub fn read_mask(&self, start: u64, mask: &mut [u8]) {
        let first = self.checked(start, mask.len());
        match self.header.loss {
            Loss::Everywhere => mask.fill(1),
            Loss::Masked => {
                let first = HEADER_BYTES + self.header.ids_bytes() as usize + first;
                mask.copy_from_slice(&self.map[first..first + mask.len()]);
            }
        }
    }

    fn checked(&self, start: u64, count: usize) -> usize {
        let end = start.saturating_add(count as u64);
        assert!(end <= self.tokens(), "ids {start} to {end} of {}", self.tokens());
        start as usize
    }

    fn boundary(&self, index: usize) -> u64 {
        let header = &self.header;
        let first = HEADER_BYTES + (header.ids_bytes() + header.mask_bytes()) as usize + index * 8;
        read_u64(&self.map, first)
    }
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12] = self.id_bytes as u8;
        bytes[13] = u8::from(self.loss == Loss::Masked);
        bytes[16..24].copy_from_slice(&self.vocab_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.documents.to_le_bytes());
        bytes[40..40 + FINGERPRINT_BYTES].copy_from_slice(self.fingerprint.as_bytes());
        let checksum = base::hash::crc32(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn parse(file: &[u8]) -> std::result::Result<Header, String> {
        if file.len() < HEADER_BYTES || &file[..8] != MAGIC {
            return Err("not a shard of token ids".into());
        }
        let version = u32::from_le_bytes([file[8], file[9], file[10], file[11]]);
        if version != VERSION {
            return Err(format!("shard version {version}, but this program reads version {VERSION}"));
        }
        let checksum = base::hash::crc32(&file[..HEADER_BYTES - 4]).to_le_bytes();
        if checksum != file[HEADER_BYTES - 4..HEADER_BYTES] {
            return Err("the header is damaged: its checksum differs".into());
        }
        let fingerprint = String::from_utf8_lossy(&file[40..40 + FINGERPRINT_BYTES]).into_owned();
        let header = Header {
            id_bytes: usize::from(file[12]),
            loss: if file[13] == 0 { Loss::Everywhere } else { Loss::Masked },
            vocab_size: read_u64(file, 16),
            tokens: read_u64(file, 24),
            documents: read_u64(file, 32),
            fingerprint,
        };
        if header.id_bytes != id_bytes(header.vocab_size) {
            return Err(format!(
                "ids of {} bytes do not fit a vocabulary of {}",
                header.id_bytes, header.vocab_size
            ));
        }
        Ok(header)
    }

    fn ids_bytes(&self) -> u64 {
        self.tokens * self.id_bytes as u64
    }

    fn mask_bytes(&self) -> u64 {
        if self.loss == Loss::Masked { self.tokens } else { 0 }
    }

    fn payload_bytes(&self) -> u64 {
        self.ids_bytes() + self.mask_bytes() + (self.documents + 1) * 8
    }

    /// The size of the whole file, or `None` when the counts are beyond all measure.
    fn file_bytes(&self) -> Option<u64> {
        if self.tokens > 1 << 48 || self.documents > 1 << 48 {
            return None;
        }
        let payload = self.payload_bytes();
        Some(HEADER_BYTES as u64 + payload + payload.div_ceil(BLOCK_BYTES as u64) * 4)
    }
}

fn id_bytes(vocab_size: u64) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}
