//! Binding, serving and ending. Knows no route.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Loading, RuntimeModels};
use crate::connections::{self, Limits};
use crate::guard::Guard;
use crate::keys::ApiKeys;
use crate::limit::RateLimit;
use crate::metrics::Metrics;
use crate::models::{Kind, Model, Models};
use crate::routes::{Shared, router};
use crate::spans::Exporter;
use crate::{Error, Result};

/// How models are served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address to listen on; the default is reachable from this machine alone.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Requests that wait at most for each model, beside those that are answered.
    pub waiting_max: usize,
    /// The longest request body.
    pub body_bytes_max: usize,
    /// How long answers under way may still take when the server is told to end.
    pub drain_seconds: u64,
    /// Connections at most.
    pub connections_max: usize,
    /// How long a connection may say nothing, and how long a request's head may take.
    pub idle_seconds: u64,
    /// How long a client may take none of what is sent to it before it is cut off.
    pub stall_seconds: u64,
    /// A file of API keys' hashes; without one everybody who reaches the server may ask.
    pub api_keys: Option<PathBuf>,
    /// Requests a minute for each key, or for each address where there are no keys.
    pub requests_per_minute: Option<u32>,
    /// Web origins whose pages may ask, `*` for all; the server's own may always.
    pub cors_origins: Vec<String>,
    /// How models that clients name are loaded; without it nobody may load or unload any while the server runs.
    pub runtime_models: Option<RuntimeModels>,
    /// The OpenTelemetry collector that gets a span of each answer, such as `http://localhost:4318`.
    pub otlp: Option<String>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            waiting_max: 64,
            body_bytes_max: 4 << 20,
            drain_seconds: 30,
            connections_max: 4096,
            idle_seconds: 120,
            stall_seconds: 30,
            api_keys: None,
            requests_per_minute: None,
            cors_origins: Vec::new(),
            runtime_models: None,
            otlp: None,
        }
    }
}

/// A server that holds its port and is about to answer.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    limits: Limits,
    drain: Duration,
}

