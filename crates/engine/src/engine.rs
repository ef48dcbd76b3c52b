//! The engine: packed weights, the cache, and one ragged forward pass over the rows of many sequences. Knows
//! neither sampling nor when an answer ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::progress::{Output, format_bytes};
use model::{Config, Decoder, Layout, Mix, ModelFile, Parameters};
use tensor::Device;
use tensor::kernels::attention::KvType;
use tensor::kernels::log_softmax;
use tensor::quant::{BlockType, QuantRows};

use crate::cache::Cache;
use crate::forward::{Forward, Span};
use crate::rotary::Rotary;
use crate::weights::{Plan, RepackCache, Weights};
use crate::{Adapter, AdapterReader, Chunk, Error, PagePool, Request, Result, Sequence};

/// Limits of an engine. Every one is a number of tokens, rows or pages.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens in a page of the cache; a multiple of [`tensor::KEY_BLOCK`].
    pub page_tokens: usize,
    /// Pages of the cache. `None`: as many as `max_sequences` whole contexts need, but no more than a quarter
    /// of the memory that is available, and enough for at least one context.
    pub max_pages: Option<usize>,
    /// Sequences that step together at most.
    pub max_sequences: usize,
    /// Rows (tokens) that one step computes at most, beside one for each answer under way.
    pub step_rows: usize,
    /// Tokens that one sequence may hold. `None`: the model's context, or as many as memory has room for.
    pub context_tokens: Option<usize>,
    /// How keys and values are held. Only f32 gives the trainer's bits.
    pub kv_type: KvType,
    /// Whether a [`crate::Scheduler`] keeps pages for later requests that begin alike, as long as nobody else
    /// needs them.
    pub prefix_cache: bool,
    /// Ids that a [`crate::Scheduler`] guesses ahead and checks in one step at most, all answers together; 0 guesses
    /// none. Guesses change no answer.
    pub guess_rows: usize,
}

/// In which type a model's weights are held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// As the file has them.
    #[default]
    AsStored,
    /// Matrices of floating-point numbers in blocks of this type; what is quantised already stays as it is.
    Quantized(BlockType),
    /// Each matrix of floating-point numbers in the blocks that this mix gives it, as a file of that mix has them.
    Mixed(Mix),
    /// All in f32, what is quantised dequantised: slow, and the yardstick for the other types.
    F32,
}

/// How a model's file is read.
#[derive(Clone, Debug)]
pub struct Loading {
    /// The type of the weights in memory.
    pub weights: WeightType,
    /// Where packed weights are kept for the next start; `None` keeps none.
    pub repack_cache: Option<PathBuf>,
    /// Where progress goes.
    pub progress: Output,
}

impl Default for Loading {
    fn default() -> Self {
        Self { weights: WeightType::AsStored, repack_cache: None, progress: Output::Silent }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_tokens: tensor::KEY_BLOCK,
            max_pages: None,
            max_sequences: 32,
            step_rows: 512,
            context_tokens: None,
            kv_type: KvType::F32,
            prefix_cache: true,
            guess_rows: 16,
        }
    }
}

/// Bytes that an engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The packed weights, the embedding table, gains and biases.
    pub weights_bytes: usize,
    /// All pages of the cache. The system gives the memory of a page when it is first written.
    pub cache_bytes: usize,
}

/// A model that is ready to run.
pub struct Engine {
    device: Device,
    decoder: Decoder,
    weights: Weights,
    cache: Cache,
    pool: PagePool,
    rotary: Rotary,
    /// In the order of their coming.
    adapters: Vec<Arc<Adapter>>,
    options: Options,
    /// What the last step left, kept for its room: where each chunk's rows lie, each row's id and position,
    /// and the logits (rows, vocabulary).
    spans: Vec<Span>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    logits: Vec<f32>,
    /// Room for a product's rows as integers.
    quantized: QuantRows,
}

impl Engine {
    /// Packs the weights and sets the cache up.
    ///
    /// # Errors
    /// [`Error::Parameter`] where an option is outside its range.
    pub fn new(parameters: Parameters, device: Device, options: Options) -> Result<Self> {
        check_options(&options)?;
        let weights = Weights::pack(&parameters, &device);
        Self::with_weights(parameters.decoder, weights, device, options)
    }

    /// Opens a model's file, GGUF or a Hugging Face folder (`config.json`, `model.safetensors`), and packs its weights in
    /// the types that it has.
    ///
    /// # Errors
    /// [`Error::Model`] where there is no model that can be read, [`Error::TooLarge`] where it does not fit the memory that
    /// is available; else as [`Engine::new`].
    pub fn load(path: &Path, device: Device, options: Options, loading: Loading) -> Result<Self> {
        let (file, plan) = Self::look_up(path, &device, &options, &loading)?;
        let decoder = file.decoder().clone();
        let cache = RepackCache { folder: loading.repack_cache, progress: loading.progress };
        let weights = Weights::open(file, &device, &plan, &cache)?;
        Self::with_weights(decoder, weights, device, options)
    }

