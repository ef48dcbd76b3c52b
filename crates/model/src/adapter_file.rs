//! Adapters as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, written and strictly read
//! (<https://huggingface.co/docs/peft/developer_guides/checkpoint>).
//!
//! Whatever these adapters cannot compute is refused by its key. It must not know how adapters are trained.

use crate::adapters::{AdapterLayout, AdapterOptions, Adapters, Module};
use crate::file::{self, Candidate, Container, Places};
use crate::{Decoder, Entry, Error, Parameters, weights_file};
use serde_json::{Map, Value, json};
use std::path::Path;
use tensor::Device;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Keys that describe an adapter's origin, or its training elsewhere, and change nothing of what it computes.
const DESCRIPTIVE: [&str; 14] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

impl Adapters {
    /// Writes a PEFT folder, each file whole or not at all. `base` is what `adapter_config.json` calls the model that
    /// the adapters belong to: its folder or its name on a hub.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path, base: &str) -> Result<(), Error> {
        weights_file::write(&folder.join(TENSORS), self.entries(), self.flat.data())?;
        let mut text = format!("{:#}", config_json(self.options(), base));
        text.push('\n');
        base::fs::write_bytes(&folder.join(CONFIG), text.as_bytes())?;
        Ok(())
    }

    /// Reads a PEFT folder that holds adapters of `decoder` (f32, f16 or bf16).
    ///
    /// # Errors
    /// When a file is missing or damaged, the configuration asks for something that these adapters do not compute, or
    /// a tensor is missing, unknown or of another shape.
    pub fn load(device: &Device, decoder: &Decoder, folder: &Path) -> Result<Adapters, Error> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::ReadAdapter { path: path.clone(), source })?;
        let value: Result<Map<String, Value>, _> = serde_json::from_str(&text);
        let object =
            value.map_err(|source| Error::Config { path: path.clone(), reason: source.to_string() })?;
        let options = options(&object).map_err(|reason| Error::Config { path, reason })?;
        options.check_decoder(decoder).map_err(|reason| Error::Adapter { reason })?;
        let container = Container::safetensors(&[folder.join(TENSORS)]).map_err(|error| match error {
            Error::Read { path, source } => Error::ReadAdapter { path, source },
            error => error,
        })?;
        let layout = AdapterLayout::new(decoder, &options);
        let whole = |entry: &Entry| vec![Candidate::whole(&entry.name, entry)];
        let places = Places::resolve(&container, layout.entries(), &whole, &|_| false)?;
        let mut adapters = Adapters::zeros(device, decoder, &options);
        let (entries, flat) = adapters.parts_mut();
        file::read_all(&container, &places, entries, device.exec(), flat);
        Ok(adapters)
    }
}

impl Parameters {
    /// A model folder with the adapters of a PEFT folder merged into its weights.
    ///
    /// # Errors
    /// As [`Parameters::load`] and [`Adapters::load`].
    pub fn load_merged(device: &Device, folder: &Path, adapter: &Path) -> Result<Parameters, Error> {
        let mut parameters = Parameters::load(device, folder)?;
        Adapters::load(device, &parameters.decoder, adapter)?.merge(device, &mut parameters);
        Ok(parameters)
    }
}

fn config_json(options: &AdapterOptions, base: &str) -> Value {
    let modules: Vec<&str> = options.target_modules.iter().map(|module| module.name()).collect();
    let alpha = match options.alpha.fract() == 0.0 && options.alpha < 1e15 {
        true => json!(options.alpha as u64),
        false => json!(options.alpha),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": options.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "use_rslora": options.rslora,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "layers_to_transform": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": true,
        "inference_mode": true,
    })
}

/// Reads `adapter_config.json`; every error names its key.
fn options(object: &Map<String, Value>) -> Result<AdapterOptions, String> {
    for (key, value) in object {
        check_key(key, value)?;
    }
    let required = |key: &str| object.get(key).ok_or_else(|| format!("`{key}` is missing"));
    let rank = required("r")?;
    let alpha = required("lora_alpha")?;
    let options = AdapterOptions {
        rank: rank.as_u64().ok_or_else(|| format!("`r` is {rank}; a whole number is needed"))? as usize,
        alpha: alpha.as_f64().ok_or_else(|| format!("`lora_alpha` is {alpha}; a number is needed"))?,
        target_modules: modules(required("target_modules")?)?,
        rslora: object.get("use_rslora").is_some_and(|value| *value == json!(true)),
    };
    required("peft_type")?;
    options.check()?;
    Ok(options)
}

