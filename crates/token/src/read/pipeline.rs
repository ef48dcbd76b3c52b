//! What a `tokenizer.json` has beside its model: normalizer, pre-tokenizer, post-processor and decoder. Must not know
//! vocabularies.

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{KINDS, Reason, Spelling, shown};
use crate::charsmap::Charsmap;
use crate::decode::Joins;
use crate::normal::{self, Bert, Form, Normalizer};
use crate::pretoken::Scanner;
use crate::split::{Digits, MarkedSpaces, Matches, Prepend, SPACE_MARK, Splitter, Step, is_punctuation};

/// What a text goes through before it is cut.
pub(super) fn normalizer(value: &Value) -> Reason<Normalizer> {
    let mut steps = Vec::new();
    add_normal_steps(value, &mut steps)?;
    Ok(Normalizer::new(steps))
}

fn add_normal_steps(value: &Value, steps: &mut Vec<normal::Step>) -> Reason<()> {
    let unsupported = || format!("normalizer {} is not supported; {KINDS}", shown(value));
    let text = |name: &str| value[name].as_str().map(String::from).ok_or_else(unsupported);
    let is_on = |name: &str| value[name] != false;
    let step = match value["type"].as_str() {
        None if value.is_null() => return Ok(()),
        Some("Sequence") => {
            let all = value["normalizers"].as_array().ok_or_else(unsupported)?;
            return all.iter().try_for_each(|one| add_normal_steps(one, steps));
        }
        Some("NFC") => normal::Step::Form(Form::Nfc),
        Some("NFD") => normal::Step::Form(Form::Nfd),
        Some("NFKC") => normal::Step::Form(Form::Nfkc),
        Some("NFKD") => normal::Step::Form(Form::Nfkd),
        Some("Prepend") => normal::Step::Prepend(text("prepend")?),
        Some("Replace") => match value["pattern"]["String"].as_str() {
            Some("") => return Err(unsupported()),
            Some(old) => normal::Step::Replace(old.to_owned(), text("content")?),
            None => {
                let pattern = value["pattern"]["Regex"].as_str().ok_or_else(unsupported)?;
                normal::Step::ReplaceMatch(regex("normalizer Replace", pattern)?, text("content")?)
            }
        },
        Some("Strip") => normal::Step::Strip { left: is_on("strip_left"), right: is_on("strip_right") },
        Some("Precompiled") => {
            let bytes = from_base64(value["precompiled_charsmap"].as_str().unwrap_or_default());
            let charsmap = bytes.and_then(|bytes| Charsmap::new(&bytes));
            normal::Step::Charsmap(charsmap.ok_or("normalizer.precompiled_charsmap is damaged")?)
        }
        Some("Lowercase") => normal::Step::Lowercase,
        Some("StripAccents") => normal::Step::StripAccents,
        Some("BertNormalizer") => normal::Step::Bert(Bert {
            clean_text: is_on("clean_text"),
            handle_chinese_characters: is_on("handle_chinese_chars"),
            strip_accents: value["strip_accents"].as_bool().unwrap_or(is_on("lowercase")),
            lowercase: is_on("lowercase"),
        }),
        _ => return Err(unsupported()),
    };
    steps.push(step);
    Ok(())
}