    /// Whether a model is there and fits the memory that is available, before any weight is read: the packed weights and
    /// some pages of the cache, none where it is an encoder.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn check_load(path: &Path, device: &Device, options: &Options, loading: &Loading) -> Result<()> {
        Self::look_up(path, device, options, loading).map(|_| ())
    }

    fn look_up(
        path: &Path,
        device: &Device,
        options: &Options,
        loading: &Loading,
    ) -> Result<(ModelFile, Plan)> {
        check_options(options)?;
        let file = ModelFile::open(path)?;
        let (plan, config) = (Plan::new(&file, loading.weights), file.decoder().config());
        let page_bytes = match config.causal {
            true => Cache::page_bytes(config, options.page_tokens, options.kv_type),
            false => 0,
        };
        let weights_bytes = plan.bytes(device.exec().isa());
        check_memory(weights_bytes, page_bytes, context_tokens(options, config), options)?;
        Ok((file, plan))
    }

    fn with_weights(decoder: Decoder, weights: Weights, device: Device, options: Options) -> Result<Self> {
        let config = decoder.config();
        if !config.causal {
            return Err(Error::IsAnEncoder { family: config.family.model_type() });
        }
        if let Some(asked_tokens) = options.context_tokens.filter(|&asked| asked > config.max_positions) {
            return Err(Error::ContextTooLong { asked_tokens, context_tokens: config.max_positions });
        }
        let page_bytes = Cache::page_bytes(config, options.page_tokens, options.kv_type);
        let wanted = context_tokens(&options, config);
        let max_pages = options.max_pages.unwrap_or_else(|| default_pages(wanted, &options, page_bytes));
        let pool = PagePool::new(max_pages, options.page_tokens);
        let cache = Cache::new(config, &pool, options.kv_type);
        let rotary = Rotary::new(&decoder);
        let (spans, ids, positions, logits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let quantized = QuantRows::new();
        Ok(Self {
            device,
            decoder,
            weights,
            cache,
            pool,
            rotary,
            adapters: Vec::new(),
            options,
            spans,
            ids,
            positions,
            logits,
            quantized,
        })
    }

    /// Reads a Hugging Face folder, and merges the adapters of a PEFT folder into its weights.
    ///
    /// # Errors
    /// As [`Engine::load`], also where the PEFT folder holds no adapters of this model.
    pub fn load_merged(folder: &Path, adapter: &Path, device: Device, options: Options) -> Result<Self> {
        let parameters = Parameters::load_merged(&device, folder, adapter)?;
        Self::new(parameters, device, options)
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.decoder.config()
    }

    /// The limits that the engine was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Tokens that one sequence may hold: the model's context, or less where that was asked for.
    pub fn context_tokens(&self) -> usize {
        context_tokens(&self.options, self.config())
    }

    /// The cache's pages.
    pub fn pages(&self) -> &PagePool {
        &self.pool
    }

    /// Bytes held.
    pub fn memory(&self) -> Memory {
        Memory { weights_bytes: self.weights.bytes(), cache_bytes: self.cache.bytes() }
    }

    /// Where each weight lies.
    pub fn layout(&self) -> &Layout {
        self.decoder.layout()
    }

    /// Whether products are computed with integers.
    pub fn is_quantized(&self) -> bool {
        self.weights.is_quantized()
    }

    /// Bytes of weights that generating one token reads.
    pub fn bytes_read_per_token(&self) -> usize {
        self.weights.product_bytes()
    }

    /// Bytes of keys and values of one token.
    pub fn cache_bytes_per_token(&self) -> usize {
        Cache::page_bytes(self.config(), self.options.page_tokens, self.options.kv_type)
            / self.options.page_tokens
    }

    /// An empty sequence with room for `tokens` ids; it takes pages of the cache as steps fill it. Some rope scalings
    /// turn the positions of a sequence by other angles where it may become longer than those of the first training.
    pub fn sequence(&self, tokens: usize) -> Sequence {
        Sequence::new(&self.pool, self.rotary.of(&self.decoder, tokens), tokens)
    }

    /// The same for rows that are computed with adapters.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn sequence_with(&self, tokens: usize, adapter: Option<&str>) -> Result<Sequence> {
        let mut sequence = self.sequence(tokens);
        sequence.adapter = adapter.map(|name| self.adapter(name).cloned()).transpose()?;
        Ok(sequence)
    }

    /// Where weights and activations lie.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Computes the next `rows` ids of each chunk in one forward pass: writes their keys and values to the
    /// cache and gives the logits that the chunks ask for. A row's result does not depend on the other rows
    /// of the step.
    ///
    /// # Errors
    /// [`Error::ContextLength`], [`Error::UnknownId`] or [`Error::OutOfPages`]; then no sequence has changed
    /// but for pages that it took.
    ///
    /// # Panics
    /// Where a chunk asks for more rows than its sequence has pending ids, or its sequence is another
    /// engine's.
    pub fn step(&mut self, chunks: &mut [Chunk]) -> Result<Logits<'_>> {
        self.prepare(chunks)?;
        let mut forward = Forward {
            device: &self.device,
            weights: &self.weights,
            cache: Some(&mut self.cache),
            chunks,
            spans: &self.spans,
            positions: &self.positions,
            quantized: &mut self.quantized,
        };
        self.logits.clear();
        if !self.ids.is_empty() {
            let hidden = self.decoder.forward(&mut forward, &self.ids); // (rows, width)
            forward.logits(&hidden, self.decoder.output(), &mut self.logits);
        }
        for chunk in chunks {
            chunk.sequence.advance(chunk.rows);
        }
        Ok(Logits {
            device: &self.device,
            spans: &self.spans,
            values: &self.logits,
            vocabulary: self.decoder.config().vocab_size,
        })
    }

    /// Copies a page that begins with a sequence's next `tokens` ids behind its pages, if there is a free one.
    pub(crate) fn copy_into(&mut self, sequence: &mut Sequence, page: u32, tokens: usize) {
        let computed = sequence.computed();
        if sequence.pages.grow(computed + tokens).is_ok() {
            let copy = sequence.pages.pages().last().expect("the table has grown by a page");
            self.cache.copy_page(page, *copy);
            sequence.advance(tokens);
        }
    }

    /// Checks the chunks, takes pages, and notes where each chunk's rows lie.
    fn prepare(&mut self, chunks: &mut [Chunk]) -> Result<()> {
        self.spans.clear();
        self.ids.clear();
        self.positions.clear();
        let mut logit_row = 0;
        for chunk in chunks.iter_mut() {
            let (first, rows) = (chunk.sequence.computed(), chunk.rows);
            assert!(rows <= chunk.sequence.pending(), "a chunk computes ids that its sequence has");
            assert!(
                chunk.sequence.pages.is_of(&self.pool),
                "a sequence is stepped by the engine that made it"
            );
            if first + rows > self.context_tokens() {
                let context_tokens = self.context_tokens();
                return Err(Error::ContextLength {
                    prompt_tokens: first,
                    generated_tokens: rows,
                    context_tokens,
                });
            }
            let ids = &chunk.sequence.ids()[first..first + rows];
            self.check_ids(ids, first)?;
            self.spans.push(Span { row: self.ids.len(), rows, first_position: first, logit_row });
            self.ids.extend_from_slice(ids);
            self.positions.extend(first as u32..(first + rows) as u32);
            logit_row += chunk.logit_rows();
            chunk.sequence.pages.grow(first + rows)?;
        }
        Ok(())
    }

    pub(crate) fn check_ids(&self, ids: &[u32], first_position: usize) -> Result<()> {
        let vocabulary = self.config().vocab_size;
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(index) => {
                Err(Error::UnknownId { id: ids[index], position: first_position + index, vocabulary })
            }
            None => Ok(()),
        }
    }

    /// Whether a request can be answered by this model at all.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, more tokens than the context holds, or a sampling value
    /// outside its range.
    pub fn check(&self, request: &Request) -> Result<()> {
        request.sampling.check()?;
        let (prompt_tokens, context_tokens) = (request.prompt.len(), self.context_tokens());
        if prompt_tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if prompt_tokens.saturating_add(request.max_tokens) > context_tokens {
            let generated_tokens = request.max_tokens;
            return Err(Error::ContextLength { prompt_tokens, generated_tokens, context_tokens });
        }
        let vocabulary = self.config().vocab_size;
        let mut biased = request.sampling.logit_bias.iter().map(|&(id, _)| id);
        if let Some(id) = biased.find(|&id| id as usize >= vocabulary) {
            let allowed = "given for ids of the model's vocabulary";
            return Err(Error::Parameter {
                name: "logit_bias",
                value: format!("given for id {id}"),
                allowed,
            });
        }
        if let Some(name) = &request.adapter {
            self.adapter(name)?;
        }
        self.check_ids(&request.prompt, 0)
    }
}

