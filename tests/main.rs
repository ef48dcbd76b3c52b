//! Tests that drive the built binary as a person or a client does: from raw text to a served answer, killed and
//! taken up again, asked over HTTP, and given bad input.
//!
//! They must not reach into any crate: only the command line, files and sockets.
#![allow(clippy::unwrap_used)]

mod bad_input;
#[cfg(target_os = "linux")]
mod gpu;
mod harness;
mod http;
mod planning;
mod resume;
mod runs;
mod serving;
mod speedrun;
mod tuning;
