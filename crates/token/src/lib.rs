//! Text ↔ ids: tokenizer training, encoding, decoding, chat messages and templates, packed shards of ids.
//! Must not know models, tensors or how ids are generated.
//!
//! ```
//! use token::{Tokenizer, TrainOptions};
//! let documents = ["the cat, the hat, the 猫", "那只猫和那顶帽子"];
//! let tokenizer = Tokenizer::train(&documents, &TrainOptions { vocab_size: 300, ..Default::default() }, 1)?;
//! let ids = tokenizer.encode("the cat 猫");
//! assert_eq!(tokenizer.decode(&ids), "the cat 猫");
//! # Ok::<(), token::Error>(())
//! ```

mod added;
mod bpe;
mod charsmap;
mod chat;
mod class_table;
mod classes;
mod clock;
mod conversations;
mod decode;
mod error;
mod file;
mod gguf;
mod hash;
mod merged;
mod normal;
mod pretoken;
mod pretokenizers;
mod python_json;
mod read;
mod sentencepiece;
mod split;
mod template;
mod to_gguf;
mod tokenizer;
mod tools;
mod train;
mod trie;
mod unigram;
mod vocabulary;
mod words;

pub mod pack;
pub mod shard;

pub use chat::{CHATML, ChatIds, Message, Role};
pub use conversations::{ChatFile, ChatFileTotals, Conversation};
pub use decode::{SpecialTokens, StreamDecoder};
pub use error::{Error, Result};
pub use gguf::write_folder;
pub use pretoken::{DIGITS_MAX, PreTokens, pattern};
pub use template::ChatTemplate;
pub use to_gguf::write_gguf;
pub use tokenizer::{END_OF_TEXT, MESSAGE_END, MESSAGE_START, Settings, Tokenizer, TrainOptions};
pub use tools::{TemplateOptions, ToolCall};
pub use train::WordCounts;
