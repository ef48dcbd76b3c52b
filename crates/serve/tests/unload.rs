//! What a model took of memory is given back when it goes. A process of its own, so that nothing else takes any meanwhile.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod client;

use std::path::PathBuf;

use client::{Running, state, until};
use engine::{Device, Isa};
use model::Parameters;
use serde_json::json;
use serve::{Model, ModelLoader, RuntimeModels, ServeOptions};

/// Loads the folder whatever it is asked for.
struct Loader {
    folder: PathBuf,
    device: Device,
}

impl ModelLoader for Loader {
    fn name(&self, model: &str) -> String {
        model.to_owned()
    }

    fn check(&self, _model: &str) -> Result<(), String> {
        Ok(())
    }

    fn load(&self, _model: &str, name: &str) -> Result<Model, String> {
        Ok(Model::Chat(Box::new(client::load(&self.folder, name, 8, self.device.clone()))))
    }
}

fn answer(server: &Running, model: &str) -> String {
    let messages = json!([{"role": "user", "content": "What fires clay in the kiln?"}]);
    let body = json!({"model": model, "messages": messages, "max_tokens": 24, "temperature": 0});
    let (status, body) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{model}: {body}");
    body["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn the_memory_of_a_model_that_goes_is_free() {
    // A few hundred kilobytes, and 64 MiB.
    let (tiny, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let small = client::save(tiny.path(), 256, "");
    client::save(folder.path(), 256, "");
    let mut config = small.decoder.config().clone();
    (config.hidden_size, config.intermediate_size, config.head_dim) = (512, 4096, 128);
    let large = Parameters::init(&device, config, 1);
    let weights_bytes = 4 * large.flat.data().len() as u64;
    large.save(folder.path()).unwrap();
    drop((small, large));
    let loader = Loader { folder: folder.path().to_owned(), device: device.clone() };
    let runtime_models = Some(RuntimeModels::new(loader));
    let local = client::load(tiny.path(), "tiny", 8, device.clone());
    let server = Running::with_model(local, ServeOptions { runtime_models, ..ServeOptions::default() });
    answer(&server, "tiny");
    let rss = || base::machine::rss_bytes().unwrap();
    let mut free = Vec::new();
    for round in 0..3 {
        let before = rss();
        assert_eq!(server.post("/models/load", &json!({"model": "large"})).0, 200);
        until("it is loaded", || state(&server, "large") == Some(json!({"value": "loaded"})));
        answer(&server, "large");
        let loaded = rss();
        assert!(loaded > before + weights_bytes / 2, "round {round}: {before} to {loaded}");
        assert_eq!(server.post("/models/unload", &json!({"model": "large"})).0, 200);
        until("it is gone", || state(&server, "large").is_none());
        free.push(rss());
        assert!(free[round] < loaded - weights_bytes / 2, "round {round}: {loaded} to {}", free[round]);
        assert_eq!(answer(&server, "tiny"), answer(&server, "tiny"));
    }
    // Alone, a process ends two rounds later with 1.1 to 2.2 MB more.
    assert!(free[2] < free[0] + weights_bytes / 16, "something is left behind each time: {free:?}");
    // Of the recycler's buffers only those of the model that is left.
    assert!(device.allocated_bytes() < 4 << 20, "{}", device.allocated_bytes());
}
