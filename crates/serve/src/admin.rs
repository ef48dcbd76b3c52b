//! Models and adapters loaded and unloaded while others answer: llama-server's `/models`, `/models/load` and
//! `/models/unload`, vLLM's `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`. Knows no other route, and not how a model
//! is read.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::answer::json_response;
use crate::models::{Model, Models, Served, Standing};
use crate::routes::{Shared, model_json, read_fields};
use crate::wire::{ApiError, Fields};

/// How models that clients name are found and read. It is asked on threads of its own.
pub trait ModelLoader: Send + Sync {
    /// What a model goes by where no name is given.
    fn name(&self, model: &str) -> String;

    /// Looks a model up and compares what it takes with the memory that is free, before anything is read.
    ///
    /// # Errors
    /// Why it cannot be loaded, with the sizes where memory does not suffice.
    fn check(&self, model: &str) -> Result<(), String>;

    /// Reads a model, to be served by a name.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    fn load(&self, model: &str, name: &str) -> Result<Model, String>;
}

/// A [`ModelLoader`] that the server may use.
#[derive(Clone)]
pub struct RuntimeModels(Arc<dyn ModelLoader>);

impl RuntimeModels {
    /// Lets clients load what `loader` finds.
    pub fn new(loader: impl ModelLoader + 'static) -> RuntimeModels {
        RuntimeModels(Arc::new(loader))
    }
}

impl fmt::Debug for RuntimeModels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RuntimeModels")
    }
}

/// The way to the thread that loads models, one after another.
pub(crate) struct Loading {
    loader: Arc<dyn ModelLoader>,
    /// Model and name. As many wait as there are names at most.
    orders: Mutex<Sender<(String, String)>>,
}

impl Loading {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(RuntimeModels(loader): RuntimeModels, models: &Arc<Models>) -> std::io::Result<Loading> {
        let (orders, receiver) = channel();
        let (reader, models) = (Arc::clone(&loader), Arc::clone(models));
        std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || load_all(&*reader, &models, &receiver))?;
        Ok(Loading { loader, orders: Mutex::new(orders) })
    }

    fn order(&self, model: String, name: String) -> Result<(), ApiError> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.send((model, name)).map_err(|_| ApiError::closing())
    }
}

fn load_all(loader: &dyn ModelLoader, models: &Models, orders: &Receiver<(String, String)>) {
    while let Ok((model, name)) = orders.recv() {
        let loaded = catch_unwind(AssertUnwindSafe(|| loader.load(&model, &name)));
        let loaded =
            loaded.unwrap_or_else(|_| Err("reading it failed; the server's log says why".to_owned()));
        models.finish(&name, loaded);
    }
}

/// `GET /models`: every name with what has become of it.
pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let data: Vec<Value> = shared.models.standings().iter().map(standing_json).collect();
    json_response(&json!({"object": "list", "data": data}))
}

fn standing_json(standing: &Standing) -> Value {
    let mut status = json!({"value": standing.state});
    if let Some(reason) = &standing.reason {
        // llama-server calls a model that failed unloaded, and says so beside it.
        status = json!({"value": "unloaded", "failed": true, "error": reason});
    }
    let mut entry = match &standing.served {
        Some(served) => model_json(served),
        None => json!({"id": standing.name, "object": "model", "owned_by": "taoye"}),
    };
    entry["status"] = status;
    if let Some(memory) = standing.served.as_ref().and_then(|served| served.memory) {
        entry["memory"] = json!({"weights_bytes": memory.weights_bytes, "cache_bytes": memory.cache_bytes});
    }
    entry
}

/// `POST /models/load`: answers at once; the model is loaded in the background.
pub(crate) async fn load(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    let loading = permitted(&shared)?;
    let mut fields = read_fields(&shared, body).await?;
    let model = fields.required_text("model")?;
    let name = fields.string("name")?.unwrap_or_else(|| loading.loader.name(&model));
    fields.finish()?;
    shared.models.check_name(&name).or_else(|error| {
        let failed = |standing: &Standing| standing.name == name && standing.reason.is_some();
        if shared.models.standings().iter().any(failed) { Ok(()) } else { Err(error) }
    })?;
    let (loader, wanted) = (Arc::clone(&loading.loader), model.clone());
    let checked = tokio::task::spawn_blocking(move || loader.check(&wanted)).await;
    checked.map_err(|_| ApiError::internal("The model could not be looked up."))?.map_err(|reason| {
        let message = format!("The model '{model}' cannot be loaded: {reason}.");
        ApiError::invalid(Some("model"), message).with_code("model_not_loadable")
    })?;
    shared.models.reserve(&name)?;
    loading.order(model, name.clone())?;
    Ok(json_response(&json!({"success": true, "model": name, "status": {"value": "loading"}})))
}

