//! What a kernel needs of the machine: threads and an instruction set that the processor has.

use crate::{Error, Isa, Pool};

/// A pool and an available instruction set; cheap to copy.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    pub(crate) pool: &'a Pool,
    /// Available on this processor: the dispatch of every kernel rests on it.
    pub(crate) isa: Isa,
}

impl<'a> Exec<'a> {
    /// Kernels on `pool` with `isa`.
    ///
    /// # Errors
    /// This processor lacks the instruction set.
    pub fn new(pool: &'a Pool, isa: Isa) -> Result<Exec<'a>, Error> {
        Ok(Exec { pool, isa: isa.require_available()? })
    }

    /// The threads.
    pub fn pool(self) -> &'a Pool {
        self.pool
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }
}
