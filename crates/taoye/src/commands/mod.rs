//! One file a command: its flags turned into calls.

pub mod chat;
pub mod corpus;
pub mod embed;
pub mod eval;
pub mod load;
pub mod model;
pub mod plan;
pub mod run;
pub mod runs;
pub mod serve;
pub mod texts;
pub mod tokenizer;
pub mod train;
