//! Adapters chosen by each request, and models and adapters that come and go while others answer.
#![allow(clippy::unwrap_used)]

mod client;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use chat::Local;
use client::{Answer, Running, state, until};
use engine::{Device, Isa};
use model::{AdapterOptions, Adapters, Parameters};
use serde_json::{Value, json};
use serve::{Model, ModelLoader, RuntimeModels, ServeOptions, Server};

const CHAT: &str = "/v1/chat/completions";

fn device() -> Device {
    Device::cpu(1, Isa::detect()).unwrap()
}

/// Writes a PEFT folder of adapters that change much.
fn save_adapters(parameters: &Parameters, folder: &Path, seed: u64) {
    let options = AdapterOptions { rank: 4, alpha: 8.0, ..AdapterOptions::default() };
    let mut adapters = Adapters::init(&device(), &parameters.decoder, &options, seed).unwrap();
    let mut rng = base::seed::Rng::new(seed, 0);
    adapters.flat.data_mut().iter_mut().for_each(|element| *element += 0.3 * rng.normal());
    adapters.save(folder, "tiny").unwrap();
}

/// The tiny model's folder, with adapters in `red` and `green`.
fn folder(context_tokens: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let parameters = client::save(folder.path(), context_tokens, "");
    save_adapters(&parameters, &folder.path().join("red"), 1);
    save_adapters(&parameters, &folder.path().join("green"), 2);
    folder
}

fn with_adapters(folder: &Path, names: &[&str]) -> Local {
    let mut local = client::load(folder, "tiny", 8, device());
    for name in names {
        let adapter = local.engine().adapter_reader().read(name, &folder.join(name)).unwrap();
        local.insert_adapter(adapter).unwrap();
    }
    local
}

fn question(model: &str, extra: Value) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "What fires clay in the kiln, and what does the furnace smelt?"}],
        "max_tokens": 24,
        "temperature": 0,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn answer(server: &Running, model: &str) -> String {
    let (status, body) = server.post(CHAT, &question(model, json!({})));
    assert_eq!(status, 200, "{model}: {body}");
    assert_eq!(body["model"], model);
    body["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or_default())
}

#[test]
fn requests_choose_adapters_by_their_name() {
    let folder = folder(256);
    let server =
        Running::with_model(with_adapters(folder.path(), &["red", "green"]), ServeOptions::default());
    let (_, list) = server.get("/v1/models");
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["tiny", "red", "green"]);
    assert_eq!(list["data"][0].get("parent"), None);
    let (_, red) = server.get("/v1/models/red");
    assert_eq!(red["parent"], "tiny");
    assert_eq!(red["root"], folder.path().join("red").display().to_string());

    // All at once are what each is alone, although all begin with the same prompt.
    let names = ["tiny", "red", "green"];
    let alone = names.map(|name| {
        let names: Vec<&str> = [name].into_iter().filter(|name| *name != "tiny").collect();
        let server = Running::with_model(with_adapters(folder.path(), &names), ServeOptions::default());
        answer(&server, name)
    });
    assert!(alone[0] != alone[1] && alone[0] != alone[2] && alone[1] != alone[2], "{alone:?}");
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                for (name, expected) in names.iter().zip(&alone) {
                    let server = &server;
                    scope.spawn(move || assert_eq!(answer(server, name), *expected, "{name}"));
                }
            }
        });
    }
    // Every interface chooses alike, and a request without a name goes to the model itself.
    let text = |path: &str, body: Value, place: &str| {
        let (status, body) = server.post(path, &body);
        assert_eq!(status, 200, "{body}");
        body.pointer(place).unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(text(CHAT, question("", json!({"model": null})), "/choices/0/message/content"), alone[0]);
    let messages = text("/v1/messages", question("red", json!({})), "/content/0/text");
    assert_eq!(messages, alone[1]);
    let asked =
        |model: &str| json!({"model": model, "prompt": "The kiln", "max_tokens": 12, "temperature": 0});
    let [base, red, green] = names.map(|name| text("/v1/completions", asked(name), "/choices/0/text"));
    assert!(base != red && red != green);
    let metrics = metrics(&server);
    assert!(metrics.contains("taoye:adapters{model_name=\"tiny\"} 2"), "{metrics}");
    assert!(metrics.contains("vllm:spec_decode_num_draft_tokens_total{model_name=\"tiny\"}"), "{metrics}");
    assert!(metrics.contains("taoye:models{state=\"loaded\"} 3"), "{metrics}");
}

