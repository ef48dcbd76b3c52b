//! The models and adapters that are served, by name, as they come and go. Knows neither HTTP nor how answers are written down.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chat::{Codec, Local, Structures};
use engine::{Adapter, AdapterReader, Encoder, Memory};
use token::Tokenizer;

use crate::encoder::EncoderQueue;
use crate::metrics::Metrics;
use crate::queue::{Queue, Worker};
use crate::wire::ApiError;

/// Names at most, those of adapters and of models that failed among them.
const NAMES_MAX: usize = 256;

/// A model to serve, or the reason why there is none of that name.
pub enum Model {
    /// It answers conversations and continues texts; the adapters that its engine has are served by their own names.
    Chat(Box<Local>),
    /// It makes vectors of texts.
    Encoder {
        /// Its name.
        name: String,
        /// The model.
        encoder: Box<Encoder>,
        /// Its tokenizer.
        tokenizer: Box<Tokenizer>,
    },
    /// It could not be loaded.
    Failed {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// A model that answers.
pub(crate) struct Served {
    pub name: String,
    pub kind: Kind,
    /// The most tokens that prompt and answer may take together.
    pub context_tokens: usize,
    /// Where it is a model with adapters: which.
    pub adapted: Option<Adapted>,
    pub memory: Option<Memory>,
    /// In seconds since 1970.
    pub created: u64,
}

/// What an adapter is one of.
pub(crate) struct Adapted {
    /// The base model's name.
    pub parent: String,
    /// The PEFT folder.
    pub folder: String,
}

pub(crate) enum Kind {
    Chat(ChatModel),
    Encoder(EncoderModel),
}

/// The way to a model that answers.
#[derive(Clone)]
pub(crate) struct ChatModel {
    pub queue: Queue,
    pub codec: Arc<Codec>,
    pub structures: Arc<Structures>,
    pub adapters: Arc<AdapterReader>,
}

/// The way to a model that makes vectors.
pub(crate) struct EncoderModel {
    pub queue: EncoderQueue,
    pub tokenizer: Arc<Tokenizer>,
    pub width: usize,
}

/// All models.
pub(crate) struct Models {
    /// In the order of their coming.
    entries: Mutex<Vec<Entry>>,
    waiting_max: usize,
    metrics: Arc<Metrics>,
}

struct Entry {
    name: String,
    state: State,
}

enum State {
    /// It is being loaded.
    Loading,
    /// It answers; an adapter has no thread of its own.
    Ready(Arc<Served>, Option<Worker>),
    /// No new request gets there; the thread ends with the last answer, and the memory is free.
    Unloading(Worker),
    /// Why it could not be loaded.
    Failed(String),
}

/// What has become of a name.
#[derive(Clone)]
pub(crate) struct Standing {
    pub name: String,
    /// `loading`, `loaded`, `unloading` or `failed`.
    pub state: &'static str,
    pub served: Option<Arc<Served>>,
    /// Why it failed.
    pub reason: Option<String>,
}

impl Models {
    /// Starts a thread for each model.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(
        models: Vec<Model>,
        waiting_max: usize,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Arc<Models>> {
        let all = Models { entries: Mutex::default(), waiting_max, metrics: Arc::clone(metrics) };
        for model in models {
            let entries = all.begin(model)?;
            all.lock().extend(entries);
        }
        Ok(Arc::new(all))
    }

    /// Starts a model's thread; its entry, and one for each of its adapters.
    fn begin(&self, model: Model) -> std::io::Result<Vec<Entry>> {
        let created = crate::ids::unix_seconds();
        match model {
            Model::Chat(local) => {
                let name = chat::ChatModel::name(&*local).to_owned();
                let context_tokens = chat::ChatModel::context_tokens(&*local);
                let (codec, structures) = (Arc::clone(local.codec()), Arc::clone(local.structures()));
                let adapters = Arc::new(local.engine().adapter_reader());
                let (memory, known) = (Some(local.engine().memory()), local.engine().adapters().to_vec());
                let (queue, worker) = Queue::start(*local, self.waiting_max, &self.metrics)?;
                let kind = Kind::Chat(ChatModel { queue, codec, structures, adapters });
                let served =
                    Served { name: name.clone(), kind, context_tokens, adapted: None, memory, created };
                let served = Arc::new(served);
                let adapted = known.iter().filter_map(|adapter| adapter_entry(&served, adapter));
                let adapted: Vec<Entry> = adapted.collect();
                let base = Entry { name, state: State::Ready(served, Some(worker)) };
                Ok(std::iter::once(base).chain(adapted).collect())
            }
            Model::Encoder { name, encoder, tokenizer } => {
                let (context_tokens, width) = (encoder.context_tokens(), encoder.config().hidden_size);
                let (queue, worker) = EncoderQueue::start(*encoder, self.waiting_max)?;
                let kind = Kind::Encoder(EncoderModel { queue, tokenizer: Arc::from(tokenizer), width });
                let served =
                    Served { name: name.clone(), kind, context_tokens, adapted: None, memory: None, created };
                Ok(vec![Entry { name, state: State::Ready(Arc::new(served), Some(worker)) }])
            }
            Model::Failed { name, reason } => Ok(vec![Entry { name, state: State::Failed(reason) }]),
        }
    }

    /// All that answer.
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.lock().iter().filter_map(Entry::served).cloned().collect()
    }

    /// All names, and what has become of them.
    pub fn standings(&self) -> Vec<Standing> {
        self.lock().iter().map(Entry::standing).collect()
    }

    /// The model of that name; where none is given, the only one that is no adapter.
    ///
    /// # Errors
    /// Where there is none, or it does not answer yet or any more.
    pub fn find(&self, wanted: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let entries = self.lock();
        let Some(wanted) = wanted else {
            let mut bases =
                entries.iter().filter_map(Entry::served).filter(|served| served.adapted.is_none());
            return match (bases.next(), bases.next()) {
                (Some(only), None) => Ok(Arc::clone(only)),
                _ => Err(ApiError::missing("model", &format!("this server has {}", names(&entries)))),
            };
        };
        let not_here = |message: String, code: &'static str| {
            Err(ApiError::internal(message).with_status(503).with_code(code))
        };
        match entries.iter().find(|entry| entry.name == wanted).map(|entry| &entry.state) {
            Some(State::Ready(served, _)) => Ok(Arc::clone(served)),
            Some(State::Loading) => {
                not_here(format!("The model '{wanted}' is being loaded; try again later."), "model_loading")
            }
            Some(State::Failed(reason)) => {
                let message = format!("The model '{wanted}' could not be loaded: {reason}.");
                not_here(message, "model_not_loaded")
            }
            Some(State::Unloading(_)) | None => Err(ApiError::unknown_model(wanted, &names(&entries))),
        }
    }

