//! Files that are never half-written, text that is unpacked by its name, read-only memory maps.
//! It must not know what the files hold.

mod atomic;
mod lines;
mod map;
mod text;

pub use atomic::{
    AtomicFile, PackedFile, create_folder, remove_stale_temporaries, sync_folder, temporary_path,
    write_atomic, write_atomic_compressed, write_bytes,
};
pub use lines::{LineRead, Lines, open_lines};
pub use map::Mmap;
pub use text::{Compression, READ_TEXT_LIMIT_BYTES, open_reader, read_bytes, read_text, read_text_limited};