/// How a text is cut, and whether its bytes are written as letters then.
pub(super) fn splitter(value: &Value) -> Reason<(Splitter, bool)> {
    let mut steps = Vec::new();
    let mut spaces = None;
    let mut has_bytes = false;
    let alone = std::slice::from_ref(value);
    let all: &[Value] = match &value["pretokenizers"] {
        Value::Array(all) if value["type"] == "Sequence" => all,
        _ if value.is_null() => &[],
        _ => alone,
    };
    for step in all {
        if has_bytes || spaces.is_some() {
            return Err(format!(
                "pre_tokenizer {} stands after ByteLevel or Metaspace, which is not supported",
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
            Some("Metaspace") => spaces = Some(marked_spaces(step)?),
            Some("Digits") if step["individual_digits"] == true => steps.push(Step::Digits(Digits::Single)),
            Some("Digits") => steps.push(Step::Digits(Digits::Runs)),
            Some("Split") => steps.push(split(step)?),
            Some("WhitespaceSplit") => {
                steps.push(Step::Characters(char::is_whitespace, Matches::Removed));
            }
            Some("Whitespace") => {
                steps.push(Step::Match(regex("pre_tokenizer Whitespace", r"\w+|[^\w\s]+")?, Matches::Kept));
            }
            Some("Punctuation") => {
                let matches = behavior(step, "Isolated").ok_or_else(|| unsupported_split(step))?;
                steps.push(Step::Characters(is_punctuation, matches));
            }
            Some("BertPreTokenizer") => steps.extend(bert_steps()),
            _ => return Err(format!("pre_tokenizer {} is not supported; {KINDS}", shown(step))),
        }
    }
    Ok((Splitter::new(steps).with_marked_spaces(spaces), has_bytes))
}

/// BERT's words: what stands between white space, punctuation character by character.
pub(crate) fn bert_steps() -> [Step; 2] {
    [
        Step::Characters(char::is_whitespace, Matches::Removed),
        Step::Characters(is_punctuation, Matches::Isolated),
    ]
}

fn marked_spaces(value: &Value) -> Reason<MarkedSpaces> {
    let unsupported = || format!("pre_tokenizer {} is not supported", shown(value));
    if !is_space_mark(&value["replacement"]) {
        return Err(unsupported());
    }
    Ok(MarkedSpaces { prepend: prepend(value).ok_or_else(unsupported)?, split: value["split"] != false })
}

fn is_space_mark(value: &Value) -> bool {
    value.as_str() == Some(SPACE_MARK.encode_utf8(&mut [0; 4]))
}

fn prepend(value: &Value) -> Option<Prepend> {
    match value["prepend_scheme"].as_str() {
        // Files from before the scheme was there have a flag.
        None if value["add_prefix_space"] == false => Some(Prepend::Never),
        None | Some("always") => Some(Prepend::Always),
        Some("first") => Some(Prepend::First),
        Some("never") => Some(Prepend::Never),
        Some(_) => None,
    }
}

fn behavior(step: &Value, default: &str) -> Option<Matches> {
    match step["behavior"].as_str().unwrap_or(default) {
        "Isolated" => Some(Matches::Isolated),
        "Removed" => Some(Matches::Removed),
        "Contiguous" => Some(Matches::Contiguous),
        "MergedWithPrevious" => Some(Matches::WithPrevious),
        "MergedWithNext" => Some(Matches::WithNext),
        _ => None,
    }
}

fn unsupported_split(step: &Value) -> String {
    format!(
        "pre_tokenizer {} with behavior {} and invert {} is not supported",
        step["type"].as_str().unwrap_or_default(),
        shown(&step["behavior"]),
        step["invert"]
    )
}

fn split(step: &Value) -> Reason<Step> {
    let matches = match (behavior(step, ""), step["invert"] == true) {
        (Some(matches), false) => matches,
        // Inverted, what matches is kept as it would be, and so is what does not.
        (Some(Matches::Isolated), true) => Matches::Isolated,
        (Some(Matches::Removed), true) => Matches::Kept,
        _ => return Err(unsupported_split(step)),
    };
    let pattern = match (step["pattern"]["Regex"].as_str(), step["pattern"]["String"].as_str()) {
        (Some(pattern), _) => pattern.to_owned(),
        (None, Some(text)) => fancy_regex::escape(text).into_owned(),
        _ => return Err(format!("pre_tokenizer Split has no pattern: {}", shown(step))),
    };
    if matches == Matches::Isolated
        && let Some(scanner) = Scanner::for_pattern(&pattern)
    {
        return Ok(Step::Scan(scanner));
    }
    Ok(Step::Match(regex("pre_tokenizer Split", &pattern)?, matches))
}

/// Compiles a pattern in Oniguruma's syntax.
pub(crate) fn regex(place: &str, pattern: &str) -> Reason<Box<Regex>> {
    let mut builder = RegexBuilder::new(pattern);
    let regex = builder.oniguruma_mode(true).backtrack_limit(usize::MAX).build();
    regex.map(Box::new).map_err(|error| {
        format!("{place} has the pattern {pattern:?}, which this program's regex engine refuses: {error}")
    })
}

/// Adds what a processor puts before and after a text.
pub(super) fn post_processor(value: &Value, opening: &mut Vec<u32>, closing: &mut Vec<u32>) -> Reason<()> {
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
            all.iter().try_for_each(|one| post_processor(one, opening, closing))
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            let id =
                |name: &str| value[name][1].as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(bad);
            opening.insert(0, id("cls")?);
            closing.push(id("sep")?);
            Ok(())
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

/// How tokens are spelt, and how their texts are put together.
pub(super) fn decoder(value: &Value) -> Reason<(Spelling, Joins)> {
    let bad = || format!("decoder {} is not supported; {KINDS}", shown(value));
    let alone = std::slice::from_ref(value);
    let all = value["decoders"].as_array().map_or(alone, Vec::as_slice);
    let kinds: Option<Vec<&str>> = all.iter().map(|one| one["type"].as_str()).collect();
    match kinds.ok_or_else(bad)?.as_slice() {
        kinds if !kinds.is_empty() && kinds.iter().all(|&kind| kind == "ByteLevel") => {
            Ok((Spelling::Bytes, Joins::Plain))
        }
        ["WordPiece"] => {
            let prefix = all[0]["prefix"].as_str().unwrap_or("##").to_owned();
            Ok((Spelling::Words { prefix, cleans_up: all[0]["cleanup"] != false }, Joins::Words))
        }
        ["Metaspace"] if is_space_mark(&all[0]["replacement"]) => {
            let joins = match prepend(&all[0]).ok_or_else(bad)? {
                Prepend::Never => Joins::Plain,
                _ => Joins::DropSpaces,
            };
            let replace = vec![(SPACE_MARK.to_string(), " ".to_owned())];
            Ok((Spelling::Pieces { replace, has_bytes: false }, joins))
        }
        kinds => {
            let (mut replace, mut has_bytes, mut joins) = (Vec::new(), false, Joins::Plain);
            for (one, &kind) in all.iter().zip(kinds) {
                match kind {
                    "Replace" if joins == Joins::Plain => {
                        let old = one["pattern"]["String"].as_str().filter(|old| !old.is_empty());
                        let new = one["content"].as_str().ok_or_else(bad)?;
                        replace.push((old.ok_or_else(bad)?.to_owned(), new.to_owned()));
                    }
                    "ByteFallback" => has_bytes = true,
                    "Fuse" => {}
                    "Strip" if one["content"] == " " && one["start"] == 1 && one["stop"] == 0 => {
                        joins = Joins::DropSpace;
                    }
                    _ => return Err(bad()),
                }
            }
            if kinds.is_empty() { Err(bad()) } else { Ok((Spelling::Pieces { replace, has_bytes }, joins)) }
        }
    }
}

/// The bytes of a text in base 64 (RFC 4648, section 4); `None` where it is not one.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
