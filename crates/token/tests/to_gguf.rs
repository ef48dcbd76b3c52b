//! A tokenizer of a folder, written into a GGUF file and read back, gives the same ids.
#![allow(clippy::unwrap_used)]

use base::gguf::{File, Writer};
use token::{Tokenizer, TrainOptions, write_gguf};

#[test]
fn our_own_tokenizer_gives_the_same_ids_from_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let documents = [
        "it's the cat's hat, and 12 others: don't",
        "那只猫和那顶帽子，两只猫。",
        "fn main() { let x = 7; }",
    ];
    let options = TrainOptions { vocab_size: 400, ..TrainOptions::default() };
    let tokenizer = Tokenizer::train(&documents, &options, 1).unwrap();
    tokenizer.save(folder.path()).unwrap();
    let rows = tokenizer.vocab_size() + 3;
    let mut header = Writer::new();
    let notes = write_gguf(folder.path(), rows, &mut header).unwrap();
    assert!(notes[0].contains("`ufakzeka`"), "{notes:?}");
    let path = folder.path().join("tokenizer.gguf");
    header.begin(&path).unwrap().finish().unwrap();
    let file = File::open(&path).unwrap();
    let tokens: Vec<&str> = file.require("tokenizer.ggml.tokens").unwrap();
    assert_eq!((tokens.len(), tokens[rows - 1]), (rows, format!("[PAD{}]", rows - 1).as_str()));
    let again = Tokenizer::from_gguf(&file).unwrap();
    for text in documents.into_iter().chain(["'sample' of the 2024 猫 hats\n\n  twice"]) {
        assert_eq!(again.encode(text), tokenizer.encode(text), "{text}");
    }
}

#[test]
fn an_embedding_table_with_too_few_rows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    Tokenizer::train(&["the cat"], &options, 1).unwrap().save(folder.path()).unwrap();
    let message = write_gguf(folder.path(), 200, &mut Writer::new()).unwrap_err().to_string();
    assert!(message.contains("only 200 rows"), "{message}");
}