fn metrics(server: &Running) -> String {
    Answer::open(server.address, "GET", "/metrics", b"").rest()
}

#[test]
fn names_are_given_once() {
    let folder = folder(256);
    let local = with_adapters(folder.path(), &["red"]);
    let failed = Model::Failed { name: "red".into(), reason: "it is not there".into() };
    let options = ServeOptions { port: 0, ..ServeOptions::default() };
    let error = Server::bind(vec![Model::Chat(Box::new(local)), failed], &options).err().unwrap();
    assert!(error.to_string().contains("two models are called \"red\""), "{error}");
}

#[test]
fn nothing_is_loaded_where_that_was_not_allowed() {
    let server = Running::start(256, ServeOptions::default());
    let bodies = [
        ("/models/load", json!({"model": "/etc"})),
        ("/models/unload", json!({"model": "tiny"})),
        ("/v1/load_lora_adapter", json!({"lora_name": "a", "lora_path": "/etc"})),
        ("/v1/unload_lora_adapter", json!({"lora_name": "a"})),
    ];
    for (path, body) in bodies {
        let refused = server.post(path, &body);
        assert_eq!(code(&refused), (403, "not_enabled"), "{path}");
        assert!(refused.1["error"]["message"].as_str().unwrap().contains("--runtime-models"));
    }
    let (_, list) = server.get("/models");
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][0]["status"]["value"]),
        (&json!("tiny"), &json!("loaded"))
    );
}

/// Loads the folder whatever it is asked for, but for some names.
struct Loader {
    folder: PathBuf,
    device: Device,
    /// One for each model called `slow` that may be ready.
    gate: Mutex<Receiver<()>>,
}

impl ModelLoader for Loader {
    fn name(&self, model: &str) -> String {
        model.to_owned()
    }

    fn check(&self, model: &str) -> Result<(), String> {
        if model == "huge" { Err("it needs 70 GiB, and 2 GiB are free".to_owned()) } else { Ok(()) }
    }

    fn load(&self, model: &str, name: &str) -> Result<Model, String> {
        match model {
            "slow" => self.gate.lock().unwrap().recv().unwrap(),
            "broken" => return Err("its weights are damaged".to_owned()),
            "panics" => panic!("this model cannot be read"),
            _ => {}
        }
        Ok(Model::Chat(Box::new(client::load(&self.folder, name, 8, self.device.clone()))))
    }
}

/// A server that may load models, and what lets the slow ones be ready.
fn open_server(folder: &Path, device: &Device) -> (Running, Sender<()>) {
    let (ready, gate) = channel();
    let loader = Loader { folder: folder.to_owned(), device: device.clone(), gate: Mutex::new(gate) };
    let runtime_models = Some(RuntimeModels::new(loader));
    let local = client::load(folder, "tiny", 8, device.clone());
    (Running::with_model(local, ServeOptions { runtime_models, ..ServeOptions::default() }), ready)
}

