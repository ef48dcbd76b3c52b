//! The one decoder, driven by its configuration; its weights, read from and written to Hugging Face
//! folders.
//!
//! [`Decoder::forward`] is generic over [`tensor::Ops`]: training runs it on a [`tensor::Tape`], the
//! engine on a forward-only machine over pages of keys and values. This crate must not know how
//! weights are trained or tokens are sampled.

mod adapter_file;
mod adapters;
mod config;
mod decoder;
mod error;
mod file;
mod layout;
mod parameters;
mod pass;
mod weights_file;

pub use adapters::{AdapterOptions, Adapters, Module, Weights};
pub use config::{Config, ExpertLayers, Family, NormPlace, Positions, Rope, RopeScaling, Sliding};
pub use decoder::Decoder;
pub use error::Error;
pub use file::{Change, Composition, Format, Mix, ModelFile, RowOrder, Stored};
pub use layout::{Entry, Layout, Role, Storage};
pub use parameters::Parameters;
pub use pass::{Pass, PassTimes, Rows};
