//! One file from a hub to its place: resumed where it was cut off, checked, synced, renamed. Must not know the choice.

use crate::client::{Attempts, Client, Failure, Reply, header};
use crate::listing::{Checksum, RemoteFile};
use crate::{Error, Result};
use base::progress::Progress;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 18;
/// So many new bytes count as progress, after which failures are counted anew.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Fetches `file` into `partial` (which may hold its beginning), checks it, and renames it to `place`. Returns its size.
/// `before` is what the progress counts for the files before it.
///
/// # Errors
/// The hub fails or refuses, the file arrives damaged twice, the disk is full, or the user interrupts.
pub fn fetch(
    client: &Client,
    file: &RemoteFile,
    (partial, place): (&Path, &Path),
    (progress, before): (&mut Progress, u64),
) -> Result<u64> {
    let mut fetch = Fetch { client, remote: file.clone(), partial, progress, before, is_second_try: false };
    loop {
        let size_bytes = fetch.fill()?;
        match fetch.damage(size_bytes)? {
            None => {
                put_in_place(partial, place)?;
                return Ok(size_bytes);
            }
            Some(damage) => {
                std::fs::remove_file(partial).map_err(|error| base::Error::io("remove", partial, error))?;
                if fetch.is_second_try {
                    return Err(damage);
                }
                fetch.progress.print_line(&format!("{} arrived damaged: it is fetched again", file.path));
                fetch.is_second_try = true;
            }
        }
    }
}

/// A file on its way.
struct Fetch<'a> {
    client: &'a Client,
    /// With what the answers told beyond the listing.
    remote: RemoteFile,
    partial: &'a Path,
    progress: &'a mut Progress,
    before: u64,
    is_second_try: bool,
}

impl Fetch<'_> {
    /// Fills the partial file until it is whole; its size.
    fn fill(&mut self) -> Result<u64> {
        let url = self.remote.url.clone();
        let mut attempts = Attempts::new(self.client, &url);
        let mut mark = 0;
        loop {
            let (mut out, have) = self.open()?;
            if self.remote.size_bytes == Some(have) {
                out.sync_all().map_err(|error| base::Error::io("write", self.partial, error))?;
                return Ok(have);
            }
            if have >= mark + PROGRESS_BYTES {
                mark = have;
                attempts.got_further();
            }
            match self.attempt(&mut out, have) {
                Ok(()) => {}
                Err(failure) => attempts.failed(failure)?,
            }
        }
    }

    /// Opens the partial file at its end; empties one that is longer than the whole.
    fn open(&self) -> Result<(File, u64)> {
        let failed = |error| base::Error::io("open", self.partial, error);
        let out = File::options().create(true).append(true).open(self.partial).map_err(failed)?;
        let mut have = out.metadata().map_err(failed)?.len();
        if self.remote.size_bytes.is_some_and(|size| have > size) {
            out.set_len(0).map_err(failed)?;
            have = 0;
        }
        Ok((out, have))
    }

    /// One request, from the byte `have` on; fine when the size is reached.
    fn attempt(&mut self, out: &mut File, mut have: u64) -> Result<(), Failure> {
        let mut reply = self.client.get(&self.remote.url, &self.remote.path, have)?;
        if have > 0 && !continues(&reply, have) {
            out.set_len(0)
                .map_err(|error| base::Error::io("empty", self.partial, error))
                .map_err(Error::from)?;
            have = 0;
            if reply.response.status().as_u16() != 200 {
                return Err(Failure::passing("the hub does not continue the file; it is begun anew"));
            }
        }
        let body_bytes = reply.response.body().content_length();
        self.complete(&reply, body_bytes.map(|bytes| have + bytes));
        let mut body = reply.response.body_mut().as_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if base::interrupt::requested() {
                return Err(Error::Interrupted.into());
            }
            self.progress.set(self.before + have);
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(Failure::passing(error)),
            };
            have += read as u64;
            if let Some(size) = self.remote.size_bytes.filter(|&size| have > size) {
                let reason = format!("the hub sends more than the {size} bytes that it lists");
                return Err(Error::Answer { url: self.remote.url.clone(), reason }.into());
            }
            let written = out.write_all(&buffer[..read]);
            written.map_err(|error| Error::from(base::Error::io("write", self.partial, error)))?;
        }
        match self.remote.size_bytes {
            Some(size) if have < size => {
                Err(Failure::passing(format!("the connection ended after {have} of {size} bytes")))
            }
            _ => {
                self.remote.size_bytes = Some(have);
                Ok(())
            }
        }
    }

    /// Takes size and checksum from an answer where the listing told none.
    fn complete(&mut self, reply: &Reply, size_bytes: Option<u64>) {
        self.remote.size_bytes = self.remote.size_bytes.or(size_bytes);
        if self.remote.checksum.is_none() {
            self.remote.checksum = reply.linked_tag.as_deref().and_then(Checksum::from_tag);
        }
    }

    /// What is wrong with the partial file.
    fn damage(&mut self, size_bytes: u64) -> Result<Option<Error>> {
        let Some(expected) = &self.remote.checksum else {
            self.progress
                .print_line(&format!("{}: the hub tells no checksum; its size is right", self.remote.path));
            return Ok(None);
        };
        let found = checksum_of(self.partial, size_bytes, expected)?;
        Ok((found != *expected).then(|| Error::Damaged {
            path: self.remote.path.clone(),
            kind: expected.kind(),
            found: found.digits().to_owned(),
            expected: expected.digits().to_owned(),
        }))
    }
}

/// The checksum of a file, of the kind of another.
///
/// # Errors
/// It cannot be read, or the user interrupts.
pub fn checksum_of(path: &Path, size_bytes: u64, like: &Checksum) -> Result<Checksum> {
    let mut context = match like {
        Checksum::Sha256(_) => Context::new(&SHA256),
        Checksum::GitSha1(_) => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {size_bytes}\0").as_bytes());
            context
        }
    };
    let failed = |error| base::Error::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if base::interrupt::requested() {
            return Err(Error::Interrupted);
        }
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    let digits: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(match like {
        Checksum::Sha256(_) => Checksum::Sha256(digits),
        Checksum::GitSha1(_) => Checksum::GitSha1(digits),
    })
}

/// Whether an answer continues a file at `have`: 206 with that range.
fn continues(reply: &Reply, have: u64) -> bool {
    let range = header(reply.response.headers(), "content-range").unwrap_or("");
    reply.response.status().as_u16() == 206 && range.trim().starts_with(&format!("bytes {have}-"))
}

/// Renames a synced file; the folder is synced too.
fn put_in_place(partial: &Path, place: &Path) -> Result<()> {
    let folder = place.parent().expect("a place is inside a model's folder");
    base::fs::create_folder(folder)?;
    std::fs::rename(partial, place).map_err(|error| base::Error::io("replace", place, error))?;
    base::fs::sync_folder(folder).map_err(|error| base::Error::io("sync the folder of", place, error))?;
    Ok(())
}
