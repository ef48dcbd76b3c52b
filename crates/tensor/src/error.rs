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
    /// A weight cannot be quantised.
    #[error("row {row}, column {column} holds {value}, which {kind} cannot: repair or replace the weights")]
    NotFinite {
        /// Infinite or not a number.
        value: f32,
        /// Its row, from 0.
        row: usize,
        /// Its column, from 0.
        column: usize,
        /// The type to be quantised to.
        kind: &'static str,
    },
}
