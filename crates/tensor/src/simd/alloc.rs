//! Buffers for vectors: aligned to a cache line, and backed by huge pages where they are large.
//! Must not know what the numbers mean.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The alignment of every buffer in bytes: a cache line, and a 512-bit register.
pub const ALIGNMENT_BYTES: usize = 64;
/// The size of a transparent huge page on x86-64 and on aarch64 with 4 KiB pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// A multiple of every page size in use (4, 16 and 64 KiB).
#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = 64 << 10;

/// A fixed-length buffer of f32, zero at first. Buffers of at least 2 MiB start on a huge-page boundary and ask the
/// kernel for huge pages (Linux, `madvise`), which spares page faults and translation misses.
#[derive(Debug)]
pub struct AlignedBuffer {
    pointer: NonNull<f32>,
    length: usize,
}

// SAFETY: the buffer owns its memory alone, as a Box<[f32]> does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access is read-only.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `length` zeros.
    ///
    /// # Panics
    /// The size overflows the address space. Where memory runs out the process ends, as for `Vec`.
    pub fn zeroed(length: usize) -> AlignedBuffer {
        if length == 0 {
            return AlignedBuffer { pointer: NonNull::dangling(), length };
        }
        let layout = layout_of(length);
        // SAFETY: the layout has a size above zero.
        let Some(pointer) = NonNull::new(unsafe { allocate(layout) }) else { handle_alloc_error(layout) };
        AlignedBuffer { pointer: pointer.cast(), length }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::zeroed(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl AlignedBuffer {
    /// The bytes of the values.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the bytes of initialised floats.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val::<[f32]>(self)) }
    }

    /// The bytes of the values, to be written; every pattern is a value.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes of floats, every pattern of which is a float.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), size_of_val::<[f32]>(self)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];
    #[inline]
    fn deref(&self) -> &[f32] {
        // SAFETY: the pointer is valid for `length` initialised values (or dangling, with length 0).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> AlignedBuffer {
        AlignedBuffer::from_slice(self)
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: allocated by `zeroed` with the same layout.
            unsafe { release(self.pointer.as_ptr().cast(), layout_of(self.length)) }
        }
    }
}

fn layout_of(length: usize) -> Layout {
    let bytes = length.checked_mul(size_of::<f32>()).expect("a buffer's size fits the address space");
    let alignment = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { ALIGNMENT_BYTES };
    Layout::from_size_align(bytes, alignment).expect("a buffer's size fits the address space")
}

/// Zeroed memory of the layout, or null. Large blocks are mapped, so that the kernel zeroes each page on first touch.
unsafe fn allocate(layout: Layout) -> *mut u8 {
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE_PAGE_BYTES {
        // SAFETY: the layout has a size above zero.
        return unsafe { map_huge(layout.size()) };
    }
    // SAFETY: the layout has a size above zero.
    unsafe { alloc_zeroed(layout) }
}

unsafe fn release(pointer: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE_PAGE_BYTES {
        // SAFETY: the block was mapped by `map_huge` with this size.
        unsafe { libc::munmap(pointer.cast(), layout.size().next_multiple_of(PAGE_BYTES)) };
        return;
    }
    // SAFETY: the block came from `alloc_zeroed` with this layout.
    unsafe { dealloc(pointer, layout) }
}

/// Maps `bytes` at a huge-page boundary: maps one huge page more and gives back what sticks out at both ends.
#[cfg(target_os = "linux")]
unsafe fn map_huge(bytes: usize) -> *mut u8 {
    let kept = bytes.next_multiple_of(PAGE_BYTES);
    let mapped = kept + HUGE_PAGE_BYTES;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return std::ptr::null_mut();
    }
    let base: *mut u8 = base.cast();
    let before = base.align_offset(HUGE_PAGE_BYTES);
    // SAFETY: `before` < HUGE_PAGE_BYTES, so the kept range and both ends lie within the mapping just made; a failure
    // to unmap an end or to get huge pages costs address space or speed only.
    unsafe {
        let start = base.add(before);
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        libc::munmap(start.add(kept).cast(), mapped - kept - before);
        libc::madvise(start.cast(), kept, libc::MADV_HUGEPAGE);
        start
    }
}
