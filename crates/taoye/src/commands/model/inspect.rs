//! `taoye model inspect`: what a model is, as a person reads a data sheet, or as one JSON object.

use super::sheet::Sheet;
use crate::cli::ModelInspect;
use crate::commands::load;
use crate::context::Context;
use anyhow::Result;
use model::ModelFile;
use serde_json::json;
use std::fmt::Write;

/// Prints a model's sheet.
///
/// # Errors
/// When the model cannot be opened.
pub fn run(context: &Context, flags: &ModelInspect) -> Result<()> {
    let file = ModelFile::open(&load::model(&flags.model)?)?;
    let sheet = Sheet::new(&file)?;
    let mut text = sheet.to_string();
    let mut value = serde_json::to_value(&sheet)?;
    if flags.tensors {
        let mut tensors = Vec::new();
        text.push('\n');
        for entry in file.decoder().layout().entries() {
            let stored = file.stored(entry);
            let (kind, shape) = (stored.kind.name(), entry.shape());
            let _ = write!(text, "\n{:<60}{kind:<9}{shape:?}", entry.name);
            tensors.push(json!({"name": entry.name, "type": kind, "shape": shape}));
        }
        value["tensors"] = json!(tensors);
    }
    context.print(&text, &value);
    Ok(())
}
