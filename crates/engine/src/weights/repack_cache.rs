//! Packed weights on disk, so that a model's second start packs nothing. Knows files and checksums; must not know how
//! weights are packed.
//!
//! A file is the parts' bytes, each part at a multiple of 64, then a JSON trailer with the key and the checksum of every
//! piece, the trailer's length and a mark. A file whose key is another one is stale; stale and damaged ones are replaced.
//! Whoever adds a file removes those of models that are no longer where they were.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::fs::{AtomicFile, Mmap};
use base::hash::{crc32, hash_parts};
use base::progress::{Output, Progress, Unit};
use model::ModelFile;
use serde::{Deserialize, Serialize};
use tensor::Exec;

use super::packing::{self, Plan};
use super::{Packing, Part};
use crate::{Error, Result};

const MARK: &[u8; 16] = b"taoye packed 02\n";
/// Bytes that one checksum covers.
const PIECE_BYTES: usize = 1 << 20;
/// Where parts begin.
const ALIGNMENT_BYTES: usize = 64;

/// Packed matrices by the place of their product in the decoder's flat buffer.
pub(crate) type Products = BTreeMap<usize, Vec<Part>>;

/// Where packed weights are kept, and who is told.
pub(crate) struct RepackCache {
    /// The folder; `None` keeps nothing.
    pub folder: Option<PathBuf>,
    pub progress: Output,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    /// Where the model lies, so that its packed weights can go when it goes.
    model: PathBuf,
    key: String,
    /// Checksums of the pieces of each part.
    checksums: Vec<Vec<u32>>,
}

impl RepackCache {
    /// The packed products of a plan: from the cache where it has them whole, else packed and put there.
    ///
    /// # Errors
    /// The weights cannot be packed. A cache that cannot be written is told of and done without.
    pub fn load_or_pack(&self, exec: Exec<'_>, file: &ModelFile, plan: &Plan) -> Result<Products> {
        let total = plan.bytes(exec.isa()) as u64;
        let mut progress = Progress::start(self.progress, "loading", Unit::Bytes, Some(total));
        let folder = self.folder.as_ref().filter(|_| plan.is_worth_caching());
        let place = folder.map(|folder| Ok::<_, Error>((path_of(folder, file), key_of(exec, file, plan)?)));
        let place = place.transpose()?;
        if let Some((path, key)) = place.as_ref().filter(|(path, _)| path.exists()) {
            match read(exec, plan, (path, key), &mut progress) {
                Ok(products) => {
                    progress.finish();
                    return Ok(products);
                }
                Err(reason) => progress.print_line(&format!(
                    "packed weights in {} {reason}; packing them again",
                    path.display()
                )),
            }
            progress.set(0);
        }
        let products = pack_all(exec, file, plan, place.as_ref(), &mut progress)?;
        if let Some((path, _)) = &place {
            remove_orphans(path, &mut progress);
        }
        progress.finish();
        Ok(products)
    }
}

/// Packs everything, and writes it to `place` on the way.
fn pack_all(
    exec: Exec<'_>,
    file: &ModelFile,
    plan: &Plan,
    place: Option<&(PathBuf, String)>,
    progress: &mut Progress,
) -> Result<Products> {
    let mut writing = place.map(|(path, _)| AtomicFile::create(path));
    let mut trailer = Trailer { model: location(file), key: String::new(), checksums: Vec::new() };
    let mut products = Products::new();
    for product in &plan.products {
        let mut parts = Vec::with_capacity(product.parts.len());
        for planned in &product.parts {
            let part = packing::pack(exec, file, planned)?;
            file.release();
            if let Some(Ok(writer)) = &mut writing {
                let bytes = padded(exec, &part);
                trailer.checksums.push(bytes.chunks(PIECE_BYTES).map(crc32).collect());
                if let Err(source) = writer.write_all(bytes) {
                    let path = place.map(|(path, _)| path.clone()).unwrap_or_default();
                    writing = Some(Err(base::Error::io("write", &path, source)));
                }
            }
            progress.add(part.shape.bytes(exec.isa()) as u64);
            parts.push(part);
        }
        products.insert(product.weight.offset, parts);
    }
    let written = match (writing, place) {
        (Some(file), Some((path, key))) => {
            trailer.key.clone_from(key);
            file.and_then(|file| finish(file, path, &trailer))
        }
        _ => Ok(()),
    };
    if let Err(error) = written {
        progress.print_line(&format!("the packed weights are not kept for the next start: {error}"));
    }
    Ok(products)
}

/// Writes the trailer and puts the file in its place.
fn finish(mut file: AtomicFile, path: &Path, trailer: &Trailer) -> base::Result<()> {
    let text = serde_json::to_vec(trailer).expect("a key and numbers become JSON");
    let length = (text.len() as u64).to_le_bytes();
    let written = [&text[..], &length, MARK].into_iter().try_for_each(|bytes| file.write_all(bytes));
    written.map_err(|source| base::Error::io("write", path, source))?;
    file.commit()
}

