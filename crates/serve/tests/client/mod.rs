//! A server over a small random model, and a client of plain sockets.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chat::{Local, LocalOptions};
use engine::{Device, Encoder, Isa, Loading};
use model::{Config, Parameters};
use serde_json::Value;
use serve::{Model, ServeOptions, Server};
use token::{END_OF_TEXT, MESSAGE_END, Tokenizer, TrainOptions};

const TEXT: &str =
    "The kiln fires clay; the furnace smelts ore. 陶冶者，烧土为器，炼石成金。To form a mind takes both. ";

/// A server on a thread of its own; dropping it ends it.
pub struct Running {
    pub address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<serve::Result<()>>>,
}

/// A template that shows tools and calls as Hermes and Qwen do, in words of our own.
const TOOLS: &str = "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}\
    Call them as <tool_call>{\"name\": ..., \"arguments\": ...}</tool_call>.<|im_end|>\n{% endif %}\
    {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls %}<tool_call>\
    {{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The tiny model with the given context, which works on so many answers at once.
pub fn model(context_tokens: usize, max_sequences: usize) -> Local {
    model_with(context_tokens, max_sequences, "")
}

/// The same with another template than that of the tokenizer.
fn model_with(context_tokens: usize, max_sequences: usize, template: &str) -> Local {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), context_tokens, template);
    load(folder.path(), "tiny", max_sequences, Device::cpu(1, Isa::detect()).unwrap())
}

/// Writes the tiny model's folder.
pub fn save(folder: &std::path::Path, context_tokens: usize, template: &str) -> Parameters {
    let options = TrainOptions { vocab_size: 320, ..TrainOptions::default() };
    let mut tokenizer = Tokenizer::train(&[TEXT.repeat(20)], &options, 1).unwrap();
    if !template.is_empty() {
        tokenizer.settings.chat_template = template.to_owned();
    }
    tokenizer.save(folder).unwrap();
    let mut config = Config::llama(tokenizer.vocab_size(), 32, 2, 4);
    config.max_positions = context_tokens;
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let mut parameters = Parameters::init(&device, config, 3);
    let head = parameters.decoder.head();
    for id in [END_OF_TEXT, MESSAGE_END].map(|text| tokenizer.special(text).unwrap() as usize) {
        // A logit of zero is never the highest of hundreds, so a greedy answer never ends by itself.
        head.of_mut(parameters.flat.data_mut())[id * head.cols..(id + 1) * head.cols].fill(0.0);
    }
    parameters.save(folder).unwrap();
    parameters
}

/// Reads a folder, to be served by a name.
pub fn load(folder: &std::path::Path, name: &str, max_sequences: usize, device: Device) -> Local {
    let engine = engine::Options { max_sequences, ..engine::Options::default() };
    let options = LocalOptions { name: Some(name.into()), engine, ..LocalOptions::default() };
    Local::load(folder, device, options).unwrap()
}

/// The tiny model with a template that knows tools, to be served.
pub fn models_with_tools(context_tokens: usize) -> Vec<Model> {
    vec![Model::Chat(Box::new(model_with(context_tokens, 8, TOOLS)))]
}

/// The tiny model alone, to be served.
pub fn models(context_tokens: usize) -> Vec<Model> {
    vec![Model::Chat(Box::new(model(context_tokens, 8)))]
}

impl Running {
    pub fn start(context_tokens: usize, options: ServeOptions) -> Self {
        Self::serve(models(context_tokens), options)
    }

    pub fn with_model(model: Local, options: ServeOptions) -> Self {
        Self::serve(vec![Model::Chat(Box::new(model))], options)
    }

    pub fn serve(models: Vec<Model>, options: ServeOptions) -> Self {
        let server = Server::bind(models, &ServeOptions { port: 0, ..options }).unwrap();
        let address = server.address();
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            server.run(async {
                let _ = ended.await;
            })
        });
        Self { address, end: Some(end), thread: Some(thread) }
    }

    /// Tells the server to end.
    pub fn end(&mut self) {
        let _ = self.end.take().unwrap().send(());
    }

    /// Waits until it has ended.
    pub fn join(&mut self) -> serve::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call("POST", path, body.to_string().as_bytes())
    }

    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut answer = Answer::open(self.address, method, path, body);
        let text = answer.rest();
        (answer.status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}")))
    }

    /// The events of a streamed answer, without the `[DONE]` that must end it.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut answer = Answer::open(self.address, "POST", path, body.to_string().as_bytes());
        assert_eq!(answer.status, 200);
        assert!(answer.headers.contains("content-type: text/event-stream"), "{}", answer.headers);
        events(&answer.rest())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

/// Reads server-sent events.
pub fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// A response whose body is still to be read.
pub struct Answer {
    pub status: u16,
    pub headers: String,
    reader: BufReader<TcpStream>,
}

impl Answer {
    pub fn open(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        // A server that hangs fails the test instead of holding it up.
        stream.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse a long body before it has read all of it.
        let _ = stream.write_all(body);
        let mut reader = BufReader::new(stream);
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut headers).unwrap(), 0, "the server hung up after {headers:?}");
        }
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers: headers.to_lowercase(), reader }
    }

    /// The next piece of a body that is sent in pieces; empty at the end.
    pub fn piece(&mut self) -> String {
        let mut size = String::new();
        if self.reader.read_line(&mut size).unwrap() == 0 {
            return String::new();
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece).unwrap();
        piece.truncate(size);
        String::from_utf8(piece).unwrap()
    }

    /// The whole rest of the body.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        if self.headers.contains("transfer-encoding: chunked") {
            loop {
                let piece = self.piece();
                if piece.is_empty() {
                    return text;
                }
                text += &piece;
            }
        }
        self.reader.read_to_string(&mut text).unwrap();
        text
    }
}

/// A small random encoder of the fixtures as `bert`, with a tokenizer of single letters.
pub fn encoder() -> Option<Vec<Model>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/family/bert");
    let device = Device::cpu(1, Isa::detect()).unwrap();
    let encoder = Encoder::load(&folder, device, Loading::default()).ok()?;
    let place = tempfile::tempdir().unwrap();
    let letters = folder.join("../../../bench/letters-tokenizer.json");
    std::fs::copy(letters, place.path().join("tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::load(place.path()).unwrap();
    Some(vec![Model::Encoder {
        name: "bert".into(),
        encoder: Box::new(encoder),
        tokenizer: Box::new(tokenizer),
    }])
}

/// How a model that was loaded at run time is; `None` where there is none of that name.
pub fn state(server: &Running, name: &str) -> Option<Value> {
    let (_, list) = server.get("/models");
    let found = list["data"].as_array().unwrap().iter().find(|model| model["id"] == name);
    found.map(|model| model["status"].clone())
}

/// Asks until it is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
