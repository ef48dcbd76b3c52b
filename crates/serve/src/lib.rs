//! Models behind HTTP, in the interfaces of OpenAI, Anthropic and vLLM. Sole owner of the wire types.
//!
//! A few tasks read and write sockets on one thread; each model has a thread of its own behind a queue of limited length. What
//! this server does not know it refuses by name, in the error format of the interface that was asked.

mod admin;
mod answer;
mod api;
mod connections;
mod encoder;
mod error;
mod guard;
mod held;
mod ids;
mod keys;
mod limit;
mod metrics;
mod models;
mod outbox;
mod progress;
mod queue;
mod routes;
mod server;
mod spans;
mod vectors;
mod wire;

pub use admin::{ModelLoader, RuntimeModels};
pub use error::{Error, Result};
pub use keys::ApiKeys;
pub use models::Model;
pub use server::{ServeOptions, Server, run};