/// Adapters: any number beside one base model.
impl Engine {
    /// What reads adapters of this model, on any thread.
    pub fn adapter_reader(&self) -> AdapterReader {
        AdapterReader { device: self.device.clone(), decoder: self.decoder.clone() }
    }

    /// All adapters, in the order of their coming.
    pub fn adapters(&self) -> &[Arc<Adapter>] {
        &self.adapters
    }

    /// Takes adapters on; from now on sequences may name them.
    ///
    /// # Errors
    /// [`Error::AdapterExists`] and [`Error::AdapterOfOther`].
    pub fn insert_adapter(&mut self, adapter: Adapter) -> Result<()> {
        let name = adapter.name().to_owned();
        if self.adapters.iter().any(|known| known.name() == name) {
            return Err(Error::AdapterExists { name });
        }
        if !adapter.fits(self.config()) {
            return Err(Error::AdapterOfOther { name });
        }
        self.adapters.push(Arc::new(adapter));
        Ok(())
    }

    /// Lets adapters go: no new sequence gets them, and their memory is free once the last that has them is gone.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub(crate) fn remove_adapter(&mut self, name: &str) -> Result<Arc<Adapter>> {
        let adapter = Arc::clone(self.adapter(name)?);
        adapter.retire();
        self.adapters.retain(|other| !Arc::ptr_eq(other, &adapter));
        Ok(adapter)
    }

    fn adapter(&self, name: &str) -> Result<&Arc<Adapter>> {
        self.adapters.iter().find(|adapter| adapter.name() == name).ok_or_else(|| {
            let names: Vec<&str> = self.adapters.iter().map(|adapter| adapter.name()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Error::UnknownAdapter { name: name.to_owned(), known }
        })
    }
}

