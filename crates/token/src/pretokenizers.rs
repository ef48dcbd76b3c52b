//! The names that GGUF files have for ways to cut texts (`tokenizer.ggml.pre`), with the patterns that they stand for.
//! Knows patterns; must not know vocabularies or files.
//!
//! Names and patterns as llama.cpp's `llama-vocab.cpp` lists them (0.3.36 of llama-cpp-python). Where it adapts a pattern to
//! its own engine, the table has the original, which its comments quote from the models' `tokenizer.json`.

use serde_json::{Value, json};

use crate::normal::{Form, Step as Normal};
use crate::pretoken::Scanner;
use crate::read::{Reason, regex};
use crate::split::{Matches, Step};

/// What a name stands for.
pub(crate) struct PreTokenizer {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Does a word that is a token count as that, whatever merging makes?
    pub ignores_merges: bool,
    /// Does a text begin with the beginning's token, where the file does not say?
    pub adds_bos: bool,
    /// Are words spelt as they are, spaces as `▁`, rather than in letters for bytes?
    pub is_plain: bool,
}

#[derive(Clone, Copy)]
enum Cut {
    Scan(Scanner),
    Pattern(&'static str),
}

impl PreTokenizer {
    /// The one of this name; the error says that there is none.
    pub(crate) fn named(name: &str) -> Reason<&'static PreTokenizer> {
        TABLE.iter().find(|one| one.names.contains(&name)).ok_or_else(|| {
            format!(
                "tokenizer.ggml.pre is {name:?}, a way to cut texts that this program does not know; take the tokenizer.json \
                 of the model's Hugging Face folder, or another file of the model"
            )
        })
    }

    /// The steps that cut.
    pub(crate) fn steps(&self) -> Reason<Vec<Step>> {
        let step = |cut: &Cut| match cut {
            Cut::Scan(scanner) => Ok(Step::Scan(*scanner)),
            Cut::Pattern(pattern) => {
                Ok(Step::Match(regex("tokenizer.ggml.pre", pattern)?, Matches::Isolated))
            }
        };
        self.cuts.iter().map(step).collect()
    }

    /// The steps that cut, as `tokenizer.json` has them.
    pub(crate) fn json_steps(&self) -> Vec<Value> {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let mut steps = Vec::new();
        for cut in self.cuts {
            match cut {
                Cut::Scan(scanner) => {
                    if *scanner == Scanner::DigitsThenGpt2 {
                        steps.push(json!({"type": "Digits", "individual_digits": true}));
                    }
                    steps.push(split(&scanner.pattern()));
                }
                Cut::Pattern(pattern) => steps.push(split(pattern)),
            }
        }
        steps
    }

    /// What the models of this name do to a text before. GGUF files do not say it; llama.cpp leaves it out.
    pub(crate) fn normal_steps(&self) -> Vec<Normal> {
        let composes = self.names.contains(&"qwen2") || self.names.contains(&"qwen35");
        if composes { vec![Normal::Form(Form::Nfc)] } else { Vec::new() }
    }
}

const fn plain(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer { names, cuts, ignores_merges: false, adds_bos: false, is_plain: false }
}

const fn whole_words(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer { ignores_merges: true, ..plain(names, cuts) }
}

const CL100K_1: &[Cut] = &[CL100K];
const CL100K_3: &[Cut] = &[Cut::Scan(Scanner::Cl100k { digits: 3 })];
const GPT2: &[Cut] = &[Cut::Scan(Scanner::Gpt2)];
const DIGITS_GPT2: &[Cut] = &[Cut::Scan(Scanner::DigitsThenGpt2)];
const CL100K: Cut = Cut::Scan(Scanner::Cl100k { digits: 1 });
const O200K: Cut = Cut::Pattern(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
));
const BLOOM: Cut = Cut::Pattern(r" ?[^(\s|.,!?…。，、।۔،)]+");
const KANA_AND_HAN: Cut = Cut::Pattern("[一-龥\u{3040}-ゟ゠-ヿ]+");
const DEEPSEEK_WORDS: Cut = Cut::Pattern(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"##,
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
));
const LINES: Cut = Cut::Pattern(r"[^\n]+|[\n]+");

