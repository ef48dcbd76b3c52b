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
