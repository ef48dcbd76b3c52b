//! The tokenizer from outside: training, round trips, files, streams, specials, hostile input.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use std::sync::LazyLock;
use token::{SpecialTokens, StreamDecoder, Tokenizer, TrainOptions};

const TEXTS: [&str; 5] = [
    "The quick brown fox jumps over the lazy dog. It's the dog's own fault, isn't it? We'll see.\n\n",
    "陶冶：烧制陶器，冶炼金属；也指人的思想与性情的养成。人工智能正在改变世界，人工智能也改变我们。\n",
    "fn main() {\n    let mut total = 0;\n    for index in 0..100 {\n        total += index;\n    }\n}\n",
    "日本語のテキストと한국어 텍스트, ещё русский текст, مرحبا بالعالم. 👩‍👩‍👧‍👦 e\u{301}\u{a0}\u{3000}\r\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa aaaaaaa aaa 1234567890 ---------- ========\n",
];

fn corpus() -> Vec<String> {
    (0..300).map(|index| format!("{}{}", TEXTS[index % 5], TEXTS[(index / 5) % 5])).collect()
}

fn options() -> TrainOptions {
    TrainOptions { vocab_size: 700, ..Default::default() }
}

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::train(&corpus(), &options(), 2).unwrap());

#[test]
fn training_does_not_depend_on_threads_or_order() {
    let one = Tokenizer::train(&corpus(), &options(), 1).unwrap().fingerprint();
    for threads in [2, 3, 7] {
        assert_eq!(Tokenizer::train(&corpus(), &options(), threads).unwrap().fingerprint(), one);
    }
    let mut reversed = corpus();
    reversed.reverse();
    assert_eq!(Tokenizer::train(&reversed, &options(), 3).unwrap().fingerprint(), one);
}

#[test]
fn saved_and_loaded_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    TOKENIZER.save(folder.path()).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(loaded.fingerprint(), TOKENIZER.fingerprint());
    assert_eq!(loaded.settings, TOKENIZER.settings);
    for text in TEXTS {
        assert_eq!(loaded.encode(text), TOKENIZER.encode(text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
    #[test]
    fn decode_undoes_encode(text in "\\PC{0,60}", pieces in prop::collection::vec(0usize..5, 0..4)) {
        let text: String = pieces.iter().map(|&piece| TEXTS[piece]).chain([text.as_str()]).collect();
        let ids = TOKENIZER.encode(&text);
        prop_assert_eq!(TOKENIZER.decode(&ids), text);
    }

    #[test]
    fn a_stream_equals_the_whole(ids in prop::collection::vec(0u32..720, 0..60)) {
        let mut stream = StreamDecoder::new(&*TOKENIZER, SpecialTokens::Show);
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        prop_assert_eq!(streamed, TOKENIZER.decode(&ids));
    }
}

#[test]
fn batches_equal_single_texts() {
    let texts = corpus();
    let single: Vec<Vec<u32>> = texts.iter().map(|text| TOKENIZER.encode(text)).collect();
    for threads in [1, 2, 5, 1000] {
        assert_eq!(TOKENIZER.encode_batch(&texts, threads), single);
    }
    assert!(TOKENIZER.encode_batch::<String>(&[], 3).is_empty());
}

/// Merges by the definition: again and again the lowest-ranked pair, leftmost first.
fn by_definition(word: &[u8], merges: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = word.iter().map(|&byte| vec![byte]).collect();
    loop {
        let rank =
            |pair: &[Vec<u8>]| merges.iter().position(|merge| merge.0 == pair[0] && merge.1 == pair[1]);
        let best = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at))).min();
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at + 1);
        parts[at].extend(right);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    #[test]
    fn words_short_and_long_are_merged_by_the_definition(word in "(a{1,9}|[a-f]{1,20}|the|ing|=+|-{1,30}){1,12}") {
        let folder = tempfile::tempdir().unwrap();
        TOKENIZER.save(folder.path()).unwrap();
        let json = std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        // The words tried are printable ASCII, for which the file's letters are the bytes themselves.
        let merges: Vec<(Vec<u8>, Vec<u8>)> = json["model"]["merges"].as_array().unwrap().iter().map(|merge| {
            let side = |index: usize| merge[index].as_str().unwrap().as_bytes().to_vec();
            (side(0), side(1))
        }).collect();
        let expected: Vec<Vec<u8>> = token::PreTokens::new(&word, 1)
            .flat_map(|piece| by_definition(piece, &merges))
            .collect();
        let ours: Vec<Vec<u8>> =
            TOKENIZER.encode(&word).iter().map(|&id| TOKENIZER.token_bytes(id).unwrap().to_vec()).collect();
        prop_assert_eq!(ours, expected);
    }
}