    /// Takes a name for a model that is about to be loaded; one that failed may be tried again.
    ///
    /// # Errors
    /// Where the name is taken, or too many are.
    pub fn reserve(&self, name: &str) -> Result<(), ApiError> {
        let mut entries = self.lock();
        entries.retain(|entry| entry.name != name || !matches!(entry.state, State::Failed(_)));
        check_name(&entries, name)?;
        entries.push(Entry { name: name.to_owned(), state: State::Loading });
        Ok(())
    }

    /// What has become of a model whose name was reserved.
    pub fn finish(&self, name: &str, loaded: Result<Model, String>) {
        let begun = loaded.and_then(|model| self.begin(model).map_err(|error| error.to_string()));
        let mut entries = self.lock();
        // Where the name is gone the server is ending, and the model goes too.
        let Some(place) = entries.iter().position(|entry| entry.is_loading(name)) else { return };
        entries.remove(place);
        match begun {
            Ok(begun) => entries.extend(begun),
            Err(reason) => entries.push(Entry { name: name.to_owned(), state: State::Failed(reason) }),
        }
    }

    /// Lets a model go: no new request gets to it or to its adapters; answers under way end as they would have. A name that
    /// failed is forgotten.
    ///
    /// # Errors
    /// Where there is no such model, or it is an adapter or still loading.
    pub fn unload(&self, name: &str) -> Result<(), ApiError> {
        let mut entries = self.lock();
        let Some(place) = entries.iter().position(|entry| entry.name == name) else {
            return Err(ApiError::unknown_model(name, &names(&entries)));
        };
        let refuse =
            |message: String| Err(ApiError::invalid(Some("model"), message).with_code("invalid_value"));
        match &entries[place].state {
            State::Ready(served, _) if served.adapted.is_some() => {
                return refuse(format!("'{name}' is an adapter; unload it at /v1/unload_lora_adapter."));
            }
            State::Loading => return refuse(format!("The model '{name}' is being loaded; try again later.")),
            State::Unloading(_) => return Ok(()),
            State::Ready(..) | State::Failed(_) => {}
        }
        let entry = entries.remove(place);
        if let State::Ready(served, worker) = entry.state {
            entries.retain(|other| other.parent() != Some(served.name.as_str()));
            if let Some(worker) = worker {
                entries.push(Entry { name: entry.name, state: State::Unloading(worker) });
            }
        }
        Ok(())
    }

    /// Lists adapters that a model's engine has taken on.
    ///
    /// # Errors
    /// Where the name is taken, or too many are.
    pub fn add_adapter(&self, base: &Arc<Served>, name: &str, folder: &Path) -> Result<(), ApiError> {
        let mut entries = self.lock();
        check_name(&entries, name)?;
        let served = base.with_adapter(name, folder);
        let served = served.ok_or_else(|| base.wrong_kind("is an encoder and takes no adapters"))?;
        entries.push(Entry { name: name.to_owned(), state: State::Ready(served, None) });
        Ok(())
    }

    /// Whether a name is free.
    ///
    /// # Errors
    /// Where it is taken, or too many are.
    pub fn check_name(&self, name: &str) -> Result<(), ApiError> {
        check_name(&self.lock(), name)
    }

