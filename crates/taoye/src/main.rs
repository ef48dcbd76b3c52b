//! The binary: reads the command line and calls the crates that do the work.

mod bench;
mod cli;
mod commands;
mod context;
mod pipeline;
mod recipe;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Exit status after Ctrl-C, as shells report it: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

#[global_allocator]
static ALLOCATOR: tensor::CountingAllocator = tensor::CountingAllocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(pipeline::Ended::Done) => ExitCode::SUCCESS,
        Ok(pipeline::Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) if error.is::<pipeline::Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {}", context::explain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<pipeline::Ended> {
    let context = context::Context::new(&cli.global)?;
    match &cli.command {
        Command::Speedrun(flags) => return commands::run::speedrun(&context, flags),
        Command::Run(flags) => return commands::run::recipe(&context, flags),
        Command::Train(flags) => return commands::train::run(&context, flags),
        Command::Runs(flags) => commands::runs::run(&context, flags),
        Command::Chat(flags) => commands::chat::run(&context, flags),
        Command::Serve(flags) => commands::serve::run(&context, flags),
        Command::Corpus(flags) => commands::corpus::run(&context, flags),
        Command::Tokenizer(command) => commands::tokenizer::run(&context, command),
        Command::Model(command) => commands::model::run(&context, command),
        Command::Embed(flags) => commands::embed::run(&context, flags),
        Command::Eval(command) => commands::eval::run(&context, command),
        Command::Plan(flags) => commands::plan::run(&context, flags),
        Command::Bench(command) => bench::run(&context, command),
    }?;
    Ok(pipeline::Ended::Done)
}
