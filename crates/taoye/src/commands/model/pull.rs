//! `taoye model pull`: a model from a hub into the local folder of models. It must not know what is in the files.

use crate::cli::{HubKind, ModelPull};
use crate::context::Context;
use anyhow::Result;
use base::progress::format_bytes;
use hub::{Hub, Kind, ModelName, Pulled, Request};
use serde_json::json;

/// # Errors
/// The name is none, the hub lacks the model or fails, or the files cannot be written.
pub fn run(context: &Context, flags: &ModelPull) -> Result<()> {
    base::interrupt::install()?;
    let name: ModelName = flags.name.parse()?;
    let request = Request {
        name: &name,
        revision: flags.revision.as_deref(),
        include: &flags.include,
        models: flags.models.clone().map_or_else(hub::models_folder, Ok)?,
        output: context.progress,
    };
    let pulled = if flags.offline || offline_by_environment() {
        hub::pull_offline(&request)?
    } else {
        let kind = match flags.hub {
            HubKind::Huggingface => Kind::HuggingFace,
            HubKind::Modelscope => Kind::ModelScope,
        };
        hub::pull(&Hub::from_environment(kind), &request)?
    };
    context.print(&told(&name, &pulled), &as_json(&name, &pulled));
    Ok(())
}

/// `HF_HUB_OFFLINE`, with the values that huggingface_hub takes for true.
fn offline_by_environment() -> bool {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
}

fn new_bytes(pulled: &Pulled) -> u64 {
    pulled.files.iter().filter(|file| file.is_new).map(|file| file.size_bytes).sum()
}

fn told(name: &ModelName, pulled: &Pulled) -> String {
    let new = pulled.files.iter().filter(|file| file.is_new).count();
    let amount = match new {
        0 => "everything was here".to_owned(),
        new => format!(
            "{new} of {} files fetched, {}",
            pulled.files.len(),
            format_bytes(new_bytes(pulled) as f64)
        ),
    };
    format!("{}\n{amount}; talk to it with: taoye chat {name}", pulled.model.display())
}

fn as_json(name: &ModelName, pulled: &Pulled) -> serde_json::Value {
    let files: Vec<_> = pulled
        .files
        .iter()
        .map(|file| json!({"path": file.path, "bytes": file.size_bytes, "fetched": file.is_new}))
        .collect();
    json!({
        "name": name.to_string(),
        "model": pulled.model.display().to_string(),
        "revision": pulled.revision,
        "files": files,
        "fetched_bytes": new_bytes(pulled),
    })
}
