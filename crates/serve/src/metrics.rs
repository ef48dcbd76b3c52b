//! What is counted, as Prometheus reads it; names as vLLM has them where it counts the same. Knows no request's contents.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::api;
use crate::models::{Kind, Models, Standing};

/// Upper bounds of the times to first token and of whole answers, in seconds.
const SECONDS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// Upper bounds of the times between tokens, in seconds.
const BETWEEN: [f64; 10] = [0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.5];

/// All counters.
pub(crate) struct Metrics {
    /// Answers by route and status class.
    answers: Mutex<std::collections::BTreeMap<(&'static str, u16), u64>>,
    duration: Histogram<12>,
    pub first_token: Histogram<12>,
    pub between_tokens: Histogram<10>,
    pub prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub cut_off: AtomicU64,
    pub connections: AtomicU64,
}

/// Counts of values below bounds.
pub(crate) struct Histogram<const N: usize> {
    bounds: [f64; N],
    counts: [AtomicU64; N],
    count: AtomicU64,
    micros: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        }
    }

    /// Counts a time.
    pub fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(place) = self.bounds.iter().position(|bound| seconds <= *bound) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        head(name, "histogram", help, out);
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            line(out, format_args!("{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
        let count = self.count.load(Ordering::Relaxed);
        line(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        line(out, format_args!("{name}_sum {}", self.micros.load(Ordering::Relaxed) as f64 / 1e6));
        line(out, format_args!("{name}_count {count}"));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            duration: Histogram::new(SECONDS),
            first_token: Histogram::new(SECONDS),
            between_tokens: Histogram::new(BETWEEN),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// The route's name, so that clients cannot fill the memory with names of their own.
    pub fn route(&self, path: &str) -> &'static str {
        let known = api::endpoints().iter().find(|endpoint| endpoint.path == path);
        known.map_or(
            if path.starts_with("/v1/models/") { "/v1/models/{model}" } else { "other" },
            |endpoint| &endpoint.path,
        )
    }

    /// Counts an answer.
    pub fn answered(&self, route: &'static str, status: u16, time: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((route, status)).or_default() += 1;
        drop(answers);
        self.duration.add(time);
    }

    /// Prometheus' text format.
    pub fn text(&self, models: &Models) -> String {
        let standings = models.standings();
        let mut out = String::new();
        head("http_requests_total", "counter", "Requests by route and status.", &mut out);
        for ((route, status), count) in self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(
                &mut out,
                format_args!("http_requests_total{{handler=\"{route}\",status=\"{status}\"}} {count}"),
            );
        }
        self.duration.write("http_request_duration_seconds", "Time to the head of the answer.", &mut out);
        self.first_token.write(
            "vllm:time_to_first_token_seconds",
            "From the request to its first token.",
            &mut out,
        );
        self.between_tokens.write(
            "vllm:inter_token_latency_seconds",
            "Between the pieces of an answer.",
            &mut out,
        );
        let counters = [
            (
                "vllm:prompt_tokens_total",
                "counter",
                "Tokens of prompts that were answered.",
                &self.prompt_tokens,
            ),
            ("vllm:generation_tokens_total", "counter", "Tokens of answers.", &self.generated_tokens),
            (
                "taoye:streams_cut_off_total",
                "counter",
                "Answers ended and connections closed since the client did not read.",
                &self.cut_off,
            ),
            ("taoye:connections", "gauge", "Connections that are open.", &self.connections),
        ];
        for (name, kind, help, value) in counters {
            head(name, kind, help, &mut out);
            line(&mut out, format_args!("{name} {}", value.load(Ordering::Relaxed)));
        }
        if let Some(bytes) = base::machine::rss_bytes() {
            let name = "process_resident_memory_bytes";
            head(name, "gauge", "Memory that the server holds, all models together.", &mut out);
            line(&mut out, format_args!("{name} {bytes}"));
        }
        names(&standings, &mut out);
        engines(&standings, &mut out);
        out
    }
}

/// How many names are in each state.
fn names(standings: &[Standing], out: &mut String) {
    let name = "taoye:models";
    head(name, "gauge", "Models, those with adapters among them, by what has become of them.", out);
    for state in ["loading", "loaded", "unloading", "failed"] {
        let count = standings.iter().filter(|standing| standing.state == state).count();
        line(out, format_args!("{name}{{state=\"{state}\"}} {count}"));
    }
}

/// What each model's engine is doing.
fn engines(standings: &[Standing], out: &mut String) {
    let served = standings.iter().filter_map(|standing| standing.served.as_ref());
    let known: Vec<_> = served
        .filter(|model| model.adapted.is_none())
        .filter_map(|model| match &model.kind {
            Kind::Chat(chat) => Some((model.name.as_str(), chat.queue.statistics())),
            Kind::Encoder(_) => None,
        })
        .collect();
    type Value = fn(&chat::Statistics) -> f64;
    let values: [(&str, &str, &str, Value); 15] = [
        ("vllm:num_requests_running", "gauge", "Answers under way.", |s| s.running as f64),
        ("vllm:num_requests_waiting", "gauge", "Answers that wait for their turn.", |s| s.waiting as f64),
        ("vllm:kv_cache_usage_perc", "gauge", "Share of the cache that answers hold, 0 to 1.", |s| {
            if s.pages_total == 0 { 0.0 } else { s.pages_used as f64 / s.pages_total as f64 }
        }),
        ("taoye:kv_pages_cached", "gauge", "Pages kept for later requests.", |s| s.pages_cached as f64),
        (
            "vllm:prefix_cache_queries_total",
            "counter",
            "Prompt tokens looked for in the prefix cache.",
            |s| s.prompt_tokens as f64,
        ),
        ("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found there.", |s| s.cached_tokens as f64),
        ("taoye:prompts_total", "counter", "Prompts that were begun.", |s| s.prompts as f64),
        ("taoye:cached_prompts_total", "counter", "Prompts that the prefix cache knew in part.", |s| {
            s.cached_prompts as f64
        }),
        ("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens guessed ahead and checked.", |s| {
            s.guessed_tokens as f64
        }),
        ("vllm:spec_decode_num_accepted_tokens_total", "counter", "Of these, tokens that were right.", |s| {
            s.right_tokens as f64
        }),
        ("taoye:adapters", "gauge", "Adapters that answers may name.", |s| s.adapters as f64),
        ("vllm:num_preemptions_total", "counter", "Answers that gave their pages back.", |s| {
            s.preemptions as f64
        }),
        ("taoye:engine_steps_total", "counter", "Forward passes.", |s| s.steps as f64),
        ("taoye:engine_rows_total", "counter", "Tokens computed.", |s| s.rows as f64),
        ("taoye:engine_generated_tokens_total", "counter", "Tokens generated.", |s| {
            s.generated_tokens as f64
        }),
    ];
    for (name, kind, help, value) in values {
        head(name, kind, help, out);
        for (model, statistics) in &known {
            line(out, format_args!("{name}{{model_name=\"{}\"}} {}", escaped(model), value(statistics)));
        }
    }
}

fn head(name: &str, kind: &str, help: &str, out: &mut String) {
    line(out, format_args!("# HELP {name} {help}"));
    line(out, format_args!("# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
