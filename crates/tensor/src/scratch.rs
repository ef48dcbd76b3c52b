//! Work space of kernels, lent and taken back, so that nothing is allocated after the first calls.

use crate::AlignedBuffer;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// A store of buffers. A [`Pool`](crate::Pool) owns one; kernels borrow from it inside their tasks.
#[derive(Default)]
pub struct Scratch {
    idle: Mutex<Vec<AlignedBuffer>>,
}

/// A buffer on loan; goes back when dropped. Its contents are arbitrary.
pub struct Loan<'a> {
    home: &'a Scratch,
    /// Present until the loan is dropped.
    buffer: Option<AlignedBuffer>,
}

impl Scratch {
    /// A buffer of at least `length` floats with arbitrary contents.
    pub fn take(&self, length: usize) -> Loan<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.len() >= length)
            .min_by_key(|(_, buffer)| buffer.len())
            .map(|(index, _)| index);
        let buffer = fitting.map(|index| idle.swap_remove(index));
        drop(idle);
        Loan { home: self, buffer: Some(buffer.unwrap_or_else(|| AlignedBuffer::zeroed(length))) }
    }
}

impl Deref for Loan<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.buffer.as_ref().expect("a loan holds its buffer until it is dropped")
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.buffer.as_mut().expect("a loan holds its buffer until it is dropped")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}
