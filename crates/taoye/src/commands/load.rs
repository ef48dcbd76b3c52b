//! How commands read a model that exists: flags turned into the engine's options.

use crate::cli::LoadFlags;
use crate::context::Context;
use anyhow::{Result, bail};
use engine::{Loading, Options, WeightType};
use model::Mix;
use std::path::{Path, PathBuf};
use tensor::quant::{BlockType, can_quantize, is_supported};

/// The environment variable that moves the folder of everything that can be made again.
const CACHE_VARIABLE: &str = "TAOYE_CACHE";

/// How the weights are read.
///
/// # Errors
/// The type is not one that weights can be quantised to.
pub fn loading(context: &Context, flags: &LoadFlags) -> Result<Loading> {
    let weights = match (&flags.quantize, flags.dequantize) {
        (_, true) => WeightType::F32,
        (Some(name), _) => quantized(name)?,
        (None, _) => WeightType::AsStored,
    };
    let repack_cache = (!flags.no_repack_cache).then(cache_folder).flatten();
    Ok(Loading { weights, repack_cache, progress: context.progress })
}

/// Where a model lies: the path itself, or what `taoye model pull` put on this disk under that name.
///
/// # Errors
/// A model of that name is here in part, or several of its files fit.
pub fn model(path: &Path) -> Result<PathBuf> {
    let pulled = match path.to_str() {
        Some(name) if !path.exists() => hub::find(name)?,
        _ => None,
    };
    Ok(pulled.unwrap_or_else(|| path.to_owned()))
}

/// The engine's limits.
pub fn options(flags: &LoadFlags) -> Options {
    Options { context_tokens: flags.context, kv_type: flags.kv_type, ..Options::default() }
}

/// Where packed weights are kept; `None` where no folder of the user's is known.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    set(CACHE_VARIABLE)
        .or_else(|| cache().map(|cache| cache.join("taoye")))
        .map(|folder| folder.join("packed"))
}

/// A mix by its name, or one type for all matrices where no mix has that name.
fn quantized(name: &str) -> Result<WeightType> {
    let is_possible = |kind: &BlockType| kind.block_len() > 1 && is_supported(*kind) && can_quantize(*kind);
    let is_float = |mix: &str| BlockType::from_name(mix).is_some_and(|kind| kind.block_len() == 1);
    if let Some(mix) = Mix::from_name(name).filter(|mix| !is_float(mix.name())) {
        return Ok(WeightType::Mixed(mix));
    }
    match BlockType::from_name(name).filter(is_possible) {
        Some(kind) => Ok(WeightType::Quantized(kind)),
        None => {
            let mixes = Mix::names().filter(|mix| !is_float(mix)).map(str::to_owned);
            let types = BlockType::all().filter(is_possible).map(|kind| kind.name().to_lowercase());
            let types = types.filter(|kind| Mix::from_name(kind).is_none());
            let names: Vec<String> = mixes.chain(types).collect();
            bail!(
                "--quantize: there is nothing named `{name}` to quantise to; there are {}",
                names.join(", ")
            )
        }
    }
}