#[test]
fn models_come_and_go_while_others_answer() {
    let folder = folder(4096);
    let (server, ready) = open_server(folder.path(), &device());
    let before = answer(&server, "tiny");
    let load = |model: &str, name: &str| server.post("/models/load", &json!({"model": model, "name": name}));
    let (status, body) = load("slow", "second");
    assert_eq!((status, &body["success"], &body["model"]), (200, &json!(true), &json!("second")));
    assert_eq!(state(&server, "second").unwrap(), json!({"value": "loading"}));
    assert_eq!(answer(&server, "tiny"), before, "the other answers meanwhile");
    let early = server.post(CHAT, &question("second", json!({})));
    assert_eq!(code(&early), (503, "model_loading"));
    assert_eq!(code(&load("any", "second")), (400, "model_exists"));
    assert_eq!(code(&load("any", "tiny")), (400, "model_exists"));
    let refused = server.post("/models/unload", &json!({"model": "second"}));
    assert_eq!(refused.0, 400, "{refused:?}");
    ready.send(()).unwrap();
    until("it is loaded", || state(&server, "second") == Some(json!({"value": "loaded"})));
    assert_eq!(answer(&server, "second"), before, "it is the same model by another name");
    let without_name = server.post(CHAT, &question("", json!({"model": null})));
    assert_eq!(code(&without_name), (400, "missing_required_parameter"));

    // An answer under way goes on to its end when its model goes.
    let long = json!({"stream": true, "max_tokens": 800});
    let whole = server.post(CHAT, &question("second", json!({"max_tokens": 800})));
    let mut stream =
        Answer::open(server.address, "POST", CHAT, question("second", long).to_string().as_bytes());
    let first = stream.piece();
    assert_eq!(server.post("/models/unload", &json!({"model": "second"})).0, 200);
    assert_eq!(code(&server.post(CHAT, &question("second", json!({})))), (404, "model_not_found"));
    let events = client::events(&(first + &stream.rest()));
    let text: String =
        events.iter().filter_map(|event| event.pointer("/choices/0/delta/content")?.as_str()).collect();
    assert_eq!(json!(text), whole.1["choices"][0]["message"]["content"]);
    until("its name is free", || state(&server, "second").is_none());
    assert_eq!(answer(&server, "tiny"), before);
    let gone = server.post("/models/unload", &json!({"model": "second"}));
    assert_eq!(code(&gone), (404, "model_not_found"));
    assert_eq!(load("any", "second").0, 200);
    until("it is there again", || state(&server, "second") == Some(json!({"value": "loaded"})));
    assert_eq!(answer(&server, "second"), before);
}

#[test]
fn a_model_that_fails_leaves_the_others_and_says_why() {
    let folder = folder(256);
    let (server, _ready) = open_server(folder.path(), &device());
    let before = answer(&server, "tiny");
    let load = |model: &str| server.post("/models/load", &json!({"model": model, "name": "other"}));
    let huge = load("huge");
    assert_eq!(code(&huge), (400, "model_not_loadable"));
    assert!(huge.1["error"]["message"].as_str().unwrap().contains("needs 70 GiB, and 2 GiB are free"));
    assert_eq!(state(&server, "other"), None);
    for (model, reason) in [("broken", "its weights are damaged"), ("panics", "reading it failed")] {
        assert_eq!(load(model).0, 200);
        until(model, || state(&server, "other").is_some_and(|status| status["failed"] == true));
        let status = state(&server, "other").unwrap();
        assert!(status["error"].as_str().unwrap().contains(reason), "{status}");
        let asked = server.post(CHAT, &question("other", json!({})));
        assert_eq!(code(&asked), (503, "model_not_loaded"));
        assert_eq!(server.get("/health").1["failed"][0]["model"], "other");
        assert_eq!(answer(&server, "tiny"), before);
    }
    assert_eq!(load("any").0, 200, "what failed may be tried again");
    until("it is loaded", || state(&server, "other") == Some(json!({"value": "loaded"})));
    for (body, expected) in [
        (json!({}), (400, "missing_required_parameter")),
        (json!({"model": 5}), (400, "invalid_type")),
        (json!({"model": ""}), (400, "invalid_value")),
        (json!({"model": "m", "context": 5}), (400, "unknown_parameter")),
    ] {
        assert_eq!(code(&server.post("/models/load", &body)), expected, "{body}");
    }
}

