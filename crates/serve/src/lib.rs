//! A model behind HTTP: OpenAI's chat and completion endpoints on this machine. Sole owner of the wire types.
//!
//! A few tasks read and write sockets on one thread; the model has a thread of its own behind a queue of
//! limited length. What this server does not know it refuses by name, in OpenAI's error format.

mod answer;
mod error;
mod ids;
mod queue;
mod routes;
mod server;
mod wire;

pub use error::{Error, Result};
pub use server::{ServeOptions, Server, run};