/// Reads a plan's parts; the error says in what state the file is.
fn read(
    exec: Exec<'_>,
    plan: &Plan,
    (path, key): (&Path, &str),
    progress: &mut Progress,
) -> std::result::Result<Products, String> {
    let map = Mmap::open(path).map_err(|error| format!("cannot be read ({error})"))?;
    let trailer = trailer_of(&map).ok_or("are not whole")?;
    if trailer.key != key {
        return Err("are of another version of the model".into());
    }
    let mut checksums = trailer.checksums.iter();
    let (mut start, mut products) = (0, Products::new());
    for product in &plan.products {
        let mut parts = Vec::with_capacity(product.parts.len());
        for planned in &product.parts {
            let mut part = packing::room(exec, planned.shape);
            let length = padded(exec, &part).len();
            let pieces = checksums.next().filter(|pieces| pieces.len() == length.div_ceil(PIECE_BYTES));
            let source = map.get(start..start + length).zip(pieces).ok_or("are not whole")?;
            copy(exec, source, &mut part.bytes.as_bytes_mut()[..length]).ok_or("are damaged")?;
            map.release();
            (start, _) = (start + length, progress.add(planned.shape.bytes(exec.isa()) as u64));
            parts.push(part);
        }
        products.insert(product.weight.offset, parts);
    }
    Ok(products)
}

/// Copies pieces on all threads; `None` where a checksum differs.
fn copy(exec: Exec<'_>, (from, checksums): (&[u8], &Vec<u32>), to: &mut [u8]) -> Option<()> {
    let is_whole = AtomicBool::new(true);
    exec.pool().run_slices(to, PIECE_BYTES, &|start, piece, _| {
        piece.copy_from_slice(&from[start..start + piece.len()]);
        if crc32(piece) != checksums[start / PIECE_BYTES] {
            is_whole.store(false, Ordering::Relaxed);
        }
    });
    is_whole.into_inner().then_some(())
}

fn trailer_of(bytes: &[u8]) -> Option<Trailer> {
    let bytes = bytes.strip_suffix(MARK)?;
    let (bytes, length) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let start = bytes.len().checked_sub(usize::try_from(length).ok()?)?;
    serde_json::from_slice(&bytes[start..]).ok()
}

/// A part's bytes with what brings them to a multiple of the alignment.
fn padded<'a>(exec: Exec<'_>, part: &'a Part) -> &'a [u8] {
    let length = part.shape.bytes(exec.isa()).next_multiple_of(ALIGNMENT_BYTES);
    &part.bytes.as_bytes()[..length]
}

/// The cache's file for a model: one for each place, so that what is stale is replaced.
fn path_of(folder: &Path, file: &ModelFile) -> PathBuf {
    let place = location(file);
    let stem = place.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
    folder.join(format!("{stem}-{}.packed", &hash_parts([place.to_string_lossy().as_ref()])[..16]))
}

/// A model's absolute path.
fn location(file: &ModelFile) -> PathBuf {
    file.path().canonicalize().unwrap_or_else(|_| file.path().to_owned())
}

/// Removes what lies beside `kept` and nothing can read any more: packed weights whose model is gone or that are not whole, and
/// what a killed process left half-written a day ago. What cannot be removed stays.
fn remove_orphans(kept: &Path, progress: &mut Progress) {
    let entries = kept.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    for path in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
        let is_orphan = match path.extension().and_then(|extension| extension.to_str()) {
            Some("packed") => {
                let trailer = Mmap::open(&path).ok().and_then(|map| trailer_of(&map));
                path != kept && trailer.is_none_or(|trailer| !trailer.model.exists())
            }
            Some("taoye-tmp") => is_a_day_old(&path),
            _ => false,
        };
        if is_orphan && std::fs::remove_file(&path).is_ok() {
            progress.print_line(&format!("removed {}, which nothing can use any more", path.display()));
        }
    }
}

fn is_a_day_old(path: &Path) -> bool {
    let changed = std::fs::metadata(path).and_then(|facts| facts.modified());
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > Duration::from_secs(24 * 60 * 60)))
}

/// What the packed bytes depend on: the files, how they are packed and, for panels of numbers, the instruction set.
fn key_of(exec: Exec<'_>, file: &ModelFile, plan: &Plan) -> Result<String> {
    let mut texts = vec![format!("{:?}", file.config())];
    for path in file.paths() {
        let read = |source| Error::Model(model::Error::Read { path: path.clone(), source });
        let facts = std::fs::metadata(&path).map_err(read)?;
        let changed = facts.modified().map_err(read)?;
        texts.push(format!("{} {} {changed:?}", path.display(), facts.len()));
    }
    let mut is_dense = false;
    for part in plan.products.iter().flat_map(|product| &product.parts) {
        is_dense |= matches!(part.shape.packing, Packing::Dense(_));
        texts.push(format!("{:?} {:?}", part.entries, part.shape));
    }
    if is_dense {
        texts.push(exec.isa().name().into());
    }
    Ok(hash_parts(texts.iter().map(String::as_str)))
}
