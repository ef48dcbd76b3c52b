//! `taoye plan`: flags turned into requests for the crate `plan`, and its answers into text and JSON.

mod chips;
mod forecast;
mod graphics;
mod here;
mod proof;
mod serve;
mod show;
mod train;

use crate::cli::{Plan, PlanCommand};
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use plan::architecture::{self, Architecture};
use plan::catalog::{Catalog, Precision};
use std::path::Path;

/// Runs one of the planner's commands.
///
/// # Errors
/// When the request cannot be met, saying what is nearest possible.
pub fn run(context: &Context, flags: &Plan) -> Result<()> {
    match &flags.command {
        Some(PlanCommand::Train(flags)) => train::run(context, flags),
        Some(PlanCommand::Serve(flags)) => serve::run(context, flags),
        Some(PlanCommand::Chips(flags)) => chips::run(context, flags),
        Some(PlanCommand::Forecast(flags)) => forecast::run(context, flags),
        Some(PlanCommand::Proof) => proof::run(context),
        None if flags.here => here::run(context, flags.hours),
        None => bail!("give --here, or one of train, serve, chips, forecast and proof"),
    }
}

/// The shipped catalogue with a user's.
fn catalog(file: Option<&Path>) -> Result<Catalog> {
    let shipped = Catalog::shipped();
    let Some(file) = file else { return Ok(shipped) };
    let text = base::fs::read_text(file).context("--catalog")?;
    Ok(shipped.with(Catalog::parse(&text, &file.display().to_string())?))
}

/// The model that a flag names: a `config.json`, its folder, a known model or a size.
fn model(name: &str) -> Result<Architecture> {
    let path = Path::new(name);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    match file.is_file() {
        true => Ok(architecture::from_config(&base::fs::read_text(&file)?, &file.display().to_string())?),
        false => Ok(architecture::named(name).context("--model")?),
    }
}

/// A flag's number with its unit.
fn parsed<T, E>(flag: &str, text: Option<&String>, parse: impl Fn(&str) -> Result<T, E>) -> Result<Option<T>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    text.map(|text| parse(text).with_context(|| flag.to_owned())).transpose()
}

/// A flag's number that must be above zero.
fn positive(flag: &str, value: Option<f64>) -> Result<Option<f64>> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0) => {
            bail!("{flag}: {value} must be a finite number above zero")
        }
        value => Ok(value),
    }
}

fn precision(flag: &str, name: &str) -> Result<Precision> {
    Precision::from_name(name).with_context(|| {
        let known: Vec<&str> = Precision::ALL.iter().map(|known| known.0).collect();
        format!("{flag}: there is no type `{name}`; known: {}", known.join(", "))
    })
}
