//! SentencePiece's `.model` files: a protocol-buffer message with pieces, scores and how texts are normalised
//! (`sentencepiece_model.proto`). Knows the format; must not know how text is encoded.

use crate::charsmap::Charsmap;
use crate::gguf::{Ends, Listed, Spaces};
use crate::read::{Contents, Reason};

/// Fields of a message as (number, value), in the order of the file.
struct Fields<'a>(&'a [u8]);

/// A field's value.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four bytes, for the one type that is asked for.
    Float(f32),
    Other,
}

/// What such a file says.
pub(crate) struct ModelFile<'a> {
    pub listed: Listed<'a>,
    scores: Vec<f32>,
    spaces: Spaces,
}

impl<'a> ModelFile<'a> {
    /// Reads the message; the error is the reason alone.
    pub(crate) fn read(bytes: &'a [u8]) -> Reason<ModelFile<'a>> {
        let (mut tokens, mut scores, mut types) = (Vec::new(), Vec::new(), Vec::new());
        // The defaults of `sentencepiece_model.proto`: trainer_spec 3, 40 to 43; normalizer_spec 2 to 5.
        let mut kind = 1;
        let (mut unknown, mut bos, mut eos, mut pad) = (0, 1, 2, -1);
        let mut spaces = Spaces { prepends: true, collapses: true, charsmap: None };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => {
                    let (text, score, kind) = read_piece(piece)?;
                    tokens.push(text);
                    scores.push(score);
                    types.push(kind);
                }
                (2, Field::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Field::Number(number)) => kind = number,
                            (24, Field::Number(1)) => {
                                return Err("its words end with spaces (treat_whitespace_as_suffix), which is not supported".into());
                            }
                            (40, Field::Number(id)) => unknown = id as i32,
                            (41, Field::Number(id)) => bos = id as i32,
                            (42, Field::Number(id)) => eos = id as i32,
                            (43, Field::Number(id)) => pad = id as i32,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => read_normalizer(normalizer, &mut spaces)?,
                _ => {}
            }
        }
        let kind = match kind {
            1 => "t5",
            2 => "llama",
            other => return Err(format!("its model_type is {other}; supported are 1 (unigram) and 2 (BPE)")),
        };
        let ends = Ends { unknown, bos, eos, pad };
        Ok(ModelFile { listed: Listed::of_model(kind, tokens, types, ends)?, scores, spaces })
    }

    pub(crate) fn contents(&self) -> Reason<Contents> {
        let mut contents = self.listed.by_scores(&self.scores, &self.spaces)?;
        self.listed.enclose_as_usual(&mut contents);
        Ok(contents)
    }
}

fn read_piece(piece: &[u8]) -> Reason<(&str, f32, i32)> {
    let (mut text, mut score, mut kind) = ("", 0.0, 1);
    for field in Fields(piece) {
        match field? {
            (1, Field::Bytes(bytes)) => {
                text = std::str::from_utf8(bytes).map_err(|_| "a piece is not UTF-8; the file is damaged")?;
            }
            (2, Field::Float(number)) => score = number,
            (3, Field::Number(number)) => kind = i32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    Ok((text, score, kind))
}

fn read_normalizer(normalizer: &[u8], spaces: &mut Spaces) -> Reason<()> {
    for field in Fields(normalizer) {
        match field? {
            (2, Field::Bytes([])) => {}
            (2, Field::Bytes(bytes)) => {
                let charsmap = Charsmap::new(bytes);
                spaces.charsmap = Some(charsmap.ok_or("its precompiled_charsmap is damaged")?);
            }
            (3, Field::Number(flag)) => spaces.prepends = flag != 0,
            (4, Field::Number(flag)) => spaces.collapses = flag != 0,
            (5, Field::Number(0)) => {
                return Err(
                    "its spaces are not written as ▁ (escape_whitespaces is false), which is not supported"
                        .into(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

impl<'a> Iterator for Fields<'a> {
    type Item = Reason<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| "it is no SentencePiece model, or damaged".to_owned());
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.number()?;
        let field = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    /// A number of seven bits a byte, the lowest first.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}
