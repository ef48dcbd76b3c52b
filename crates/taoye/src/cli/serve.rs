//! The flags of `taoye serve` and of measuring a server. They must not do anything.

use super::LoadFlags;
use clap::{Args, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Serve {
    #[command(subcommand)]
    pub command: Option<ServeCommand>,
    #[command(flatten)]
    pub flags: ServeFlags,
}

#[derive(Subcommand)]
pub enum ServeCommand {
    /// Make and keep API keys
    #[command(subcommand)]
    Key(ServeKey),
}

#[derive(Subcommand)]
pub enum ServeKey {
    /// Make a key, print it this once, and add its hash to a file for --api-key-file
    New(ServeKeyNew),
}

#[derive(Args)]
pub struct ServeKeyNew {
    /// Whose key it is: one word
    pub name: String,
    /// The file of hashes; made where it is not there
    #[arg(long, value_name = "FILE", default_value = "api-keys.txt")]
    pub api_key_file: PathBuf,
}

#[derive(Args)]
pub struct ServeFlags {
    /// The models: GGUF files, Hugging Face folders such as runs/speedrun/model, or names of pulled ones; encoders too
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    #[command(flatten)]
    pub load: LoadFlags,
    /// A PEFT folder with adapters of the model, merged into its weights when they are loaded; for one model alone
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A PEFT folder that requests choose by its name, as if it were a model; may be repeated. Where there are several
    /// models: '{"name": NAME, "path": DIR, "base_model_name": MODEL}'
    #[arg(long = "lora", value_name = "NAME=DIR", value_parser = Lora::read)]
    pub loras: Vec<Lora>,
    /// Let clients load and unload models and adapters of this disk while the server runs. Whoever may ask may then name
    /// any path that this process can read
    #[arg(long)]
    pub runtime_models: bool,
    /// A smaller model with the same tokenizer that guesses tokens ahead: faster where it is often right, and the same
    /// answers; for one model alone
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<PathBuf>,
    /// Tokens guessed ahead and checked in one step at most, all answers together: looked up in the text, or made by --draft;
    /// 0: none. They change no answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub draft_max: usize,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Name that clients call a model by; may be repeated, in the models' order [default: the folder's or file's]
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Only answer who sends a key whose hash is in this file (see `taoye serve key new`)
    #[arg(long, value_name = "FILE", env = "TAOYE_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Requests a minute that each key, or without keys each address, may make [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_per_minute: Option<u32>,
    /// Let web pages of this origin ask, such as https://chat.example.org; `*` for all; may be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    pub cors_origins: Vec<String>,
    /// OpenTelemetry collector that gets a span of each answer over HTTP, such as http://localhost:4318
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp: Option<String>,
    /// Requests that wait at most for each model beside those that are answered
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_waiting: usize,
    /// Connections at most
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub max_connections: usize,
    /// Longest request body in mebibytes
    #[arg(long, value_name = "MIB", default_value_t = 4)]
    pub max_body: usize,
    /// Seconds that answers under way may still take after SIGTERM or Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
}

/// Adapters to be served beside a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lora {
    /// The name that requests choose them by.
    pub name: String,
    /// The PEFT folder.
    pub path: PathBuf,
    /// The model that they are for; `None`: the only one.
    pub base: Option<String>,
}

impl Lora {
    /// Reads `NAME=DIR`, or an object as vLLM's `--lora-modules` has it.
    fn read(text: &str) -> Result<Lora, String> {
        let (name, path, base) = if text.starts_with('{') {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            if let Some(key) =
                object.keys().find(|key| !["name", "path", "base_model_name"].contains(&key.as_str()))
            {
                return Err(format!("`{key}` is not known; there are name, path and base_model_name"));
            }
            let text = |key: &str| object.get(key).and_then(|value| value.as_str()).map(str::to_owned);
            (text("name"), text("path"), text("base_model_name"))
        } else {
            let (name, path) = text.split_once('=').unzip();
            (name.map(str::to_owned), path.map(str::to_owned), None)
        };
        match (name.filter(|name| !name.is_empty()), path.filter(|path| !path.is_empty())) {
            (Some(name), Some(path)) => Ok(Lora { name, path: PathBuf::from(path), base }),
            _ => Err("a name and a PEFT folder are needed, such as german=runs/german/adapter".to_owned()),
        }
    }
}

#[derive(Args)]
pub struct BenchMasks {
    /// The model whose vocabulary it is: a GGUF file, or a folder with tokenizer.json
    pub model: PathBuf,
    /// A JSON schema [default: a record with texts, numbers, dates, choices and nested lists]
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// Answers to walk through, their tokens drawn at random among those that are allowed
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub answers: usize,
    /// Seed of the walks
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args)]
pub struct BenchServe {
    /// Where the server is, such as http://127.0.0.1:8000: taoye, llama-server, vLLM …
    pub url: String,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub streams: u32,
    /// Requests in all [default: two for each stream]
    #[arg(long, value_name = "M")]
    pub requests: Option<usize>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub prompt_tokens: usize,
    /// Of these, tokens at the beginning that all prompts have in common
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// The model's name [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// The key to send
    #[arg(long, value_name = "KEY", env = "TAOYE_API_KEY")]
    pub api_key: Option<String>,
    /// Seed of the prompts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_named_in_both_ways() {
        let lora = |name: &str, path: &str, base: Option<&str>| {
            Ok(Lora { name: name.into(), path: path.into(), base: base.map(str::to_owned) })
        };
        assert_eq!(Lora::read("a=b=c"), lora("a", "b=c", None));
        let object = r#"{"name": "a", "path": "b", "base_model_name": "m"}"#;
        assert_eq!(Lora::read(object), lora("a", "b", Some("m")));
        assert_eq!(Lora::read(r#"{"name": "a", "path": "b"}"#), lora("a", "b", None));
        for wrong in ["a", "=b", "a=", "{", r#"{"name": "a"}"#] {
            assert!(Lora::read(wrong).is_err(), "{wrong}");
        }
        let unknown =
            Lora::read(r#"{"name": "a", "path": "b", "rank": 1}"#).map_err(|error| error.contains("`rank`"));
        assert_eq!(unknown, Err(true));
    }
}