#[test]
fn hostile_texts_take_linear_time() {
    let megabyte = 1 << 20;
    let random_letters: String = (0..megabyte as u64)
        .map(|index| char::from(b'a' + (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26))
        .collect();
    let texts = [
        "a".repeat(megabyte),
        "人工智能正在改变".repeat(megabyte / 24),
        " ".repeat(megabyte),
        " ".repeat(megabyte) + "x",
        "\n ".repeat(megabyte / 2),
        "-".repeat(megabyte),
        "'".repeat(megabyte),
        "1".repeat(megabyte),
        "e\u{301}".repeat(megabyte / 3),
        "<|".repeat(megabyte / 2),
        random_letters,
    ];
    for text in texts {
        let start = std::time::Instant::now();
        let ids = TOKENIZER.encode_with_special(&text);
        assert_eq!(TOKENIZER.decode(&ids), text);
        let trained = Tokenizer::train(&[&text], &options(), 1).unwrap();
        assert_eq!(trained.decode(&trained.encode(&text)), text);
        // Quadratic work on a megabyte would take hours.
        assert!(start.elapsed().as_secs() < 20, "{:?}: {:?}", &text[..8], start.elapsed());
    }
}

#[test]
fn special_tokens_count_only_where_asked() {
    let end = TOKENIZER.special("<|im_end|>").unwrap();
    let text = "a<|im_end|>b";
    assert!(!TOKENIZER.encode(text).contains(&end));
    assert_eq!(TOKENIZER.encode_with_special(text).iter().filter(|&&id| id == end).count(), 1);
    assert_eq!(TOKENIZER.special_text(end), Some("<|im_end|>"));
    assert_eq!(TOKENIZER.vocab_size() as u32, end + 1);
    // The leftmost wins, of these the longest; no merge makes the text of a special token.
    let special_tokens = ["<a>", "<a><b>", "the"].map(String::from).to_vec();
    let custom = TrainOptions { vocab_size: 700, special_tokens, ..Default::default() };
    let custom = Tokenizer::train(&corpus(), &custom, 1).unwrap();
    let ids = custom.encode_with_special("<a><b><a>x the");
    let named: Vec<&str> = ids.iter().filter_map(|&id| custom.special_text(id)).collect();
    assert_eq!(named, ["<a><b>", "<a>", "the"]);
    assert_eq!(custom.decode(&ids), "<a><b><a>x the");
    assert_eq!(custom.encode("the").iter().filter(|&&id| custom.special_text(id).is_some()).count(), 0);
}

#[test]
fn unknown_ids_become_replacement_characters() {
    let beyond = TOKENIZER.vocab_size() as u32;
    assert_eq!(TOKENIZER.decode(&[u32::from(b'a'), beyond, u32::MAX, u32::from(b'b')]), "a\u{fffd}\u{fffd}b");
}

#[test]
fn bad_options_are_refused() {
    let check = |options: TrainOptions, documents: &[&str], expected: &str| {
        let message = Tokenizer::train(documents, &options, 1).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    let special = |names: &[&str]| TrainOptions {
        special_tokens: names.iter().map(|name| name.to_string()).collect(),
        ..options()
    };
    check(TrainOptions { vocab_size: 258, ..options() }, &["a"], "at least 259");
    check(TrainOptions { digits: 0, ..options() }, &["a"], "1 to 9");
    check(TrainOptions { digits: 10, ..options() }, &["a"], "1 to 9");
    check(special(&["<a>", "<a>"]), &["a"], "<a>");
    check(special(&[""]), &["a"], "two bytes");
    check(options(), &[], "no text");
    check(options(), &["", ""], "no text");
}
