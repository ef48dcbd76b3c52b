//! Shards from outside: what goes in comes out, and any damage is refused.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use token::shard::{Loss, Reader, Writer};
use token::{Tokenizer, TrainOptions};

fn tokenizer() -> Tokenizer {
    Tokenizer::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer")).unwrap()
}

/// A tokenizer of more than 65,536 ids, made of special tokens to be quick.
fn wide_tokenizer() -> Tokenizer {
    let special_tokens: Vec<String> = (0..70_000).map(|index| format!("<|{index}|>")).collect();
    let options = TrainOptions { vocab_size: 70_256, special_tokens, ..Default::default() };
    Tokenizer::train(&["text"], &options, 1).unwrap()
}

fn write(path: &Path, tokenizer: &Tokenizer, loss: Loss, documents: &[Vec<u32>]) {
    let mut writer = Writer::new(path, tokenizer, loss);
    for ids in documents {
        let mask: Vec<u8> = ids.iter().map(|id| (id % 2) as u8).collect();
        writer.add(ids, if loss == Loss::Masked { &mask } else { &[] }).unwrap();
    }
    writer.finish().unwrap();
}

fn sample(folder: &Path) -> PathBuf {
    let path = folder.join("sample.shard");
    let documents: Vec<Vec<u32>> =
        (0..500u32).map(|index| (0..index * 5).map(|id| id % 900).collect()).collect();
    write(&path, &tokenizer(), Loss::Masked, &documents);
    path
}

#[test]
fn what_goes_in_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.shard");
    let sets: [Vec<Vec<u32>>; 4] = [
        vec![],
        vec![vec![]],
        vec![vec![1, 2, 3], vec![], vec![900]],
        vec![(0..900).collect(), vec![7; 3000]],
    ];
    for tokenizer in [tokenizer(), wide_tokenizer()] {
        for loss in [Loss::Everywhere, Loss::Masked] {
            for documents in &sets {
                write(&path, &tokenizer, loss, documents);
                let reader = Reader::open(&path).unwrap();
                reader.check_tokenizer(&tokenizer).unwrap();
                assert_eq!(reader.loss(), loss);
                assert_eq!(reader.vocab_size(), tokenizer.vocab_size());
                let lengths: Vec<u64> = documents.iter().map(|ids| ids.len() as u64).collect();
                assert_eq!(reader.document_lengths(), lengths);
                assert_eq!(reader.tokens(), lengths.iter().sum::<u64>());
                for (index, ids) in documents.iter().enumerate() {
                    let range = reader.document(index);
                    let (mut found, mut mask) = (vec![0; ids.len()], vec![9; ids.len()]);
                    reader.read_ids(range.start, &mut found);
                    reader.read_mask(range.start, &mut mask);
                    assert_eq!(&found, ids);
                    let masked = |id: &u32| if loss == Loss::Masked { (id % 2) as u8 } else { 1 };
                    assert_eq!(mask, ids.iter().map(masked).collect::<Vec<u8>>());
                }
            }
        }
    }
}

#[test]
fn large_ids_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.shard");
    let ids = vec![0, 65_535, 65_536, 70_255];
    write(&path, &wide_tokenizer(), Loss::Everywhere, std::slice::from_ref(&ids));
    let mut found = vec![0; 2];
    Reader::open(&path).unwrap().read_ids(2, &mut found);
    assert_eq!(found, ids[2..]);
}

#[test]
fn any_flipped_bit_and_any_cut_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample(folder.path());
    let good = std::fs::read(&path).unwrap();
    assert!(good.len() > 1 << 20, "more than one block is needed");
    let damaged = folder.path().join("damaged.shard");
    let check = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        let message = Reader::open(&damaged).err().expect("the damage must be seen").to_string();
        assert!(message.contains("damaged.shard"), "{message}");
        message
    };
    for at in (0..128).chain((128..good.len()).step_by(100_003)).chain(good.len() - 16..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let message = check(&bad);
        if (128..128 + (1 << 20)).contains(&at) {
            assert!(message.contains("block 0 of 2"), "byte {at}: {message}");
        }
    }
    for length in [0, 1, 127, 128, 5000, good.len() - 1] {
        check(&good[..length]);
    }
    check(&[&good[..], b"x"].concat());
}

#[test]
fn another_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let reader = Reader::open(sample(folder.path())).unwrap();
    let other = Tokenizer::train(&["other text, other pairs"], &TrainOptions::default(), 1).unwrap();
    let message = reader.check_tokenizer(&other).unwrap_err().to_string();
    assert!(message.contains(&other.fingerprint()[..12]), "{message}");
}

#[test]
fn a_document_that_does_not_fit_is_refused_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.shard");
    let tokenizer = tokenizer();
    let mut writer = Writer::new(&path, &tokenizer, Loss::Masked);
    let beyond = tokenizer.vocab_size() as u32;
    for (ids, mask) in
        [(vec![1, beyond], vec![0, 0]), (vec![1, 2], vec![1]), (vec![1], vec![2]), (vec![1], vec![])]
    {
        let message = writer.add(&ids, &mask).unwrap_err().to_string();
        assert!(message.contains("b.shard"), "{message}");
    }
    writer.add(&[5], &[1]).unwrap();
    assert!(!path.exists());
    writer.finish().unwrap();
    assert_eq!(Reader::open(&path).unwrap().document_lengths(), [1]);
}
