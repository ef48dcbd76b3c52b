//! Reading `tokenizer.json`, as Hugging Face `tokenizers` writes it, of any byte-level BPE. What would make other ids than
//! theirs is refused by name. Knows the file's format; must not know folders, nor how text is encoded.

use std::collections::{HashMap, HashSet};

use fancy_regex::RegexBuilder;
use serde_json::{Map, Value};

use crate::added::AddedToken;
use crate::bpe::{Merge, Merges};
use crate::normal::Form;
use crate::pretoken::Scanner;
use crate::split::{Digits, Gaps, Splitter, Step};
use crate::vocabulary::{NO_ID, Parts, Vocabulary};

/// Ids above this are taken for damage: no vocabulary is so large, and tables grow with the highest id.
const ID_MAX: u64 = 1 << 24;

/// Said of tokenizers of other kinds.
const KINDS: &str = "only byte-level BPE can be used (as GPT-2, Llama 3, Qwen, SmolLM and this program have it): choose a \
    model with such a tokenizer, or train one with `taoye tokenizer train`";

/// The content of a file.
pub(crate) struct Contents {
    pub vocabulary: Vocabulary,
    pub added: Vec<AddedToken>,
    pub forms: Vec<Form>,
    pub splitter: Splitter,
    /// Ids that a whole text begins and ends with.
    pub opening: Vec<u32>,
    pub closing: Vec<u32>,
}

type Reason<T> = std::result::Result<T, String>;

/// Reads the file's JSON; the error is the reason alone.
pub(crate) fn contents(file: &Value) -> Reason<Contents> {
    let model = &file["model"];
    check_model(model)?;
    let vocab = read_vocabulary(model)?;
    let added = read_added(&file["added_tokens"], &vocab)?;
    let forms = read_forms(&file["normalizer"])?;
    let splitter = read_splitter(&file["pre_tokenizer"])?;
    let (mut opening, mut closing) = (Vec::new(), Vec::new());
    read_post_processor(&file["post_processor"], &mut opening, &mut closing)?;
    check_decoder(&file["decoder"])?;
    let vocabulary = build(model, &vocab, &added)?;
    if let Some(id) = opening.iter().chain(&closing).find(|&&id| vocabulary.bytes(id).is_none()) {
        return Err(format!("post_processor adds id {id}, which the vocabulary lacks"));
    }
    Ok(Contents { vocabulary, added, forms, splitter, opening, closing })
}

fn check_model(model: &Value) -> Reason<()> {
    let kind = &model["type"];
    // Files of 2019 to 2021 leave the type out; only BPE has merges.
    if kind != "BPE" && !(kind.is_null() && model["merges"].is_array()) {
        return Err(format!("model.type is {}; {KINDS}", shown(kind)));
    }
    if model["byte_fallback"] == true {
        return Err(format!("model.byte_fallback is true, as in SentencePiece's tokenizers; {KINDS}"));
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !(model[name].is_null() || model[name] == "") {
            return Err(format!("model.{name} is {}; {KINDS}", shown(&model[name])));
        }
    }
    match model["dropout"].as_f64() {
        Some(dropout) if dropout != 0.0 => Err(format!(
            "model.dropout is {dropout}, which makes ids by chance; set it to null in the file for ids that stay"
        )),
        _ => Ok(()),
    }
}

fn read_vocabulary(model: &Value) -> Reason<HashMap<&str, u32>> {
    let vocab = model["vocab"].as_object().ok_or("model.vocab is not an object")?;
    let ids = vocab.iter().map(|(text, id)| match id.as_u64().filter(|&id| id <= ID_MAX) {
        Some(id) => Ok((text.as_str(), id as u32)),
        None => Err(format!("model.vocab gives {text:?} the id {id}, expected a number up to {ID_MAX}")),
    });
    ids.collect()
}

