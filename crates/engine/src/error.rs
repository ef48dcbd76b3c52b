//! What can go wrong between ids and ids. Knows nothing of text or of transport.

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the engine refused or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ids asked for, those given and those to be generated, do not fit the model's context.
    #[error(
        "{prompt_tokens} prompt tokens + {generated_tokens} tokens to generate exceed the model's context of \
         {context_tokens} tokens; shorten the prompt or ask for fewer tokens"
    )]
    ContextLength {
        /// Ids in the prompt, or already in the sequence.
        prompt_tokens: usize,
        /// Ids still to be generated.
        generated_tokens: usize,
        /// The most ids that a sequence may hold.
        context_tokens: usize,
    },
    /// A document that is longer than an encoder's context.
    #[error(
        "the document's {tokens} tokens exceed the model's context of {context_tokens} tokens; split it into shorter ones"
    )]
    DocumentLength {
        /// Ids of the document.
        tokens: usize,
        /// The most ids that a document may have.
        context_tokens: usize,
    },
    /// A model that computes embeddings was asked to continue a text.
    #[error(
        "a model of the family `{family}` is an encoder: it makes embeddings and continues no text; use `taoye embed`"
    )]
    IsAnEncoder {
        /// The family.
        family: &'static str,
    },
    /// A model that continues texts was asked for embeddings.
    #[error(
        "{}: a model of the family `{family}` is no encoder; embeddings are made by models of the family `bert`",
        path.display()
    )]
    NotAnEncoder {
        /// The model.
        path: std::path::PathBuf,
        /// The family.
        family: &'static str,
    },
    /// An encoder whose rows are pooled in a way that is not supported.
    #[error("{}: rows are pooled by `{mode}`; supported are the mean and the first token", path.display())]
    Pooling {
        /// The model.
        path: std::path::PathBuf,
        /// What its files ask for.
        mode: String,
    },
    /// A prompt without a single id predicts nothing.
    #[error("the prompt holds no tokens; give at least one id to continue from")]
    EmptyPrompt,
    /// An id that the model's vocabulary does not hold.
    #[error(
        "token id {id} at position {position} is outside the model's vocabulary of {vocabulary} ids; \
         is this the tokenizer that the model was trained with?"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Where it stands in the sequence.
        position: usize,
        /// Number of ids in the vocabulary.
        vocabulary: usize,
    },
    /// Every page of the key/value cache is taken.
    #[error(
        "the key/value cache is full: {wanted} more pages of {page_tokens} tokens are needed and \
         {free} of {total} are free; end other sequences or raise the engine's `max_pages`"
    )]
    OutOfPages {
        /// Pages that the step needs.
        wanted: usize,
        /// Pages that are free.
        free: usize,
        /// Pages in all.
        total: usize,
        /// Tokens in a page.
        page_tokens: usize,
    },
    /// A sampling parameter outside its range.
    #[error("{name} is {value}; it must be {allowed}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The model gave a logit that is not a number, or infinity.
    #[error(
        "the model gave a logit that is not finite after {position} tokens; its weights are damaged \
         or its training diverged"
    )]
    NotFinite {
        /// Ids in the sequence before the one that was to be predicted.
        position: usize,
    },
    /// A constraint that lets nothing follow, or an id that it did not allow.
    #[error("after {position} tokens the answer cannot go on within its constraint: {reason}")]
    Constraint {
        /// Ids in the sequence before the one that was to be chosen.
        position: usize,
        /// What the constraint says.
        reason: String,
    },
    /// A model that was to guess for another one with other ids.
    #[error(
        "the draft model's vocabulary has {draft_vocabulary} ids and the model's {vocabulary}; a draft model needs the \
         tokenizer of the model that it guesses for"
    )]
    Vocabularies {
        /// Ids of the model.
        vocabulary: usize,
        /// Ids of the draft model.
        draft_vocabulary: usize,
    },
    /// A request names adapters that the engine does not have.
    #[error("there is no adapter named `{name}`; there are: {known}")]
    UnknownAdapter {
        /// What was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// Adapters under a name that others have already.
    #[error("there is an adapter named `{name}` already; unload it first, or choose another name")]
    AdapterExists {
        /// The name.
        name: String,
    },
    /// Adapters that were read for another model.
    #[error("the adapter `{name}` was read for a model of another configuration")]
    AdapterOfOther {
        /// The name.
        name: String,
    },
    /// Adapters for which memory does not suffice.
    #[error(
        "the adapter `{name}` needs up to {needed} while it is loaded, and {available} of memory are free"
    )]
    AdapterTooLarge {
        /// The name.
        name: String,
        /// With its unit.
        needed: String,
        /// Free memory, with its unit.
        available: String,
    },
    /// The model's folder cannot be read.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// Weights that were to be quantised while loading.
    #[error(transparent)]
    Quantize(tensor::Error),
    /// The model and its key/value cache do not fit the machine's memory.
    #[error(
        "the model needs {weights} for its weights and {cache} for the keys and values of {context_tokens} tokens, and \
         {available} of memory are free: use a smaller or more strongly quantised model (`taoye model quantize`), a \
         shorter --context or --kv-type q8"
    )]
    TooLarge {
        /// Packed weights, with their unit.
        weights: String,
        /// The cache of one context, with its unit.
        cache: String,
        /// The context.
        context_tokens: usize,
        /// Free memory, with its unit.
        available: String,
    },
    /// A context longer than the model's.
    #[error(
        "a context of {asked_tokens} tokens was asked for, and the model's is {context_tokens}; ask for no more than that"
    )]
    ContextTooLong {
        /// What was asked for.
        asked_tokens: usize,
        /// What the model was trained for.
        context_tokens: usize,
    },
}
