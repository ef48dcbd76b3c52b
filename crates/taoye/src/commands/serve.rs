//! `taoye serve MODEL [MODEL…]` and `taoye serve key new`.

use super::load;
use crate::cli::{Serve, ServeCommand, ServeFlags, ServeKey, ServeKeyNew};
use crate::context::Context;
use anyhow::{Result, bail};
use chat::{Local, LocalOptions};
use engine::{Encoder, Options};
use model::ModelFile;
use serve::{ApiKeys, Model, ServeOptions};
use std::path::Path;
use tensor::Device;
use token::Tokenizer;

/// Serves until SIGINT or SIGTERM, or makes a key.
///
/// # Errors
/// When no model can be loaded or the port not be had.
pub fn run(context: &Context, serve: &Serve) -> Result<()> {
    match &serve.command {
        Some(ServeCommand::Key(ServeKey::New(flags))) => new_key(context, flags),
        None => serve_models(context, &serve.flags),
    }
}

fn new_key(context: &Context, flags: &ServeKeyNew) -> Result<()> {
    let key = ApiKeys::add(&flags.api_key_file, &flags.name)?;
    context.say(&format!(
        "the key of {:?}; only its hash is kept, in {}, so it cannot be shown again:",
        flags.name,
        flags.api_key_file.display()
    ));
    context.print(&key, &serde_json::json!({"name": flags.name, "key": key}));
    Ok(())
}

fn serve_models(context: &Context, flags: &ServeFlags) -> Result<()> {
    if flags.names.len() > flags.models.len() {
        bail!("--name: {} names for {} models", flags.names.len(), flags.models.len());
    }
    if flags.adapter.is_some() && flags.models.len() > 1 {
        bail!(
            "--adapter is for one model, but there are {}; merge it first, or serve that model alone",
            flags.models.len()
        );
    }
    if flags.draft.is_some() && flags.models.len() > 1 {
        bail!("--draft is for one model, but there are {}; serve that model alone", flags.models.len());
    }
    // One pool of threads for all: the models take turns at it.
    let device = context.device()?;
    let mut models = Vec::with_capacity(flags.models.len());
    for (index, path) in flags.models.iter().enumerate() {
        let name = flags.names.get(index).cloned().unwrap_or_else(|| default_name(path));
        let loaded = load_model(context, flags, path, &name, &device);
        models.push(loaded.unwrap_or_else(|error| Model::Failed { name, reason: format!("{error:#}") }));
    }
    let options = ServeOptions {
        host: flags.host.to_string(),
        port: flags.port,
        waiting_max: flags.max_waiting,
        body_bytes_max: flags.max_body << 20,
        drain_seconds: flags.drain,
        connections_max: flags.max_connections,
        api_keys: flags.api_key_file.clone(),
        requests_per_minute: flags.requests_per_minute,
        cors_origins: flags.cors_origins.clone(),
        otlp: flags.otlp.clone(),
        ..ServeOptions::default()
    };
    Ok(serve::run(models, &options)?)
}

/// What was pulled goes by the name that it was pulled by.
fn default_name(path: &Path) -> String {
    if path.exists() { chat::model_name(path) } else { path.to_string_lossy().into_owned() }
}

fn load_model(
    context: &Context,
    flags: &ServeFlags,
    path: &Path,
    name: &str,
    device: &Device,
) -> Result<Model> {
    let path = load::model(path)?;
    let loading = load::loading(context, &flags.load)?;
    let is_encoder = ModelFile::open(&path).is_ok_and(|file| !file.decoder().config().causal);
    if is_encoder {
        let encoder = Box::new(Encoder::load(&path, device.clone(), loading)?);
        let tokenizer = Box::new(Tokenizer::load(&path)?);
        return Ok(Model::Encoder { name: name.to_owned(), encoder, tokenizer });
    }
    let options = LocalOptions {
        name: Some(name.to_owned()),
        adapter: flags.adapter.clone(),
        draft: flags.draft.as_deref().map(load::model).transpose()?,
        engine: Options { guess_rows: flags.draft_max, ..load::options(&flags.load) },
        loading,
    };
    Ok(Model::Chat(Box::new(Local::load(&path, device.clone(), options)?)))
}
