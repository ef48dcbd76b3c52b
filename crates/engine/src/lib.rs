//! Token ids in, token ids out: a paged key/value cache, one ragged forward pass for prefill and decoding,
//! sampling, and a scheduler that keeps many requests under way.
//!
//! The engine runs `model::Decoder` through a forward-only implementation of `tensor::Ops`. Every sum keeps
//! the order that training uses, so the log-probabilities found here equal the trainer's bit for bit on the
//! same `f32` weights, whether a prompt is computed whole, in chunks, token by token, alone or in company.
//!
//! This crate must not know text, messages, templates or HTTP.

mod adapter;
mod cache;
mod constraint;
mod durations;
mod encoder;
mod engine;
mod error;
mod forward;
mod generate;
mod pages;
mod prefix;
mod request;
mod rotary;
mod sampler;
mod scheduler;
mod sequence;
mod weights;

pub use adapter::{Adapter, AdapterReader};
pub use constraint::{Constraint, Mask};
pub use durations::Durations;
pub use encoder::{Encoder, Pooling};
pub use engine::{Engine, Loading, Logits, Memory, Options, Rows, WeightType};
pub use error::{Error, Result};
pub use generate::OnToken;
pub use pages::{PagePool, PageTable};
pub use request::{Completion, Dry, Finish, FinishReason, LogProb, Request, Sampling, Token, TokenLogProbs};
pub use scheduler::{Event, OnEvent, Scheduler, Statistics, Ticket};
pub use sequence::{Chunk, LogitRows, Sequence};
pub use tensor::kernels::attention::KvType;
pub use tensor::{Device, Isa};
