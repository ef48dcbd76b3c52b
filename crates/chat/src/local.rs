//! A model of this machine behind [`ChatModel`]: tokenizer, chat template and engine. Knows neither HTTP nor
//! the terminal.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Device, Engine, Scheduler};
use token::{Message, TemplateOptions, Tokenizer};

use crate::answer::{Answer, AnswerEvent, AnswerId, Kind, OnAnswer};
use crate::codec::Codec;
use crate::stream::TextStream;
use crate::structure::Structures;
use crate::{AnswerOptions, ChatModel, ChatRequest, Delta, Error, OnDelta, Reply, Result, StopStrings};

/// How a local model is set up.
#[derive(Clone, Debug, Default)]
pub struct LocalOptions {
    /// The name that it goes by; `None`: the folder's.
    pub name: Option<String>,
    /// A PEFT folder whose adapters are merged into the weights, if any.
    pub adapter: Option<PathBuf>,
    /// A smaller model with the same tokenizer that guesses tokens ahead, if any; it changes no answer.
    pub draft: Option<PathBuf>,
    /// The engine's limits.
    pub engine: engine::Options,
    /// How the weights are read.
    pub loading: engine::Loading,
}

/// A model of this machine.
pub struct Local {
    name: String,
    pub(crate) codec: Arc<Codec>,
    scheduler: Scheduler,
    pub(crate) stop_ids: Vec<u32>,
    structures: Arc<Structures>,
    /// In ascending order of their ids.
    answers: Vec<Answer>,
    /// What happened while others were waited for.
    undelivered: Vec<(AnswerId, AnswerEvent)>,
}

impl Local {
    /// Reads a Hugging Face folder: `config.json`, `model.safetensors`, `tokenizer.json` with its companions.
    ///
    /// # Errors
    /// [`Error::Load`], saying which file is missing or damaged, or what does not fit together.
    pub fn load(folder: &Path, device: Device, options: LocalOptions) -> Result<Self> {
        let failed = |reason: String| Error::Load { folder: folder.to_owned(), reason };
        let tokenizer = Tokenizer::load(folder).map_err(|error| failed(error.to_string()))?;
        let draft = options.draft.as_deref().map(|folder| {
            let loaded =
                Engine::load(folder, device.clone(), options.engine.clone(), options.loading.clone());
            loaded.map_err(|error| Error::Load { folder: folder.to_owned(), reason: error.to_string() })
        });
        let draft = draft.transpose()?;
        let engine = match &options.adapter {
            None => Engine::load(folder, device, options.engine, options.loading),
            Some(adapter) => Engine::load_merged(folder, adapter, device, options.engine),
        };
        let engine = engine.map_err(|error| failed(error.to_string()))?;
        let scheduler = match draft {
            None => Scheduler::new(engine),
            Some(draft) => Scheduler::with_draft(engine, draft).map_err(|error| failed(error.to_string()))?,
        };
        let name = options.name.unwrap_or_else(|| model_name(folder));
        Self::with_scheduler(name, tokenizer, scheduler).map_err(|error| match error {
            Error::Conversation(reason) => failed(reason),
            other => other,
        })
    }

    /// Puts a tokenizer and an engine together.
    ///
    /// # Errors
    /// [`Error::Conversation`] where the tokenizer has more ids than the model or its chat template does not
    /// compile.
    pub fn new(name: String, tokenizer: Tokenizer, engine: Engine) -> Result<Self> {
        Self::with_scheduler(name, tokenizer, Scheduler::new(engine))
    }

    fn with_scheduler(name: String, tokenizer: Tokenizer, scheduler: Scheduler) -> Result<Self> {
        let engine = scheduler.engine();
        let (ids, vocabulary) = (tokenizer.vocab_size(), engine.config().vocab_size);
        if ids > vocabulary {
            return Err(Error::Conversation(format!(
                "the tokenizer has {ids} ids, but the model's vocabulary only {vocabulary}; \
                 they do not belong together"
            )));
        }
        let codec = Arc::new(Codec::new(tokenizer)?);
        let mut stop_ids = engine.config().eos_token_ids.clone();
        stop_ids.extend(codec.stop_ids());
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let structures = Arc::new(Structures::new(&codec, stop_ids.clone()));
        let (answers, undelivered) = (Vec::new(), Vec::new());
        Ok(Self { name, codec, scheduler, stop_ids, structures, answers, undelivered })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.codec.tokenizer()
    }

    /// What turns messages into ids, for other threads too.
    pub fn codec(&self) -> &Arc<Codec> {
        &self.codec
    }

    /// What holds answers to structures, for other threads too.
    pub fn structures(&self) -> &Arc<Structures> {
        &self.structures
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        self.scheduler.engine()
    }

