//! How commands read a model that exists: flags turned into the engine's options.

use crate::cli::LoadFlags;
use crate::context::Context;
use anyhow::{Result, bail};
use engine::{Loading, Options, WeightType};
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
        (Some(name), _) => WeightType::Quantized(block_type(name)?),
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

fn block_type(name: &str) -> Result<BlockType> {
    let is_possible = |kind: &BlockType| is_supported(*kind) && can_quantize(*kind);
    match BlockType::from_name(name).filter(is_possible) {
        Some(kind) => Ok(kind),
        None => {
            let names: Vec<String> =
                BlockType::all().filter(is_possible).map(|kind| kind.name().to_lowercase()).collect();
            bail!("--quantize: there is no type `{name}` to quantise to; there are {}", names.join(", "))
        }
    }
}
