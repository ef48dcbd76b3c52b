//! `taoye model convert | quantize`: models written as GGUF files or as Hugging Face folders.

use crate::cli::{ModelConvert, ModelQuantize};
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use base::gguf::Writer;
use base::progress::{Progress, Unit};
use model::{Composition, Format, Mix, ModelFile};
use serde_json::{Value, json};
use std::path::Path;
use tensor::quant::BlockType;
use token::Tokenizer;

/// Turns a folder into a GGUF file, or a GGUF file into a folder.
///
/// # Errors
/// When the model cannot be read, has no form in the other format, or the output cannot be written.
pub fn convert(context: &Context, flags: &ModelConvert) -> Result<()> {
    let file = ModelFile::open(&flags.input)?;
    refuse_same(&flags.input, &flags.output)?;
    let to_gguf = flags.output.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    match to_gguf {
        true => write_gguf(context, &file, &flags.output, None),
        false => write_folder(context, &file, &flags.output),
    }
}

/// Writes a GGUF file with fewer bits a weight.
///
/// # Errors
/// As [`convert`], and when the type is unknown.
pub fn quantize(context: &Context, flags: &ModelQuantize) -> Result<()> {
    let mix = Mix::from_name(&flags.kind).with_context(|| {
        format!("--type {} is unknown; known: {}", flags.kind, Mix::names().collect::<Vec<_>>().join(", "))
    })?;
    let file = ModelFile::open(&flags.input)?;
    refuse_same(&flags.input, &flags.output)?;
    let entries = file.decoder().layout().entries();
    if let Some(entry) = entries.iter().find(|entry| file.stored(entry).kind.block_len() > 1) {
        let kind = file.stored(entry).kind.name();
        context.say(&format!(
            "note: `{}` is {kind} already; what that lost is not got back. An unquantised model gives a better file",
            entry.name
        ));
    }
    write_gguf(context, &file, &flags.output, Some(mix))
}

/// A file that is read through a memory map must not be written over.
fn refuse_same(input: &Path, output: &Path) -> Result<()> {
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    if same {
        bail!("{} is the model that is read; choose another name for the output", output.display());
    }
    Ok(())
}

fn write_gguf(context: &Context, file: &ModelFile, output: &Path, mix: Option<Mix>) -> Result<()> {
    let mut header = Writer::new();
    if file.format() == Format::HuggingFace {
        let folder = file.path();
        let name = std::fs::canonicalize(folder).ok();
        let name =
            name.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        header.set("general.type", "model");
        header.set("general.name", name.as_str());
        for note in token::write_gguf(folder, file.config().vocab_size, &mut header)? {
            context.say(&format!("note: {note}"));
        }
    }
    let device = context.device()?;
    let mut progress = Progress::start(context.progress, "writing", Unit::Bytes, Some(file.gguf_bytes(mix)?));
    let composition =
        file.write_gguf(device.exec(), (output, header), mix, &mut |bytes| progress.add(bytes))?;
    progress.finish();
    let bytes = std::fs::metadata(output).map(|metadata| metadata.len()).unwrap_or(0);
    let parameters = file.decoder().layout().len();
    let text = format!(
        "{}: {}, {:.2} bits per weight ({})",
        output.display(),
        plan::memory::size(bytes),
        8.0 * bytes as f64 / parameters as f64,
        told(&composition)
    );
    let types: Vec<Value> = composition
        .iter()
        .map(|(kind, (tensors, bytes))| json!({"name": kind.name(), "tensors": tensors, "bytes": bytes}))
        .collect();
    context.print(&text, &json!({"out": output, "bytes": bytes, "types": types}));
    Ok(())
}

fn told(composition: &Composition) -> String {
    let tell = |(kind, (tensors, _)): (&BlockType, &(usize, u64))| format!("{tensors} × {}", kind.name());
    composition.iter().map(tell).collect::<Vec<_>>().join(", ")
}

fn write_folder(context: &Context, file: &ModelFile, output: &Path) -> Result<()> {
    let device = context.device()?;
    file.write_folder(device.exec(), output)?;
    let text = match file.gguf() {
        Some(gguf) => match token::write_folder(gguf, output) {
            Ok(()) => {
                format!("{}: config.json, model.safetensors and the tokenizer's files", output.display())
            }
            Err(error @ token::Error::File { .. }) => {
                context.say(&format!("note: the folder has no tokenizer: {error}"));
                format!("{}: config.json and model.safetensors", output.display())
            }
            Err(error) => return Err(error.into()),
        },
        None => {
            Tokenizer::load(file.path())?.save(output)?;
            format!("{}: config.json, model.safetensors and the tokenizer's files", output.display())
        }
    };
    context.print(&text, &json!({"out": output}));
    Ok(())
}