    /// The ids that end an answer.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Takes adapters on that were read for this model; answers may name them from now on.
    ///
    /// # Errors
    /// Where there are others of that name.
    pub fn insert_adapter(&mut self, adapter: engine::Adapter) -> engine::Result<()> {
        self.scheduler.insert_adapter(adapter)
    }

    /// Lets adapters go; answers under way with them go on.
    ///
    /// # Errors
    /// Where there are none of that name.
    pub fn remove_adapter(&mut self, name: &str) -> engine::Result<()> {
        self.scheduler.remove_adapter(name)
    }

    /// Answers many conversations together, as [`ChatModel::reply_many`], and hands each piece out as it is
    /// certain: the conversation's index and the piece. `Break` ends that answer alone.
    ///
    /// # Errors
    /// As [`ChatModel::reply`]; all conversations are checked before the first is answered.
    pub fn reply_together(
        &mut self,
        requests: &[ChatRequest],
        on_delta: &mut dyn FnMut(usize, Delta) -> ControlFlow<()>,
    ) -> Result<Vec<Reply>> {
        let openings = requests.iter().map(|request| self.opening(request)).collect::<Result<Vec<_>>>()?;
        let replies = self.answer_together(openings, on_delta)?;
        let replies = replies.into_iter().map(|event| match event {
            AnswerEvent::Reply(reply) => reply,
            other => unreachable!("a conversation ends with a reply, not with {other:?}"),
        });
        Ok(replies.collect())
    }

    /// Begins to answer a conversation, `choices` times, each with the next seed; [`Local::step`] does the
    /// work.
    ///
    /// # Errors
    /// As [`ChatModel::reply`]; then nothing has begun.
    pub fn begin_reply(&mut self, request: &ChatRequest, choices: usize) -> Result<Vec<AnswerId>> {
        let opening = self.opening(request)?;
        self.begin_choices(opening, choices)
    }

    /// [`Local::begin_reply`] for a conversation that [`Codec::encode`] has made ids of.
    ///
    /// # Errors
    /// As [`ChatModel::reply`]; then nothing has begun.
    pub fn begin_reply_to(
        &mut self,
        prompt: Vec<u32>,
        options: &AnswerOptions,
        choices: usize,
    ) -> Result<Vec<AnswerId>> {
        let ask = self.engine_request(prompt, options)?;
        self.begin_choices(Opening { ask, kind: Kind::Reply, stop: options.stop.clone() }, choices)
    }

    /// Works on all answers that have begun: one forward pass, and what came of it.
    pub fn step(&mut self, on: OnAnswer<'_>) {
        for (id, event) in self.undelivered.drain(..) {
            // These are last events, after which nothing can be ended.
            let _ = on(id, event);
        }
        let Self { scheduler, answers, .. } = self;
        scheduler.step(&mut |ticket, event| {
            let place = answers.binary_search_by_key(&AnswerId(ticket), |answer| answer.id);
            let Ok(place) = place else { return ControlFlow::Break(()) };
            let ends = matches!(event, engine::Event::Finished(_) | engine::Event::Failed(_));
            let flow = answers[place].take(event, &mut |event| on(AnswerId(ticket), event));
            if ends {
                answers.remove(place);
            }
            flow
        });
    }

    /// Ends an answer at once; nothing of it follows.
    pub fn cancel(&mut self, id: AnswerId) {
        self.scheduler.cancel(id.0);
        self.answers.retain(|answer| answer.id != id);
        self.undelivered.retain(|(other, _)| *other != id);
    }

    /// Ends all answers without a word, so that a model in which a step panicked is as good as new.
    pub fn abandon(&mut self) {
        self.scheduler.abandon();
        self.answers.clear();
        self.undelivered.clear();
    }

