//! `taoye serve MODEL [MODEL…]` and `taoye serve key new`.

use super::load;
use crate::cli::{Lora, Serve, ServeCommand, ServeFlags, ServeKey, ServeKeyNew};
use crate::context::{Context, explain};
use anyhow::{Result, bail};
use chat::{Local, LocalOptions};
use engine::{Encoder, Engine};
use model::ModelFile;
use serve::{ApiKeys, Model, ModelLoader, RuntimeModels, ServeOptions};
use std::path::{Path, PathBuf};
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
    let reader = Reader {
        // One pool of threads for all: the models take turns at it.
        device: context.device()?,
        engine: engine::Options { guess_rows: flags.draft_max, ..load::options(&flags.load) },
        loading: load::loading(context, &flags.load)?,
        adapter: flags.adapter.clone(),
        draft: flags.draft.as_deref().map(load::model).transpose()?,
    };
    let mut models = Vec::with_capacity(flags.models.len());
    for (index, path) in flags.models.iter().enumerate() {
        let name = flags.names.get(index).cloned().unwrap_or_else(|| default_name(path));
        let loaded = reader.read(path, &name);
        models.push(loaded.unwrap_or_else(|error| Model::Failed { name, reason: explain(&error) }));
    }
    for lora in &flags.loras {
        add_adapter(&mut models, lora)?;
    }
    let runtime = Reader { adapter: None, draft: None, ..reader };
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
        runtime_models: flags.runtime_models.then(|| RuntimeModels::new(runtime)),
        otlp: flags.otlp.clone(),
        ..ServeOptions::default()
    };
    Ok(serve::run(models, &options)?)
}

/// What was pulled goes by the name that it was pulled by.
fn default_name(path: &Path) -> String {
    if path.exists() { chat::model_name(path) } else { path.to_string_lossy().into_owned() }
}

/// Adds adapters to the model that they are for. What cannot be read is said where its name would be served.
fn add_adapter(models: &mut Vec<Model>, lora: &Lora) -> Result<()> {
    let Lora { name, path, base } = lora;
    let is_base = |local: &Local| base.as_deref().is_none_or(|base| base == chat::ChatModel::name(local));
    let chats = models.iter_mut().filter_map(|model| match model {
        Model::Chat(local) if is_base(local) => Some(local),
        _ => None,
    });
    let mut chats: Vec<_> = chats.collect();
    let inserted = match (chats.as_mut_slice(), base) {
        ([local], _) => {
            let read = local.engine().adapter_reader().read(name, path);
            read.and_then(|adapter| local.insert_adapter(adapter)).map_err(|error| error.to_string())
        }
        (_, Some(base)) => Err(format!("its base model {base} is not there")),
        ([], None) => Err("no model is there that it could be for".to_owned()),
        (_, None) => bail!(
            "--lora {name}: there are several models; say which it is for: \
             --lora '{{\"name\": \"{name}\", \"path\": \"{}\", \"base_model_name\": \"MODEL\"}}'",
            path.display()
        ),
    };
    if let Err(reason) = inserted {
        models.push(Model::Failed { name: name.clone(), reason });
    }
    Ok(())
}

/// How models are read.
struct Reader {
    device: Device,
    engine: engine::Options,
    loading: engine::Loading,
    adapter: Option<PathBuf>,
    draft: Option<PathBuf>,
}

impl Reader {
    fn read(&self, path: &Path, name: &str) -> Result<Model> {
        let path = load::model(path)?;
        let (device, loading) = (self.device.clone(), self.loading.clone());
        let is_encoder = ModelFile::open(&path).is_ok_and(|file| !file.decoder().config().causal);
        if is_encoder {
            let encoder = Box::new(Encoder::load(&path, device, loading)?);
            let tokenizer = Box::new(Tokenizer::load(&path)?);
            return Ok(Model::Encoder { name: name.to_owned(), encoder, tokenizer });
        }
        let options = LocalOptions {
            name: Some(name.to_owned()),
            adapter: self.adapter.clone(),
            draft: self.draft.clone(),
            engine: self.engine.clone(),
            loading,
        };
        Ok(Model::Chat(Box::new(Local::load(&path, device, options)?)))
    }
}

/// What clients name: paths of this disk, and what was pulled.
impl ModelLoader for Reader {
    fn name(&self, model: &str) -> String {
        default_name(Path::new(model))
    }

    fn check(&self, model: &str) -> Result<(), String> {
        let path = load::model(Path::new(model)).map_err(|error| explain(&error))?;
        Engine::check_load(&path, &self.device, &self.engine, &self.loading)
            .map_err(|error| error.to_string())
    }

    fn load(&self, model: &str, name: &str) -> Result<Model, String> {
        self.read(Path::new(model), name).map_err(|error| explain(&error))
    }
}