/// `POST /models/unload`: answers at once; answers under way end as they would have.
pub(crate) async fn unload(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, ApiError> {
    let (fields, model) = read_named(&shared, body, "model").await?;
    fields.finish()?;
    shared.models.unload(&model)?;
    Ok(json_response(&json!({"success": true, "model": model})))
}

/// `POST /v1/load_lora_adapter`: answers when requests may name it.
pub(crate) async fn load_adapter(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, ApiError> {
    let (mut fields, name) = read_named(&shared, body, "lora_name").await?;
    let folder = PathBuf::from(fields.required_text("lora_path")?);
    let base = fields.string("base_model_name")?;
    fields.refuse("/v1/load_lora_adapter")?;
    fields.finish()?;
    shared.models.check_name(&name).map_err(|error| error.with_param("model", "lora_name"))?;
    let base = base_model(&shared.models, base.as_deref())?;
    let chat = base.chat()?;
    let (reader, wanted, from) = (Arc::clone(&chat.adapters), name.clone(), folder.clone());
    let read = tokio::task::spawn_blocking(move || reader.read(&wanted, &from)).await;
    let read = read.map_err(|_| ApiError::internal("The adapter could not be read."))?;
    let refuse = |error: engine::Error| {
        let message = format!("The adapter '{name}' cannot be loaded: {error}.");
        ApiError::invalid(Some("lora_path"), message).with_code("adapter_not_loadable")
    };
    chat.queue.insert_adapter(read.map_err(refuse)?).await?.map_err(refuse)?;
    if let Err(error) = shared.models.add_adapter(&base, &name, &folder) {
        chat.queue.remove_adapter(&name);
        return Err(error.with_param("model", "lora_name"));
    }
    Ok(format!("Success: LoRA adapter '{name}' added successfully.").into_response())
}

/// `POST /v1/unload_lora_adapter`: answers under way with it go on to their end.
pub(crate) async fn unload_adapter(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<Response, ApiError> {
    let (mut fields, name) = read_named(&shared, body, "lora_name").await?;
    fields.refuse("/v1/unload_lora_adapter")?;
    fields.finish()?;
    let served = shared.models.remove_adapter(&name)?;
    served.chat()?.queue.remove_adapter(&name);
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

/// The fields of a body that changes what is served, and the one that names what it is about.
async fn read_named(shared: &Shared, body: Body, field: &'static str) -> Result<(Fields, String), ApiError> {
    permitted(shared)?;
    let mut fields = read_fields(shared, body).await?;
    let name = fields.required_text(field)?;
    Ok((fields, name))
}

/// The model that adapters are for; where it is not named, the only one that answers.
fn base_model(models: &Models, wanted: Option<&str>) -> Result<Arc<Served>, ApiError> {
    let named = |error: ApiError| error.with_param("model", "base_model_name");
    if let Some(wanted) = wanted {
        let served = models.find(Some(wanted)).map_err(named)?;
        if let Some(adapted) = &served.adapted {
            let message = format!("'{wanted}' is an adapter itself, of '{}'.", adapted.parent);
            return Err(ApiError::invalid(Some("base_model_name"), message).with_code("invalid_value"));
        }
        return Ok(served);
    }
    let all = models.all();
    let mut bases = all.into_iter().filter(|served| served.adapted.is_none() && served.chat().is_ok());
    match (bases.next(), bases.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            Err(ApiError::missing("base_model_name", "this server has several models, or none that answers"))
        }
    }
}

/// # Errors
/// Where clients may not change what is served.
fn permitted(shared: &Shared) -> Result<&Loading, ApiError> {
    shared.loading.as_ref().ok_or_else(|| {
        let message = "Models and adapters cannot be loaded or unloaded while this server runs; start it with \
                       --runtime-models where clients may name folders of its disk.";
        ApiError::invalid(None, message).with_status(403).with_code("not_enabled")
    })
}