static TABLE: &[PreTokenizer] = &[
    plain(
        &["default"],
        &[
            Cut::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
            Cut::Scan(Scanner::Gpt2),
            Cut::Pattern(r"\p{N}+"),
            Cut::Pattern("[0-9][0-9][0-9]"),
        ],
    ),
    PreTokenizer {
        adds_bos: true,
        ..whole_words(
            &[
                "llama3",
                "llama-v3",
                "llama-bpe",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            CL100K_3,
        )
    },
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe"], CL100K_3),
    whole_words(&["glm4", "glm5"], CL100K_3),
    plain(&["qwen2"], CL100K_1),
    plain(
        &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        CL100K_1,
    ),
    plain(&["qwen35"], &[Cut::Scan(Scanner::Marks { digits: 1 })]),
    plain(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        GPT2,
    ),
    plain(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        DIGITS_GPT2,
    ),
    plain(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[O200K]),
    whole_words(&["granite-embed-multi-97m"], &[O200K]),
    PreTokenizer {
        adds_bos: true,
        ..whole_words(
            &["tekken"],
            &[Cut::Pattern(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
                r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ))],
        )
    },
    plain(&["tiny_aya", "cohere2moe"], &[Cut::Pattern(r"\d{1,3}(?=(?:\d{3})*\b)"), O200K]),
    plain(
        &["deepseek-llm"],
        &[
            Cut::Pattern("[\r\n]"),
            Cut::Pattern(LETTERS_WITH_CASE),
            Cut::Pattern(r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+"),
            Cut::Pattern(r"\s+$"),
            Cut::Pattern(r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+"),
            Cut::Pattern(r"\p{N}+"),
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[
            Cut::Pattern("[\r\n]"),
            Cut::Pattern(r"\s?\p{L}+"),
            Cut::Pattern(r"\s?\p{P}+"),
            Cut::Pattern(r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+"),
            Cut::Pattern(r"\p{N}"),
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[Cut::Pattern(r"\p{N}{1,3}"), KANA_AND_HAN, DEEPSEEK_WORDS],
    ),
    plain(
        &["falcon"],
        &[Cut::Pattern(r"[\p{P}\$\+<=>\^~\|`]+"), Cut::Scan(Scanner::Gpt2), Cut::Pattern("[0-9][0-9][0-9]")],
    ),
    plain(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    plain(&["viking"], &[BLOOM, Cut::Pattern(r"\p{N}")]),
    plain(&["superbpe"], &[Cut::Pattern(r"\p{N}+"), Cut::Pattern(r"(?=(\d{3})+(?!\d))")]),
    plain(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[Cut::Pattern(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
    ),
    plain(
        &["seed-coder"],
        &[Cut::Pattern(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
            r"|\s+(?!\S)|\s+"
        ))],
    ),
    plain(
        &["ufakzeka"],
        &[Cut::Pattern(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")],
    ),
    plain(
        &["exaone-moe"],
        &[Cut::Pattern(concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ))],
    ),
    plain(&["laguna"], &[LINES, CL100K]),
    whole_words(
        &["minicpm5"],
        &[
            Cut::Pattern(r"\p{N}{1,3}"),
            Cut::Pattern(concat!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
                r"|\s+(?!\S)|\s+"
            )),
        ],
    ),
    PreTokenizer {
        adds_bos: true,
        is_plain: true,
        ..plain(&["gemma4", "granite-embed-multi-311m"], &[LINES])
    },
    PreTokenizer { is_plain: true, ..plain(&["sarvam-moe"], &[LINES]) },
];

/// Letters of the alphabets that have capitals, as DeepSeek's first models list them, with a space before.
const LETTERS_WITH_CASE: &str = concat!(
    r"\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}",
    r"\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}",
    r"\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}",
    r"\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}",
    r"\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}",
    r"\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107}",
    r"\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}",
    r"\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}",
    r"\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}\x{a771}-\x{a787}",
    r"\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}",
    r"\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}",
    r"\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+",
);