    /// Takes an adapter off the list.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn remove_adapter(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let mut entries = self.lock();
        let is_it = |entry: &Entry| entry.name == name && entry.parent().is_some();
        let Some(place) = entries.iter().position(is_it) else {
            let message = format!("There is no adapter '{name}'; this server has {}.", names(&entries));
            let error = ApiError::invalid(Some("lora_name"), message);
            return Err(error.with_status(404).with_code("model_not_found"));
        };
        match entries.remove(place).state {
            State::Ready(served, _) => Ok(served),
            _ => unreachable!("only what answers has a parent"),
        }
    }

    /// Lets all models go; the threads to wait for.
    pub fn close(&self) -> Vec<Worker> {
        let worker = |entry: Entry| match entry.state {
            State::Ready(_, worker) => worker,
            State::Unloading(worker) => Some(worker),
            State::Loading | State::Failed(_) => None,
        };
        self.lock().drain(..).filter_map(worker).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Every change is one push or one removal.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| !matches!(&entry.state, State::Unloading(worker) if worker.has_ended()));
        entries
    }
}

fn check_name(entries: &[Entry], name: &str) -> Result<(), ApiError> {
    if let Some(entry) = entries.iter().find(|entry| entry.name == name) {
        let message = format!(
            "There is a model '{name}' already ({}); unload it first, or choose another name.",
            entry.standing().state
        );
        return Err(ApiError::invalid(Some("model"), message).with_code("model_exists"));
    }
    if entries.len() >= NAMES_MAX {
        let message = format!("All {NAMES_MAX} names of models are taken; unload some first.");
        return Err(ApiError::invalid(Some("model"), message).with_code("too_many_models"));
    }
    Ok(())
}

fn names(entries: &[Entry]) -> String {
    let names: Vec<String> =
        entries.iter().filter_map(Entry::served).map(|served| format!("'{}'", served.name)).collect();
    if names.is_empty() { "none at present".to_owned() } else { names.join(", ") }
}

fn adapter_entry(base: &Arc<Served>, adapter: &Adapter) -> Option<Entry> {
    let served = base.with_adapter(adapter.name(), adapter.folder())?;
    Some(Entry { name: adapter.name().to_owned(), state: State::Ready(served, None) })
}

impl Entry {
    fn served(&self) -> Option<&Arc<Served>> {
        match &self.state {
            State::Ready(served, _) => Some(served),
            _ => None,
        }
    }

    fn is_loading(&self, name: &str) -> bool {
        self.name == name && matches!(self.state, State::Loading)
    }

    /// The base model's name, where this is an adapter.
    fn parent(&self) -> Option<&str> {
        Some(self.served()?.adapted.as_ref()?.parent.as_str())
    }

    fn standing(&self) -> Standing {
        let (state, served, reason) = match &self.state {
            State::Loading => ("loading", None, None),
            State::Ready(served, _) => ("loaded", Some(Arc::clone(served)), None),
            State::Unloading(_) => ("unloading", None, None),
            State::Failed(reason) => ("failed", None, Some(reason.clone())),
        };
        Standing { name: self.name.clone(), state, served, reason }
    }
}

impl Served {
    /// The same model with adapters; `None` where it is an encoder.
    fn with_adapter(&self, name: &str, folder: &Path) -> Option<Arc<Served>> {
        let Kind::Chat(chat) = &self.kind else { return None };
        Some(Arc::new(Served {
            name: name.to_owned(),
            kind: Kind::Chat(chat.clone()),
            context_tokens: self.context_tokens,
            adapted: Some(Adapted { parent: self.name.clone(), folder: folder.display().to_string() }),
            memory: None,
            created: crate::ids::unix_seconds(),
        }))
    }

    /// The adapters that its answers are computed with.
    pub fn adapter(&self) -> Option<String> {
        self.adapted.as_ref().map(|_| self.name.clone())
    }

    /// The way to its answers.
    ///
    /// # Errors
    /// Where it makes vectors instead.
    pub fn chat(&self) -> Result<&ChatModel, ApiError> {
        match &self.kind {
            Kind::Chat(model) => Ok(model),
            Kind::Encoder(_) => {
                Err(self
                    .wrong_kind("makes vectors and answers nothing; ask it at /v1/embeddings or /v1/rerank"))
            }
        }
    }

    /// The way to its vectors.
    ///
    /// # Errors
    /// Where it answers instead.
    pub fn encoder(&self) -> Result<&EncoderModel, ApiError> {
        match &self.kind {
            Kind::Encoder(model) => Ok(model),
            Kind::Chat(_) => Err(self
                .wrong_kind("is no encoder and makes no vectors; serve one such as MiniLM or bge beside it")),
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        match &self.kind {
            Kind::Chat(model) => model.codec.tokenizer(),
            Kind::Encoder(model) => &model.tokenizer,
        }
    }

    fn wrong_kind(&self, what: &str) -> ApiError {
        ApiError::invalid(Some("model"), format!("The model '{}' {what}.", self.name))
            .with_code("model_not_supported")
    }
}
