//! The crate's errors. A wrong shape inside the program is a panic with the shapes; these are what a user can cause.

use crate::Isa;

/// What can go wrong outside the program's own control.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `TAOYE_ISA` or `--isa` names no known instruction set.
    #[error(
        "there is no instruction set '{name}'; this processor has: {available}. Choose one of these, or none for the fastest"
    )]
    UnknownIsa {
        /// The name as given.
        name: String,
        /// What this processor has.
        available: String,
    },
    /// The instruction set is known, but this processor lacks it.
    #[error(
        "this processor lacks the instruction set '{isa}'; it has: {available}. Choose one of these, or none for the fastest"
    )]
    IsaUnavailable {
        /// The one asked for.
        isa: Isa,
        /// What this processor has.
        available: String,
    },
}
