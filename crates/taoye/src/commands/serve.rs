//! `taoye serve MODEL`.

use super::load;
use crate::cli::Serve;
use crate::context::Context;
use anyhow::Result;
use chat::{Local, LocalOptions};
use serve::ServeOptions;

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// When the model cannot be loaded or the port not be had.
pub fn run(context: &Context, flags: &Serve) -> Result<()> {
    let options = LocalOptions {
        name: flags.name.clone(),
        adapter: flags.adapter.clone(),
        draft: flags.draft.as_deref().map(load::model).transpose()?,
        engine: load::options(&flags.load),
        loading: load::loading(context, &flags.load)?,
    };
    let local = Local::load(&load::model(&flags.model)?, context.device()?, options)?;
    let options = ServeOptions { host: flags.host.to_string(), port: flags.port, ..ServeOptions::default() };
    Ok(serve::run(local, &options)?)
}
