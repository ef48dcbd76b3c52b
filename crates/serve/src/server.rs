//! Binding, serving and ending. Knows no route.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chat::{ChatModel, Local};

use crate::queue::{Queue, Worker};
use crate::routes::{Shared, router};
use crate::{Error, Result};

/// How a model is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address to listen on; the default is reachable from this machine alone.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Requests that wait at most, beside the one that is answered.
    pub waiting_max: usize,
    /// The longest request body.
    pub body_bytes_max: usize,
    /// How long answers under way may still take when the server is told to end.
    pub drain_seconds: u64,
}

impl Default for ServeOptions {
    fn default() -> Self {
        let host = "127.0.0.1".to_owned();
        Self { host, port: 8000, waiting_max: 64, body_bytes_max: 4 << 20, drain_seconds: 30 }
    }
}

/// A server that holds its port and is about to answer.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    worker: Worker,
    memory: engine::Memory,
    drain: Duration,
}

impl Server {
    /// Takes the port and starts the model's thread.
    ///
    /// # Errors
    /// [`Error::Bind`] where the port is taken or the host unknown, [`Error::Start`] where the system refuses
    /// threads.
    pub fn bind(model: Local, options: &ServeOptions) -> Result<Self> {
        // Reading and writing sockets is little work; the cores belong to the model.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let wanted = (options.host.as_str(), options.port);
        let bind_error = |source| Error::Bind { host: options.host.clone(), port: options.port, source };
        let listener = runtime.block_on(tokio::net::TcpListener::bind(wanted)).map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let memory = model.engine().memory();
        let (name, context_tokens) = (model.name().to_owned(), model.context_tokens());
        let (queue, worker) = Queue::start(model, options.waiting_max).map_err(Error::Start)?;
        let shared = Arc::new(Shared {
            queue,
            model: name,
            context_tokens,
            body_bytes_max: options.body_bytes_max,
            started: crate::ids::unix_seconds(),
        });
        let drain = Duration::from_secs(options.drain_seconds);
        Ok(Self { runtime, listener, address, shared, worker, memory, drain })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a person who starts the server wants to know: where it is, how to ask it, what it holds.
    pub fn banner(&self) -> String {
        let Shared { model, context_tokens, .. } = &*self.shared;
        let mebibytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let (weights, cache) = (mebibytes(self.memory.weights_bytes), mebibytes(self.memory.cache_bytes));
        let url = format!("http://{}", self.address);
        let question = format!(
            "{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}"
        );
        format!(
            "serving {model} at {url}\n  context {context_tokens} tokens; weights {weights:.1} MiB; \
             key/value cache up to {cache:.1} MiB, taken as it fills\n  try it:\n  \
             curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{question}'\n  \
             Ctrl-C ends it\n"
        )
    }

    /// Answers until `shutdown` is ready. Then no new connection is taken, answers under way have the drain
    /// time to end, and what is left is cut short.
    ///
    /// # Errors
    /// [`Error::Serve`] where the listener fails.
    pub fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { runtime, listener, shared, worker, drain, .. } = self;
        let served = runtime.block_on(async {
            let (ending, ended) = tokio::sync::oneshot::channel::<()>();
            let shutdown = async move {
                shutdown.await;
                // The receiver is only gone when serving is over.
                let _ = ending.send(());
            };
            let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(shutdown);
            let serving = std::future::IntoFuture::into_future(serving);
            let too_late = async {
                match ended.await {
                    Ok(()) => tokio::time::sleep(drain).await,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                served = serving => served.map_err(Error::Serve),
                () = too_late => Ok(()),
            }
        });
        worker.give_up();
        // Dropping the runtime drops the connections that are left, and with them the last ways to the queue.
        drop(runtime);
        worker.join();
        served
    }
}

/// Serves until SIGINT or SIGTERM, after saying on standard output where. A second signal does not wait for
/// answers under way.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub fn run(model: Local, options: &ServeOptions) -> Result<()> {
    let server = Server::bind(model, options)?;
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
