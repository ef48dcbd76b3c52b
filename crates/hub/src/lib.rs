//! A model's files from a hub onto this disk: listing, choice, download with resume and checksums, and where they lie.
//!
//! It must not know what is in the files.
//!
//! ```no_run
//! # fn main() -> hub::Result<()> {
//! let name: hub::ModelName = "HuggingFaceTB/SmolLM2-135M-Instruct".parse()?;
//! let hub = hub::Hub::from_environment(hub::Kind::HuggingFace);
//! let request = hub::Request::new(&name, hub::models_folder()?);
//! println!("{}", hub::pull(&hub, &request)?.model.display());
//! # Ok(())
//! # }
//! ```

mod client;
mod download;
mod error;
mod listing;
mod name;
mod pull;
mod select;
mod store;

pub use client::Policy;
pub use error::{Error, Result};
pub use listing::{Checksum, Hub, Kind};
pub use name::{ModelName, Part};
pub use pull::{Pulled, PulledFile, Request, pull, pull_offline};
pub use store::{MODELS_VARIABLE, find, find_in, models_folder};