/// The merges of the model, the ids of what they make, and the bytes of all ids.
fn build(model: &Value, vocab: &HashMap<&str, u32>, added: &[AddedToken]) -> Reason<Vocabulary> {
    let bytes_of_letters = bytes_of_letters();
    let spelt = |text: &str| -> Option<Vec<u8>> {
        text.chars().map(|letter| bytes_of_letters.get(&letter).copied()).collect()
    };
    let mut symbols = Symbols::new(vocab);
    let rules = read_merges(&model["merges"], &mut symbols)?;
    let (merges, names) = Merges::new(&rules);
    let ids: Vec<u32> = names.iter().map(|&name| symbols.ids[name as usize]).collect();
    let absent = (0..=255u8).filter(|&byte| ids[usize::from(byte)] == NO_ID && is_in_utf8(byte));
    if absent.count() > 0 && !model["unk_token"].is_null() {
        return Err(format!(
            "model.unk_token is {}, and the vocabulary lacks some of the 256 bytes that it would stand for; {KINDS}",
            shown(&model["unk_token"])
        ));
    }
    let all = vocab.iter().map(|(&text, &id)| (text, id));
    let all = all.map(|(text, id)| (spelt(text).unwrap_or_else(|| text.as_bytes().to_vec()), id));
    let added = added.iter().map(|token| (token.content.as_bytes().to_vec(), token.id));
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for (text, id) in all.chain(added) {
        if texts.len() <= id as usize {
            texts.resize(id as usize + 1, Vec::new());
        }
        texts[id as usize] = text;
    }
    let mut whole_words = Vec::new();
    if model["ignore_merges"] == true {
        let merged: HashSet<u32> = ids.iter().copied().collect();
        let others = vocab.iter().filter(|(_, id)| !merged.contains(id));
        whole_words = others.filter_map(|(text, &id)| Some((spelt(text)?, id))).collect();
    }
    Ok(Vocabulary::new(Parts { merges, ids, texts, whole_words }))
}

/// Numbers for the texts that merges name: the bytes first, others as they come.
struct Symbols<'a> {
    vocab: &'a HashMap<&'a str, u32>,
    numbers: HashMap<String, u32>,
    ids: Vec<u32>,
}

impl<'a> Symbols<'a> {
    fn new(vocab: &'a HashMap<&'a str, u32>) -> Symbols<'a> {
        let letters = byte_letters().map(String::from);
        let ids = letters.iter().map(|letter| vocab.get(letter.as_str()).copied().unwrap_or(NO_ID)).collect();
        Symbols { vocab, numbers: letters.into_iter().zip(0..).collect(), ids }
    }

    fn number(&mut self, text: &str) -> Reason<u32> {
        if let Some(&number) = self.numbers.get(text) {
            return Ok(number);
        }
        let id = *self.vocab.get(text).ok_or_else(|| {
            format!("model.merges needs the token {text:?}, which model.vocab lacks; the file is damaged")
        })?;
        let number = self.ids.len() as u32;
        self.ids.push(id);
        self.numbers.insert(text.to_owned(), number);
        Ok(number)
    }
}

/// The merges in order; of those that stand twice the last one counts.
fn read_merges(merges: &Value, symbols: &mut Symbols<'_>) -> Reason<Vec<Merge>> {
    let merges = merges.as_array().ok_or("model.merges is not an array")?;
    let mut rules = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let sides = match merge {
            Value::String(text) if text.starts_with("#version") => continue,
            Value::String(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Value::Array(sides) if sides.len() == 2 => sides[0].as_str().zip(sides[1].as_str()),
            _ => None,
        };
        let (left, right) = sides.ok_or_else(|| {
            format!(
                "model.merges[{index}] is {}, expected two tokens: \"a b\" or [\"a\", \"b\"]",
                shown(merge)
            )
        })?;
        let pair = (symbols.number(left)?, symbols.number(right)?);
        rules.push(Merge { pair, made: symbols.number(&format!("{left}{right}"))? });
    }
    let mut seen = HashSet::with_capacity(rules.len());
    rules.reverse();
    rules.retain(|rule| seen.insert(rule.pair));
    rules.reverse();
    Ok(rules)
}

