//! Answers of a given structure: JSON, a JSON schema, a regular expression, a grammar. From the bytes of tokens
//! to the ids that may come next; knows neither messages nor how ids are chosen.

mod guided;
mod schema;

use std::sync::{Arc, OnceLock};

use engine::Constraint;
use llguidance::ParserFactory;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use serde_json::{Value, json};
use token::Tokenizer;

use guided::Grammars;
pub(crate) use schema::{ANNOTATIONS, enforceable};

use crate::{Codec, Error, Result};

/// Blank space between the parts of JSON: one space or none. Where lines may end there, a small model fills its answer with
/// indentation.
const JSON_SPACE: &str = "[ ]?";

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Structure {
    /// A JSON object.
    JsonObject,
    /// A JSON document that a schema (drafts 4 to 2020-12) allows. A keyword that cannot be enforced is refused.
    JsonSchema(Value),
    /// Text that matches a regular expression as a whole, in the syntax of Rust's crate `regex` without
    /// look-around and back-references.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a context-free grammar in llguidance's variant of Lark, whose rule `start` is the whole.
    Lark(String),
    /// A structure as a part of a grammar in the same variant of Lark.
    Within {
        /// The rules; `start` is the whole and refers to the structure as `@structured`.
        rules: String,
        /// The part.
        structure: Box<Structure>,
    },
}

impl Structure {
    /// Grammars of which the first is the whole and may refer to the others.
    ///
    /// # Errors
    /// What in the structure is wrong or cannot be enforced.
    fn grammars(&self) -> std::result::Result<Vec<GrammarWithLexer>, String> {
        Ok(vec![match self {
            Structure::JsonObject => GrammarWithLexer::from_json_schema(spaced(json!({"type": "object"}))),
            Structure::JsonSchema(schema) => GrammarWithLexer::from_json_schema(spaced(enforceable(schema)?)),
            Structure::Regex(pattern) => GrammarWithLexer::from_regex(pattern),
            Structure::Choice(texts) => GrammarWithLexer::from_lark(choice(texts)?),
            Structure::Lark(text) => {
                check_lark(text)?;
                GrammarWithLexer::from_lark(text.clone())
            }
            Structure::Within { rules, structure } => {
                let mut inner = structure.grammars()?;
                // The first is the whole of what it is part of; where it has parts itself, they have this name already.
                let depth = inner.len();
                let name = format!("structured{}", "_inner".repeat(depth - 1));
                inner[0].name = Some(name.clone());
                let whole = GrammarWithLexer::from_lark(rules.replace("@structured", &format!("@{name}")));
                return Ok([vec![whole], inner].concat());
            }
        }])
    }
}

/// A schema with what its blank space may be; `true` allows any document.
pub(crate) fn spaced(schema: Value) -> Value {
    let mut schema = if schema.is_object() { schema } else { json!({}) };
    if let Some(keywords) = schema.as_object_mut() {
        keywords.insert("x-guidance".into(), json!({"whitespace_pattern": JSON_SPACE}));
    }
    schema
}

fn choice(texts: &[String]) -> std::result::Result<String, String> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err("there must be something to choose from, and no text may be empty".to_owned());
    }
    let literals: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    Ok(format!("start: {}\n", literals.join(" | ")))
}

/// Whether the schemas within a grammar can be enforced.
fn check_lark(text: &str) -> std::result::Result<(), String> {
    for (at, sign) in text.match_indices("%json") {
        let rest = &text[at + sign.len()..];
        // What is no JSON there is refused when the grammar is read.
        if let Some(Ok(schema)) = serde_json::Deserializer::from_str(rest).into_iter::<Value>().next() {
            let mut schema = schema;
            // How blank space is written is for the grammar to say.
            schema.as_object_mut().and_then(|keywords| keywords.remove("x-guidance"));
            enforceable(&schema)?;
        }
    }
    Ok(())
}

/// Makes constraints over one tokenizer's ids, from any thread.
pub struct Structures {
    tokenizer: Arc<Tokenizer>,
    stop_ids: Vec<u32>,
    /// Made when the first constraint needs it, once for all.
    grammars: OnceLock<std::result::Result<Grammars, String>>,
}

impl Structures {
    /// Structures over a model's tokenizer, whose answers end with any of these ids.
    pub fn new(codec: &Codec, stop_ids: Vec<u32>) -> Self {
        Self { tokenizer: Arc::clone(codec.shared_tokenizer()), stop_ids, grammars: OnceLock::new() }
    }

    /// A constraint at the beginning of an answer, for [`crate::AnswerOptions::constraint`]. The first one takes
    /// the time to sort the vocabulary: some tenths of a second for 150,000 ids. One of a structure that was asked for not long ago
    /// takes none and goes on with what the others have found out about it.
    ///
    /// # Errors
    /// [`Error::Structure`], saying what in the structure is wrong or cannot be enforced.
    pub fn constraint(&self, structure: &Structure) -> Result<Box<dyn Constraint>> {
        let sorted =
            self.grammars.get_or_init(|| factory(&self.tokenizer, &self.stop_ids).map(Grammars::new));
        let sorted = sorted.as_ref().map_err(|reason| Error::Structure(reason.clone()))?;
        let grammars = structure.grammars().map_err(Error::Structure)?;
        let begin = sorted.begin(TopLevelGrammar { grammars, max_tokens: None });
        Ok(Box::new(begin.map_err(|reason| Error::Structure(first_line(&reason)))?))
    }
}

/// The ids of a tokenizer sorted by their bytes.
///
/// # Errors
/// No id ends an answer, so that none with a structure could end.
fn factory(tokenizer: &Tokenizer, stop_ids: &[u32]) -> std::result::Result<ParserFactory, String> {
    let count = tokenizer.vocab_size();
    let ends: Vec<u32> = stop_ids.iter().copied().filter(|&id| (id as usize) < count).collect();
    let Some(&end) = ends.first() else {
        return Err("the model has no id that ends an answer".to_owned());
    };
    let words: Vec<Vec<u8>> = (0..count as u32).map(|id| word(tokenizer, id)).collect();
    let info = TokRxInfo::new(count as u32, end);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

/// The bytes by which a grammar knows an id. Those of special tokens begin with a byte that no text has, so that
/// only a grammar that names them allows them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.special_text(id) {
        Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
        None => tokenizer.token_bytes(id).unwrap_or_default().to_vec(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}