    /// Whether no answer is under way.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle() && self.undelivered.is_empty()
    }

    /// What is under way, and what was counted.
    pub fn statistics(&self) -> engine::Statistics {
        self.scheduler.statistics()
    }

    /// Begins all and steps until all have ended; their last events, in order. What happens meanwhile to
    /// answers that began before is kept for [`Local::step`].
    pub(crate) fn answer_together(
        &mut self,
        openings: Vec<Opening>,
        on_delta: &mut dyn FnMut(usize, Delta) -> ControlFlow<()>,
    ) -> Result<Vec<AnswerEvent>> {
        for opening in &openings {
            opening.check(self)?;
        }
        let ids = openings.into_iter().map(|opening| self.begin(opening)).collect::<Result<Vec<_>>>()?;
        let mut ends: Vec<Option<AnswerEvent>> = ids.iter().map(|_| None).collect();
        let mut others = std::mem::take(&mut self.undelivered);
        let mut failed = None;
        while failed.is_none() && ends.iter().any(Option::is_none) {
            self.step(&mut |id, event| {
                match (ids.binary_search(&id), event) {
                    (Ok(index), AnswerEvent::Delta(delta)) => return on_delta(index, delta),
                    (Ok(_), AnswerEvent::Failed(error)) => failed = failed.take().or(Some(error)),
                    (Ok(index), event) => ends[index] = Some(event),
                    (Err(_), event) => others.push((id, event)),
                }
                ControlFlow::Continue(())
            });
        }
        self.undelivered = others;
        match failed {
            Some(error) => {
                ids.iter().for_each(|&id| self.cancel(id));
                Err(error)
            }
            None => Ok(ends.into_iter().flatten().collect()),
        }
    }

    /// Begins the same answer several times, with one seed after another.
    pub(crate) fn begin_choices(&mut self, opening: Opening, choices: usize) -> Result<Vec<AnswerId>> {
        opening.check(self)?;
        let seed = opening.ask.sampling.seed;
        let mut ids = Vec::with_capacity(choices);
        for choice in 0..choices as u64 {
            let mut opening = opening.clone();
            opening.ask.sampling.seed = seed.wrapping_add(choice);
            ids.push(self.begin(opening)?);
        }
        Ok(ids)
    }

    fn begin(&mut self, Opening { ask, kind, stop }: Opening) -> Result<AnswerId> {
        let stream = TextStream::new(self.codec.shared_tokenizer(), &stop)?;
        let stream = if matches!(kind, Kind::Reply) { stream.showing(self.codec.marks()) } else { stream };
        let id = AnswerId(self.scheduler.submit(ask)?);
        self.answers.push(Answer::new(id, kind, stream, Arc::clone(self.codec.shared_tokenizer())));
        Ok(id)
    }

    fn opening(&self, request: &ChatRequest) -> Result<Opening> {
        let ask = self
            .engine_request(self.codec.encode(&request.messages, &request.template)?.ids, &request.options)?;
        Ok(Opening { ask, kind: Kind::Reply, stop: request.options.stop.clone() })
    }

    /// What to ask of the engine for a prompt.
    pub(crate) fn engine_request(
        &self,
        prompt: Vec<u32>,
        options: &AnswerOptions,
    ) -> Result<engine::Request> {
        let (prompt_tokens, context_tokens) = (prompt.len(), self.context_tokens());
        let left = context_tokens.saturating_sub(prompt_tokens);
        let max_tokens = options.max_tokens.unwrap_or(left.max(1));
        if max_tokens > left {
            return Err(Error::ContextLength { prompt_tokens, answer_tokens: max_tokens, context_tokens });
        }
        if options.ignore_end && options.constraint.is_some() {
            let reason = "an answer with a structure ends where the structure does".to_owned();
            return Err(Error::Parameter { name: "ignore_eos", reason });
        }
        let vocabulary = self.engine().config().vocab_size;
        if let Some(id) = options.stop_ids.iter().find(|&&id| id as usize >= vocabulary) {
            let reason =
                format!("the id {id} is none of the model's {vocabulary}, so no answer could end there");
            return Err(Error::Parameter { name: "stop_token_ids", reason });
        }
        let mut stop_ids = if options.ignore_end { Vec::new() } else { self.stop_ids.clone() };
        stop_ids.extend_from_slice(&options.stop_ids);
        Ok(engine::Request {
            prompt,
            max_tokens,
            sampling: options.sampling.clone(),
            stop_ids,
            constraint: options.constraint.clone(),
            logprobs: options.logprobs,
            adapter: options.adapter.clone(),
            prompt_logprobs: None,
        })
    }
}

impl ChatModel for Local {
    fn reply(&mut self, request: &ChatRequest, on_delta: OnDelta<'_>) -> Result<Reply> {
        let mut replies =
            self.reply_together(std::slice::from_ref(request), &mut |_, delta| on_delta(delta))?;
        Ok(replies.pop().expect("one conversation has one reply"))
    }

    fn reply_many(&mut self, requests: &[ChatRequest]) -> Result<Vec<Reply>> {
        self.reply_together(requests, &mut |_, _| ControlFlow::Continue(()))
    }

    fn count_tokens(&self, messages: &[Message]) -> Result<usize> {
        Ok(self.codec.encode(messages, &TemplateOptions::default())?.ids.len())
    }

    fn context_tokens(&self) -> usize {
        self.engine().context_tokens()
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// All that it takes to begin an answer.
#[derive(Clone)]
pub(crate) struct Opening {
    pub ask: engine::Request,
    pub kind: Kind,
    pub stop: Vec<String>,
}

impl Opening {
    /// Whether it can begin.
    fn check(&self, model: &Local) -> Result<()> {
        StopStrings::new(&self.stop)?;
        Ok(model.scheduler.check(&self.ask)?)
    }
}

/// The name that a model goes by where none is given: its folder's, or its file's without `.gguf`.
pub fn model_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = absolute.components().rev().map(|part| part.as_os_str().to_string_lossy().into_owned());
    // A run keeps its model in `runs/<name>/model`.
    let name = names.into_iter().find(|name| name != "model").unwrap_or_else(|| "model".to_owned());
    name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
}
