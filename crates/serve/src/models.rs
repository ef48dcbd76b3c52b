//! The models that are served, by name. Knows neither HTTP nor how answers are written down.

use std::sync::Arc;

use chat::{Codec, Local, Structures};
use engine::Encoder;
use token::Tokenizer;

use crate::encoder::EncoderQueue;
use crate::queue::{Queue, Worker};
use crate::wire::ApiError;

/// A model to serve, or the reason why there is none of that name.
pub enum Model {
    /// It answers conversations and continues texts.
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
}

pub(crate) enum Kind {
    Chat(ChatModel),
    Encoder(EncoderModel),
}

/// The way to a model that answers.
pub(crate) struct ChatModel {
    pub queue: Queue,
    pub codec: Arc<Codec>,
    pub structures: Arc<Structures>,
}

/// The way to a model that makes vectors.
pub(crate) struct EncoderModel {
    pub queue: EncoderQueue,
    pub tokenizer: Arc<Tokenizer>,
    pub width: usize,
}

/// All models.
pub(crate) struct Models {
    served: Vec<Arc<Served>>,
    /// Names and reasons.
    pub failed: Vec<(String, String)>,
}

/// Threads to wait for.
pub(crate) struct Workers(pub Vec<Worker>);

impl Models {
    /// Starts a thread for each model.
    ///
    /// # Errors
    /// Where the system grants no thread.
    pub fn start(models: Vec<Model>, waiting_max: usize) -> std::io::Result<(Models, Workers)> {
        let (mut served, mut failed, mut workers) = (Vec::new(), Vec::new(), Vec::new());
        for model in models {
            match model {
                Model::Chat(local) => {
                    let (codec, structures) = (Arc::clone(local.codec()), Arc::clone(local.structures()));
                    let name = chat::ChatModel::name(&*local).to_owned();
                    let context_tokens = chat::ChatModel::context_tokens(&*local);
                    let (queue, worker) = Queue::start(*local, waiting_max)?;
                    workers.push(worker);
                    let kind = Kind::Chat(ChatModel { queue, codec, structures });
                    served.push(Arc::new(Served { name, kind, context_tokens }));
                }
                Model::Encoder { name, encoder, tokenizer } => {
                    let (context_tokens, width) = (encoder.context_tokens(), encoder.config().hidden_size);
                    let queue = EncoderQueue::start(*encoder, waiting_max)?;
                    let kind = Kind::Encoder(EncoderModel { queue, tokenizer: Arc::from(tokenizer), width });
                    served.push(Arc::new(Served { name, kind, context_tokens }));
                }
                Model::Failed { name, reason } => failed.push((name, reason)),
            }
        }
        Ok((Models { served, failed }, Workers(workers)))
    }

    /// All that answer.
    pub fn all(&self) -> &[Arc<Served>] {
        &self.served
    }

    /// The model of that name; where none is given, the only one.
    ///
    /// # Errors
    /// Where there is none, or it could not be loaded.
    pub fn find(&self, wanted: Option<&str>) -> Result<&Arc<Served>, ApiError> {
        match (wanted, &self.served[..]) {
            (None, [only]) => Ok(only),
            (None, _) => Err(ApiError::invalid(
                Some("model"),
                format!("Missing required parameter: 'model'; this server has {}.", self.names()),
            )
            .with_code("missing_required_parameter")),
            (Some(wanted), served) => match served.iter().find(|model| model.name == wanted) {
                Some(model) => Ok(model),
                None => match self.failed.iter().find(|(name, _)| name == wanted) {
                    Some((name, reason)) => {
                        Err(ApiError::internal(format!("The model '{name}' could not be loaded: {reason}."))
                            .with_status(503)
                            .with_code("model_not_loaded"))
                    }
                    None => Err(ApiError::unknown_model(wanted, &self.names())),
                },
            },
        }
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.served.iter().map(|model| format!("'{}'", model.name)).collect();
        names.join(", ")
    }
}

impl Served {
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
