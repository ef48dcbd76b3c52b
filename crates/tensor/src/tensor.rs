//! A tensor: f32, contiguous, row-major, reference-counted; dropping the last handle returns its
//! buffer to the device. It must not know any operation: kernels work on its slices.

use crate::{AlignedBuffer, Device};
use std::sync::Arc;

/// Sizes of up to four axes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    sizes: [usize; 4],
    rank: u8,
}

impl Shape {
    /// The shape with the given axis sizes.
    ///
    /// # Panics
    /// With more than four axes.
    pub fn new(sizes: &[usize]) -> Shape {
        let mut all = [1; 4];
        all[..sizes.len()].copy_from_slice(sizes);
        Shape { sizes: all, rank: sizes.len() as u8 }
    }

    /// The axis sizes.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes[..self.rank as usize]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.sizes().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Shape {
        Shape::new(&sizes)
    }
}

impl From<usize> for Shape {
    fn from(len: usize) -> Shape {
        Shape::new(&[len])
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.sizes()).finish()
    }
}

/// A buffer that tensors share.
pub(crate) struct Storage {
    buffer: AlignedBuffer,
}

impl Storage {
    pub(crate) fn new(len: usize) -> Storage {
        Storage { buffer: AlignedBuffer::zeroed(len) }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }
}

/// Elements on a device. Cloning shares the buffer; writing needs the only handle.
#[derive(Clone)]
pub struct Tensor {
    /// `Some` until the tensor is dropped.
    storage: Option<Arc<Storage>>,
    device: Device,
    shape: Shape,
}

impl Tensor {
    pub(crate) fn from_storage(device: Device, storage: Arc<Storage>, shape: Shape) -> Tensor {
        Tensor { storage: Some(storage), device, shape }
    }

    /// The device that holds the elements.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The axis sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Size of the first axis.
    pub fn rows(&self) -> usize {
        self.shape.sizes().first().copied().unwrap_or(1)
    }

    /// Elements of each entry of the first axis.
    pub fn width(&self) -> usize {
        self.shape.sizes().iter().skip(1).product()
    }

    /// The elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.storage().buffer[..self.shape.len()]
    }

    /// The elements, to be written.
    ///
    /// # Panics
    /// When another handle shares the buffer.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let len = self.shape.len();
        let storage = self.storage.as_mut().expect("a live tensor has its storage");
        let storage = Arc::get_mut(storage).expect("only the sole owner of a buffer may write it");
        &mut storage.buffer[..len]
    }

    /// Whether this is the only handle to the buffer.
    pub fn is_unique(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| Arc::strong_count(storage) == 1)
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("a live tensor has its storage")
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        let Some(mut storage) = self.storage.take() else { return };
        if Arc::get_mut(&mut storage).is_some() {
            self.device.recycle(storage);
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}