impl Server {
    /// Takes the port and starts the models' threads.
    ///
    /// # Errors
    /// [`Error::Bind`] where the port is taken or the host unknown, [`Error::Start`] where the system refuses
    /// threads, [`Error::NoModel`] where none could be loaded, [`Error::SameName`] and [`Error::Keys`].
    pub fn bind(models: Vec<Model>, options: &ServeOptions) -> Result<Self> {
        check_names(&models)?;
        let keys = options.api_keys.as_deref().map(ApiKeys::load).transpose()?;
        // Reading and writing sockets is little work; the cores belong to the model.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let wanted = (options.host.as_str(), options.port);
        let bind_error = |source| Error::Bind { host: options.host.clone(), port: options.port, source };
        let listener = runtime.block_on(tokio::net::TcpListener::bind(wanted)).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        connections::raise_file_limit();
        let metrics = Arc::new(Metrics::default());
        let models = Models::start(models, options.waiting_max, &metrics).map_err(Error::Start)?;
        let loading = options.runtime_models.clone().map(|loader| Loading::start(loader, &models));
        let guard = Guard {
            keys,
            limit: options.requests_per_minute.map(RateLimit::new),
            origins: options.cors_origins.clone(),
        };
        let shared = Arc::new(Shared {
            models,
            loading: loading.transpose().map_err(Error::Start)?,
            guard,
            metrics,
            exporter: options.otlp.as_deref().map(Exporter::start).transpose().map_err(Error::Start)?,
            body_bytes_max: options.body_bytes_max,
        });
        let limits = Limits {
            connections_max: options.connections_max.max(1),
            idle: Duration::from_secs(options.idle_seconds.max(1)),
            stall: Duration::from_secs(options.stall_seconds.max(1)),
        };
        let drain = Duration::from_secs(options.drain_seconds);
        Ok(Self { runtime, listener, address, shared, limits, drain })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a person who starts the server wants to know: where it is, how to ask it, what it holds.
    pub fn banner(&self) -> String {
        let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let url = format!("http://{}", self.address);
        let mut text = String::new();
        let standings = self.shared.models.standings();
        for model in standings.iter().filter_map(|standing| standing.served.as_ref()) {
            let (name, context_tokens) = (&model.name, model.context_tokens);
            if let Some(adapted) = &model.adapted {
                text += &format!("  adapters of {} at its side: {name}\n", adapted.parent);
                continue;
            }
            text += &format!("serving {name} at {url}\n  context {context_tokens} tokens");
            if let Some(memory) = model.memory {
                let (weights, cache) = (mebibytes(memory.weights_bytes), mebibytes(memory.cache_bytes));
                text += &format!(
                    "; weights {weights:.1} MiB; key/value cache up to {cache:.1} MiB, taken as it fills"
                );
            }
            text.push('\n');
        }
        for standing in &standings {
            if let Some(reason) = &standing.reason {
                text += &format!("NOT serving {}: {reason}\n", standing.name);
            }
        }
        text += &self.example(&url);
        let open = self.shared.guard.keys.is_none() && !self.address.ip().is_loopback();
        if open {
            text += "  everybody who reaches this address may ask; make keys with `taoye serve key new` to change that\n";
        }
        if self.shared.loading.is_some() {
            text += "  whoever may ask may also have models and adapters of this disk loaded (--runtime-models)\n";
        }
        text + "  Ctrl-C ends it\n"
    }

    /// A command that asks the first model.
    fn example(&self, url: &str) -> String {
        let all = self.shared.models.all();
        let Some(model) = all.first() else { return String::new() };
        let name = &model.name;
        let (path, body) = match model.kind {
            Kind::Chat(_) => (
                "/v1/chat/completions",
                format!(
                    "{{\"model\": \"{name}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}"
                ),
            ),
            Kind::Encoder(_) => {
                ("/v1/embeddings", format!("{{\"model\": \"{name}\", \"input\": \"Hello!\"}}"))
            }
        };
        let key = if self.shared.guard.keys.is_some() { " -H 'Authorization: Bearer KEY'" } else { "" };
        format!("  try it:\n  curl {url}{path} -H 'Content-Type: application/json'{key} -d '{body}'\n")
    }

    /// Answers until `shutdown` is ready. Then no new connection is taken, answers under way have the drain
    /// time to end, and what is left is cut short.
    ///
    /// # Errors
    /// None at present; a connection that fails is no failure of the server's.
    pub fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { runtime, listener, shared, limits, drain, .. } = self;
        let models = Arc::clone(&shared.models);
        runtime.block_on(async {
            let (ending, ended) = tokio::sync::oneshot::channel::<()>();
            let shutdown = async move {
                shutdown.await;
                // The receiver is only gone when serving is over.
                let _ = ending.send(());
            };
            let metrics = Arc::clone(&shared.metrics);
            let serving = connections::serve(listener, router(shared), limits, metrics, shutdown);
            let too_late = async {
                match ended.await {
                    Ok(()) => tokio::time::sleep(drain).await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = serving => {}
                () = too_late => {}
            }
        });
        let workers = models.close();
        workers.iter().for_each(crate::queue::Worker::give_up);
        // Dropping the runtime drops the connections that are left, and with them the last ways to the queues.
        drop(runtime);
        workers.into_iter().for_each(crate::queue::Worker::join);
        Ok(())
    }
}

fn check_names(models: &[Model]) -> Result<()> {
    let mut names = std::collections::HashSet::new();
    let mut failed = Vec::new();
    for model in models {
        let mut all = match model {
            Model::Chat(local) => vec![chat::ChatModel::name(&**local)],
            Model::Encoder { name, .. } => vec![name.as_str()],
            Model::Failed { name, reason } => {
                failed.push(format!("{name}: {reason}"));
                vec![name.as_str()]
            }
        };
        if let Model::Chat(local) = model {
            all.extend(local.engine().adapters().iter().map(|adapter| adapter.name()));
        }
        if let Some(twice) = all.into_iter().find(|&name| !names.insert(name)) {
            return Err(Error::SameName(twice.to_owned()));
        }
    }
    if failed.len() == models.len() { Err(Error::NoModel(failed.join("; "))) } else { Ok(()) }
}

/// Serves until SIGINT or SIGTERM, after saying on standard output where. A second signal does not wait for
/// answers under way.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub fn run(models: Vec<Model>, options: &ServeOptions) -> Result<()> {
    let server = Server::bind(models, options)?;
    print!("{}", server.banner());
    let mut signals = server.runtime.block_on(async { Signals::new() }).map_err(Error::Start)?;
    server.run(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            std::process::exit(base::interrupt::EXIT_STATUS);
        });
    })
}

/// The signals that ask a server to end.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The signals that ask a server to end.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without the signal there is only the system's own way to end the process.
            std::future::pending::<()>().await;
        }
    }
}