/// Refuses a value that would change what the adapters compute; also one of a key that is not known, unless it says
/// that something is off.
fn check_key(key: &str, value: &Value) -> Result<(), String> {
    let allowed: &[Value] = match key {
        "r" | "lora_alpha" | "target_modules" => return Ok(()),
        "peft_type" => &[json!("LORA")],
        "task_type" => &[json!("CAUSAL_LM"), Value::Null],
        "bias" => &[json!("none")],
        "use_rslora" => &[json!(true), json!(false), Value::Null],
        // Others, such as PiSSA, change the weights that the adapters are added to.
        "init_lora_weights" => {
            &[json!(true), json!(false), json!("gaussian"), json!("orthogonal"), Value::Null]
        }
        key if DESCRIPTIVE.contains(&key) => return Ok(()),
        _ => &[],
    };
    let is_off = match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        Value::Number(_) | Value::String(_) => false,
    };
    if allowed.contains(value) || (allowed.is_empty() && is_off) {
        return Ok(());
    }
    let supported = allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
    Err(match allowed.is_empty() {
        true => format!("`{key}` is {value}, and it is not supported; merge the adapter with PEFT instead"),
        false => format!("`{key}` is {value}; supported: {supported}"),
    })
}

fn modules(value: &Value) -> Result<Vec<Module>, String> {
    let names: Option<Vec<&str>> =
        value.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
    let Some(names) = names else {
        return Err(format!("`target_modules` is {value}; a list of names is needed: {}", Module::names()));
    };
    let module = |name: &&str| {
        Module::from_name(name)
            .ok_or_else(|| format!("`target_modules` names `{name}`; supported: {}", Module::names()))
    };
    names.iter().map(module).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn good() -> Map<String, Value> {
        config_json(&AdapterOptions::default(), "base").as_object().unwrap().clone()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (alpha, rslora) in [(32.0, false), (12.5, true)] {
            let target_modules = vec![Module::Query, Module::Down];
            let written = AdapterOptions { rank: 4, alpha, target_modules, rslora };
            let json = config_json(&written, "base");
            assert_eq!(options(json.as_object().unwrap()).unwrap(), written);
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_key() {
        let cases = [
            ("peft_type", json!("IA3"), "`peft_type` is \"IA3\"; supported: \"LORA\""),
            ("task_type", json!("SEQ_CLS"), "`task_type`"),
            ("use_dora", json!(true), "`use_dora` is true"),
            ("modules_to_save", json!(["lm_head"]), "`modules_to_save`"),
            ("bias", json!("all"), "`bias` is \"all\""),
            ("rank_pattern", json!({"q_proj": 3}), "`rank_pattern`"),
            ("layers_to_transform", json!([0]), "`layers_to_transform`"),
            ("init_lora_weights", json!("pissa"), "`init_lora_weights` is \"pissa\""),
            ("something_new", json!(1), "`something_new` is 1"),
            ("target_modules", json!(["q_proj", "lm_head"]), "`target_modules` names `lm_head`"),
            ("target_modules", json!(".*proj"), "a list of names is needed"),
            ("target_modules", json!([]), "`target_modules` is empty"),
            ("r", json!(0), "`rank` is 0"),
            ("r", json!("8"), "`r` is \"8\""),
            ("lora_alpha", Value::Null, "`lora_alpha` is null"),
        ];
        options(&good()).unwrap();
        for (key, value, expected) in cases {
            let mut bad = good();
            bad.insert(key.to_owned(), value);
            let message = options(&bad).unwrap_err();
            assert!(message.contains(expected), "{key}: {message}");
        }
        for key in ["peft_type", "r", "lora_alpha", "target_modules"] {
            let mut bad = good();
            bad.remove(key);
            assert_eq!(options(&bad).unwrap_err(), format!("`{key}` is missing"));
        }
    }

    #[test]
    fn keys_that_say_nothing_or_off_are_accepted() {
        let mut peft = good();
        let others = json!({
            "auto_mapping": null, "lora_dropout": 0.05, "peft_version": "0.21.2", "exclude_modules": null,
            "megatron_config": null, "megatron_core": "megatron.core", "qalora_group_size": 16, "use_qalora": false,
            "loftq_config": {}, "target_parameters": null, "lora_bias": false, "something_new": false,
        });
        peft.extend(others.as_object().unwrap().clone());
        assert_eq!(options(&peft).unwrap(), AdapterOptions::default());
    }
}