#[test]
fn adapters_come_and_go_while_others_answer() {
    let folder = folder(4096);
    let (server, _ready) = open_server(folder.path(), &device());
    let base = answer(&server, "tiny");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let load = |name: &str, from: &str| {
        let body = json!({"lora_name": name, "lora_path": place(from)});
        let mut answer =
            Answer::open(server.address, "POST", "/v1/load_lora_adapter", body.to_string().as_bytes());
        (answer.status, answer.rest())
    };
    let (status, text) = load("a", "red");
    assert_eq!((status, text.as_str()), (200, "Success: LoRA adapter 'a' added successfully."));
    let red = answer(&server, "a");
    assert_ne!(red, base);
    let again = load("a", "green");
    assert!(again.0 == 400 && again.1.contains("model_exists") && again.1.contains("lora_name"), "{again:?}");
    let missing = load("b", "nowhere");
    assert!(missing.0 == 400 && missing.1.contains("adapter_config.json"), "{missing:?}");
    let config = folder.path().join("green/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    let dora = load("b", "green");
    assert!(dora.0 == 400 && dora.1.contains("`use_dora` is true"), "{dora:?}");
    std::fs::write(&config, text).unwrap();

    // One that goes lets the answer under way go on to its end.
    let whole = server.post(CHAT, &question("a", json!({"max_tokens": 800})));
    let body = question("a", json!({"stream": true, "max_tokens": 800})).to_string();
    let mut stream = Answer::open(server.address, "POST", CHAT, body.as_bytes());
    let first = stream.piece();
    let unload = |name: &str| {
        let body = json!({"lora_name": name}).to_string();
        let mut answer = Answer::open(server.address, "POST", "/v1/unload_lora_adapter", body.as_bytes());
        (answer.status, answer.rest())
    };
    assert_eq!(unload("a"), (200, "Success: LoRA adapter 'a' removed successfully.".to_owned()));
    assert_eq!(unload("a").0, 404);
    assert_eq!(unload("tiny").0, 404, "a model is no adapter");
    assert_eq!(code(&server.post(CHAT, &question("a", json!({})))), (404, "model_not_found"));
    let events = client::events(&(first + &stream.rest()));
    let text: String =
        events.iter().filter_map(|event| event.pointer("/choices/0/delta/content")?.as_str()).collect();
    assert_eq!(json!(text), whole.1["choices"][0]["message"]["content"]);

    // Another under the same name is another, and goes with its model.
    assert_eq!(load("a", "green").0, 200);
    assert_ne!(answer(&server, "a"), red);
    assert_eq!(answer(&server, "tiny"), base);
    let refused = server.post("/models/unload", &json!({"model": "a"}));
    assert_eq!(refused.0, 400, "{refused:?}");
    assert_eq!(server.post("/models/load", &json!({"model": "any", "name": "other"})).0, 200);
    until("it is loaded", || state(&server, "other") == Some(json!({"value": "loaded"})));
    let several = load("c", "red");
    assert!(several.0 == 400 && several.1.contains("base_model_name"), "{several:?}");
    assert_eq!(server.post("/models/unload", &json!({"model": "tiny"})).0, 200);
    until("both are gone", || state(&server, "tiny").is_none() && state(&server, "a").is_none());
    assert_eq!(load("c", "red").0, 200);
    assert_eq!(answer(&server, "c"), red);
}

#[test]
fn fields_of_adapters_that_are_wrong_are_named() {
    let folder = folder(256);
    let (server, _ready) = open_server(folder.path(), &device());
    for (body, param) in [
        (json!({"lora_name": "b"}), "lora_path"),
        (json!({"lora_path": "b"}), "lora_name"),
        (json!({"lora_name": "b", "lora_path": "b", "load_inplace": true}), "load_inplace"),
        (json!({"lora_name": "b", "lora_path": "b", "base_model_name": "red"}), "base_model_name"),
        (json!({"lora_name": "b", "lora_path": "b", "base_model_name": "nobody"}), "base_model_name"),
        (json!({"lora_name": "b", "lora_path": "b", "rank": 5}), "rank"),
    ] {
        let (status, refused) = server.post("/v1/load_lora_adapter", &body);
        assert!([400, 404].contains(&status) && refused["error"]["param"] == param, "{body}: {refused}");
    }
    let (status, refused) = server.post("/v1/unload_lora_adapter", &json!({}));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("lora_name")));
}
