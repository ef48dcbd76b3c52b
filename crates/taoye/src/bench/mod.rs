//! `taoye bench`: this program's speed beside the machine's own limits, measured in the same run.

mod attention;
mod gemm;
mod inference;
mod masks;
mod profile;
mod quant;
mod serve;
mod stream;
mod sweep;
mod tokenizer;
mod train;

use crate::cli::Bench;
use crate::context::Context;
use anyhow::Result;

/// Runs one benchmark.
///
/// # Errors
/// When its input cannot be had.
pub fn run(context: &Context, command: &Bench) -> Result<()> {
    match command {
        Bench::Gemm => gemm::run(context),
        Bench::Attention(flags) => attention::run(context, flags),
        Bench::Train(flags) => train::run(context, flags),
        Bench::Sweep(flags) => sweep::run(context, flags),
        Bench::Tokenizer(flags) => tokenizer::run(context, flags),
        Bench::Quant(flags) => quant::run(context, flags),
        Bench::Prefill(flags) => inference::prefill(context, flags),
        Bench::Decode(flags) => inference::decode(context, flags),
        Bench::Serve(flags) => serve::run(context, flags),
        Bench::Masks(flags) => masks::run(context, flags),
    }
}