/// The logits of one step.
#[derive(Clone, Copy)]
pub struct Logits<'a> {
    device: &'a Device,
    spans: &'a [Span],
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// The rows of the chunk at `index` of the step: as many as [`Chunk::logit_rows`].
    pub fn of(&self, index: usize) -> Rows<'a> {
        let all = self.values.len() / self.vocabulary;
        let begin = self.spans[index].logit_row;
        let end = self.spans.get(index + 1).map_or(all, |next| next.logit_row);
        let values = &self.values[begin * self.vocabulary..end * self.vocabulary];
        Rows { device: self.device, values, width: self.vocabulary }
    }
}

/// Rows of logits, (rows, vocabulary).
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    device: &'a Device,
    values: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The rows in the order of their positions, each (vocabulary).
    pub fn iter(&self) -> std::slice::ChunksExact<'a, f32> {
        self.values.chunks_exact(self.width)
    }

    /// Fills `log_probs` with the log-probabilities of one of the rows, (vocabulary): those of training, bit
    /// for bit.
    pub fn log_probs(&self, row: &[f32], log_probs: &mut Vec<f32>) {
        log_probs.clear();
        log_probs.extend_from_slice(row);
        log_softmax(self.device.exec(), row.len(), log_probs);
    }
}

fn check_options(options: &Options) -> Result<()> {
    let positive = [("max_sequences", options.max_sequences), ("step_rows", options.step_rows)];
    for (name, value) in positive {
        if value == 0 {
            return Err(Error::Parameter { name, value: "0".into(), allowed: "at least 1" });
        }
    }
    let page = options.page_tokens;
    if page == 0 || !page.is_multiple_of(tensor::KEY_BLOCK) {
        let allowed = "a multiple of the 64 keys that attention reads at a time";
        return Err(Error::Parameter { name: "page_tokens", value: page.to_string(), allowed });
    }
    Ok(())
}

fn context_tokens(options: &Options, config: &Config) -> usize {
    options.context_tokens.unwrap_or(config.max_positions)
}

fn default_pages(context_tokens: usize, options: &Options, page_bytes: usize) -> usize {
    let context = context_tokens.div_ceil(options.page_tokens);
    let affordable =
        base::machine::memory_available_bytes().map_or(usize::MAX, |bytes| bytes as usize / 4 / page_bytes);
    (context * options.max_sequences).min(affordable).max(context)
}

/// Refuses what the memory that is available cannot hold: the packed weights and one context.
fn check_memory(
    weights_bytes: usize,
    page_bytes: usize,
    context_tokens: usize,
    options: &Options,
) -> Result<()> {
    let Some(available) = base::machine::memory_available_bytes() else { return Ok(()) };
    let cache_bytes = context_tokens.div_ceil(options.page_tokens).saturating_mul(page_bytes);
    // The cache takes memory where it is written, so a context that is not used up is no reason to refuse.
    if (weights_bytes as u64).saturating_add((page_bytes * 16) as u64) <= available {
        return Ok(());
    }
    let shown = |bytes: u64| format_bytes(bytes as f64);
    let (weights, cache) = (shown(weights_bytes as u64), shown(cache_bytes as u64));
    Err(Error::TooLarge { weights, cache, context_tokens, available: shown(available) })
}
