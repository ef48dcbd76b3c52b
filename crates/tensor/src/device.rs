//! A processor: its thread pool, its instruction set and the recycler of buffers.
//!
//! Buffers come from [`Device::empty`] and go back when the last handle is dropped, so that a
//! loop which asks for the same sizes again and again allocates only in its first round.

use crate::tensor::{Shape, Storage, Tensor};
use crate::{Error, Exec, Isa, Pool, Profile};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A handle to a processor; cheap to clone.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    isa: Isa,
    profile: Profile,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    /// Idle buffers by length.
    by_len: BTreeMap<usize, Vec<Arc<Storage>>>,
    allocated_bytes: usize,
}

impl Device {
    /// The processor with a pool of `threads` threads (at least one) and an instruction set.
    ///
    /// # Errors
    /// This processor lacks the instruction set.
    pub fn cpu(threads: usize, isa: Isa) -> Result<Device, Error> {
        let isa = isa.require_available()?;
        let pool = Pool::new(threads.max(1));
        Ok(Device {
            inner: Arc::new(Inner { pool, isa, profile: Profile::default(), free: Mutex::default() }),
        })
    }

    /// The thread pool.
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// The instruction set that kernels run with.
    pub fn isa(&self) -> Isa {
        self.inner.isa
    }

    /// What kernels take: the pool and the instruction set.
    pub fn exec(&self) -> Exec<'_> {
        Exec { pool: &self.inner.pool, isa: self.inner.isa }
    }

    /// The timers of the operations that run on this device.
    pub fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// A tensor with arbitrary contents, from the recycler where it has one that fits.
    pub fn empty(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let len = shape.len();
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let reusable = free.by_len.range_mut(len..=len + len / 8).find_map(|(_, idle)| idle.pop());
        let storage = reusable.unwrap_or_else(|| {
            free.allocated_bytes += len * size_of::<f32>();
            Arc::new(Storage::new(len))
        });
        drop(free);
        Tensor::from_storage(self.clone(), storage, shape)
    }

    /// A tensor of zeros.
    pub fn zeros(&self, shape: impl Into<Shape>) -> Tensor {
        let mut tensor = self.empty(shape);
        tensor.data_mut().fill(0.0);
        tensor
    }

    /// A tensor with the given elements, row-major.
    ///
    /// # Panics
    /// When the number of elements is not the shape's.
    pub fn tensor(&self, shape: impl Into<Shape>, elements: &[f32]) -> Tensor {
        let mut tensor = self.empty(shape);
        tensor.data_mut().copy_from_slice(elements);
        tensor
    }

    /// Bytes of all buffers that this device ever allocated and still holds, in use or idle.
    pub fn allocated_bytes(&self) -> usize {
        self.inner.free.lock().unwrap_or_else(PoisonError::into_inner).allocated_bytes
    }

    /// Lets go of the buffers that are idle, so that their memory serves others; who asks for one of them next allocates it
    /// again.
    pub fn release_idle(&self) {
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = std::mem::take(&mut free.by_len);
        let elements: usize = idle.iter().map(|(len, buffers)| len * buffers.len()).sum();
        free.allocated_bytes -= elements * size_of::<f32>();
    }

    pub(crate) fn recycle(&self, storage: Arc<Storage>) {
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.by_len.entry(storage.len()).or_default().push(storage);
    }
}