fn read_added(added: &Value, vocab: &HashMap<&str, u32>) -> Reason<Vec<AddedToken>> {
    let empty = Vec::new();
    let added = match added {
        Value::Null => &empty,
        added => added.as_array().ok_or("added_tokens is not an array")?,
    };
    let mut tokens: Vec<AddedToken> = Vec::new();
    for (index, token) in added.iter().enumerate() {
        let flag = |name: &str| token[name] == true;
        let content = token["content"].as_str().filter(|content| !content.is_empty());
        let content = content.ok_or_else(|| format!("added_tokens[{index}].content is not a text"))?;
        if flag("single_word") {
            return Err(format!(
                "added_tokens[{index}].single_word is true ({content:?}), which is not supported"
            ));
        }
        if tokens.iter().any(|token| token.content == content) {
            return Err(format!("added_tokens holds {content:?} twice; remove one of them"));
        }
        // Hugging Face `tokenizers` counts up itself, whatever the file says.
        let counted = tokens.iter().map(|token| token.id + 1).max().unwrap_or(0).max(vocab.len() as u32);
        let id = vocab.get(content).copied().unwrap_or(counted);
        if token["id"] != id {
            return Err(format!(
                "added_tokens[{index}] ({content:?}) has the id {}, but Hugging Face tokenizers gives it {id}; correct the \
                 file, so that both agree",
                shown(&token["id"])
            ));
        }
        tokens.push(AddedToken {
            id,
            content: content.to_owned(),
            special: flag("special"),
            normalized: flag("normalized"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
        });
    }
    Ok(tokens)
}

fn read_forms(normalizer: &Value) -> Reason<Vec<Form>> {
    let unsupported = |what: &Value| {
        Err(format!("normalizer {} is not supported, only NFC, NFD, NFKC and NFKD; {KINDS}", shown(what)))
    };
    match normalizer["type"].as_str() {
        None if normalizer.is_null() => Ok(Vec::new()),
        Some("NFC") => Ok(vec![Form::Nfc]),
        Some("NFD") => Ok(vec![Form::Nfd]),
        Some("NFKC") => Ok(vec![Form::Nfkc]),
        Some("NFKD") => Ok(vec![Form::Nfkd]),
        Some("Sequence") => match normalizer["normalizers"].as_array() {
            Some(all) => Ok(all.iter().map(read_forms).collect::<Reason<Vec<_>>>()?.concat()),
            None => unsupported(normalizer),
        },
        _ => unsupported(normalizer),
    }
}

fn read_splitter(pre_tokenizer: &Value) -> Reason<Splitter> {
    let mut steps = Vec::new();
    let mut has_bytes = false;
    let alone = std::slice::from_ref(pre_tokenizer);
    let all = match &pre_tokenizer["pretokenizers"] {
        Value::Array(all) if pre_tokenizer["type"] == "Sequence" => all,
        _ => alone,
    };
    for step in all {
        if has_bytes {
            return Err(format!(
                "pre_tokenizer {} stands after ByteLevel, which is not supported",
                shown(step)
            ));
        }
        match step["type"].as_str() {
            Some("ByteLevel") => {
                if step["add_prefix_space"] == true {
                    return Err(
                        "pre_tokenizer ByteLevel.add_prefix_space is true, which is not supported".into()
                    );
                }
                has_bytes = true;
                // Files from before the flag was there mean the pattern.
                if step["use_regex"] != false {
                    steps.push(Step::Scan(Scanner::Gpt2));
                }
            }
            Some("Digits") if step["individual_digits"] == true => steps.push(Step::Digits(Digits::Single)),
            Some("Digits") => steps.push(Step::Digits(Digits::Runs)),
            Some("Split") => steps.push(read_split(step)?),
            _ => return Err(format!("pre_tokenizer {} is not supported; {KINDS}", shown(step))),
        }
    }
    if !has_bytes {
        return Err(format!("pre_tokenizer {} has no ByteLevel; {KINDS}", shown(pre_tokenizer)));
    }
    Ok(Splitter::new(steps))
}

fn read_split(step: &Value) -> Reason<Step> {
    let gaps = match (step["behavior"].as_str(), step["invert"] == true) {
        // Inverted, what matches is kept as it would be, and so is what does not.
        (Some("Isolated"), _) => Gaps::Keep,
        (Some("Removed"), true) => Gaps::Drop,
        _ => {
            return Err(format!(
                "pre_tokenizer Split with behavior {} and invert {} is not supported, only Isolated, and Removed inverted",
                shown(&step["behavior"]),
                step["invert"]
            ));
        }
    };
    let pattern = match (step["pattern"]["Regex"].as_str(), step["pattern"]["String"].as_str()) {
        (Some(pattern), _) => pattern.to_owned(),
        (None, Some(text)) => fancy_regex::escape(text).into_owned(),
        _ => return Err(format!("pre_tokenizer Split has no pattern: {}", shown(step))),
    };
    if let Some(scanner) = Scanner::for_pattern(&pattern) {
        return Ok(Step::Scan(scanner));
    }
    let mut builder = RegexBuilder::new(&pattern);
    let regex = builder.oniguruma_mode(true).backtrack_limit(usize::MAX).build();
    let regex = regex.map_err(|error| {
        format!("pre_tokenizer Split has the pattern {pattern:?}, which this program's regex engine refuses: {error}")
    })?;
    Ok(Step::Match(Box::new(regex), gaps))
}

/// Adds what a processor puts before and after a text.
fn read_post_processor(value: &Value, opening: &mut Vec<u32>, closing: &mut Vec<u32>) -> Reason<()> {
    let bad = || {
        format!(
            "post_processor {} is not supported; remove it from the file if no token is to be added",
            shown(value)
        )
    };
    match value["type"].as_str() {
        None if value.is_null() => Ok(()),
        // It changes offsets only.
        Some("ByteLevel") => Ok(()),
        Some("Sequence") => {
            let all = value["processors"].as_array().ok_or_else(bad)?;
            all.iter().try_for_each(|one| read_post_processor(one, opening, closing))
        }
        Some("TemplateProcessing") => {
            let pieces = value["single"].as_array().ok_or_else(bad)?;
            let mut before = Vec::new();
            let mut after = None;
            for piece in pieces {
                if let Some(name) = piece["SpecialToken"]["id"].as_str() {
                    let ids = value["special_tokens"][name]["ids"].as_array().ok_or_else(bad)?;
                    let ids: Option<Vec<u32>> =
                        ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect();
                    after.as_mut().unwrap_or(&mut before).extend(ids.ok_or_else(bad)?);
                } else if piece["Sequence"]["id"] == "A" && after.is_none() {
                    after = Some(Vec::new());
                } else {
                    return Err(bad());
                }
            }
            // Processors in sequence each enclose what the one before made.
            opening.splice(0..0, before);
            closing.extend(after.ok_or_else(bad)?);
            Ok(())
        }
        _ => Err(bad()),
    }
}

fn check_decoder(decoder: &Value) -> Reason<()> {
    let alone = std::slice::from_ref(decoder);
    let all = decoder["decoders"].as_array().map_or(alone, Vec::as_slice);
    match all.iter().find(|one| one["type"] != "ByteLevel") {
        Some(other) => Err(format!("decoder {} is not supported; {KINDS}", shown(other))),
        None => Ok(()),
    }
}

/// The letter that stands for each byte in `tokenizer.json` (GPT-2's `bytes_to_unicode`): printable bytes of Latin-1
/// stand for themselves, the other 68 take the code points from U+0100 on.
pub(crate) fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        };
    }
    letters
}

fn bytes_of_letters() -> HashMap<char, u8> {
    byte_letters().into_iter().zip(0..=255).collect()
}

/// Does the byte occur in UTF-8 (RFC 3629, section 1)?
fn is_in_utf8(byte: u8) -> bool {
    !matches!(byte, 0xc0 | 0xc1 | 0xf5..)
}

/// A value in a message, cut when long.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(fields) => Value::Object(without_long(fields)).to_string(),
        value => value.to_string(),
    };
    if text.chars().count() <= 160 { text } else { text.chars().take(160).chain(['…']).collect() }
}

/// Fields without tables, which would hide what matters.
fn without_long(fields: &Map<String, Value>) -> Map<String, Value> {
    let short = fields.iter().filter(|(_, value)| value.to_string().len() <= 120);
    short.map(|(name, value)| (name.clone(), value.clone())).collect()
}
