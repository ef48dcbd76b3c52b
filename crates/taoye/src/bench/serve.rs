//! `taoye bench serve URL`: many streams at once against a server with OpenAI's interface.
//!
//! Prompts are token ids, so that every server computes as many, and no two prompts begin alike beyond what is asked for.

use super::stream::Place;
use crate::cli::BenchServe;
use crate::context::Context;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Ids of prompts are drawn from these; every vocabulary has them, and what is below is often special.
const IDS: std::ops::Range<u64> = 300..900;

/// What one request took.
struct Measured {
    first: Duration,
    /// Times between the pieces of the answer.
    between: Vec<Duration>,
    prompt_tokens: usize,
    tokens: usize,
}

/// Prints the throughput of all streams together and how long tokens let wait.
///
/// # Errors
/// When the server cannot be reached, or refuses a request.
pub fn run(context: &Context, flags: &BenchServe) -> Result<()> {
    let place = Place::read(&flags.url, flags.api_key.clone())?;
    if flags.shared_tokens > flags.prompt_tokens {
        bail!("--shared-tokens {} is more than the prompt has: {}", flags.shared_tokens, flags.prompt_tokens);
    }
    let model = match &flags.model {
        Some(model) => model.clone(),
        None => first_model(&place)?,
    };
    let streams = flags.streams as usize;
    let requests = flags.requests.unwrap_or(2 * streams);
    // One that is not measured, so that the first is no colder than the others.
    ask(&place, &body(flags, &model, usize::MAX, 2))?;
    let (next, done, tenth) = (AtomicUsize::new(0), AtomicUsize::new(0), (requests / 10).max(1));
    let memory_at_tenth = Mutex::new(None);
    let started = Instant::now();
    let measured: Vec<Result<Vec<Measured>>> = std::thread::scope(|scope| {
        let stream = || {
            let mut measured = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return Ok(measured);
                }
                measured.push(ask(&place, &body(flags, &model, number, flags.max_tokens))?);
                if done.fetch_add(1, Ordering::Relaxed) + 1 == tenth
                    && let Ok(mut bytes) = memory_at_tenth.lock()
                {
                    *bytes = server_memory(&place);
                }
            }
        };
        let threads: Vec<_> = (0..streams).map(|_| scope.spawn(stream)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a stream's thread does not panic")).collect()
    });
    let wall = started.elapsed();
    let measured: Vec<Measured> =
        measured.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let memory = (memory_at_tenth.into_inner().ok().flatten(), server_memory(&place));
    report(context, flags, &model, (wall, &measured, memory));
    Ok(())
}

/// Bytes that the server holds, where it tells.
fn server_memory(place: &Place) -> Option<u64> {
    let text = place.ask("GET", "/metrics", None).ok()?.text().ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "))?;
    value.trim().parse::<f64>().ok().map(|bytes| bytes as u64)
}

/// `memory`: what the server held after a tenth of the requests and after all.
fn report(
    context: &Context,
    flags: &BenchServe,
    model: &str,
    (wall, measured, memory): (Duration, &[Measured], (Option<u64>, Option<u64>)),
) {
    let seconds = wall.as_secs_f64();
    let tokens: usize = measured.iter().map(|one| one.tokens).sum();
    let prompt_tokens: usize = measured.iter().map(|one| one.prompt_tokens).sum();
    let first: Vec<Duration> = measured.iter().map(|one| one.first).collect();
    let between: Vec<Duration> = measured.iter().flat_map(|one| one.between.iter().copied()).collect();
    let (first_p50, first_p95) = (percentile_ms(&first, 50), percentile_ms(&first, 95));
    let (between_p50, between_p95) = (percentile_ms(&between, 50), percentile_ms(&between, 95));
    let rate = tokens as f64 / seconds;
    let text = format!(
        "{} requests to {model} in {seconds:.1} s, {} at once, {prompt_tokens} prompt tokens\n\
         {rate:.1} tokens/s generated; first token p50 {first_p50:.0} ms, p95 {first_p95:.0} ms; \
         between tokens p50 {between_p50:.1} ms, p95 {between_p95:.1} ms",
        measured.len(),
        flags.streams,
    );
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let text = match memory {
        (Some(tenth), Some(end)) => format!(
            "{text}\nthe server held {:.1} MiB after a tenth of the requests and {:.1} MiB after all",
            mebibytes(tenth),
            mebibytes(end)
        ),
        _ => text,
    };
    let json = json!({
        "model": model,
        "streams": flags.streams,
        "requests": measured.len(),
        "seconds": seconds,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "tokens_per_s": rate,
        "ttft_ms_p50": first_p50,
        "ttft_ms_p95": first_p95,
        "itl_ms_p50": between_p50,
        "itl_ms_p95": between_p95,
        "server_rss_bytes_tenth": memory.0,
        "server_rss_bytes": memory.1,
    });
    context.print(&text, &json);
}

fn first_model(place: &Place) -> Result<String> {
    let models: Value = serde_json::from_str(&place.ask("GET", "/v1/models", None)?.text()?)?;
    let id = models["data"][0]["id"].as_str();
    id.map(str::to_owned).context("the server lists no model; name one with --model")
}

/// The request of this number.
fn body(flags: &BenchServe, model: &str, number: usize, max_tokens: usize) -> Value {
    let draw = |number: u64, place: usize| {
        let mixed = base::seed::mix(
            flags.seed ^ base::seed::mix(number.wrapping_mul(1 << 20).wrapping_add(place as u64)),
        );
        IDS.start + mixed % (IDS.end - IDS.start)
    };
    let ids = (0..flags.prompt_tokens.max(1)).map(|place| {
        let number = if place < flags.shared_tokens { u64::MAX } else { number as u64 };
        draw(number, place)
    });
    json!({
        "model": model,
        "prompt": ids.collect::<Vec<_>>(),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
        "ignore_eos": true,
    })
}

/// Sends a request and times the pieces of its answer.
fn ask(place: &Place, body: &Value) -> Result<Measured> {
    let started = Instant::now();
    let answer = place.ask("POST", "/v1/completions", Some(body))?;
    let (mut first, mut last, mut pieces) = (None, started, 0);
    let (mut between, mut usage) = (Vec::new(), None);
    for line in BufReader::new(answer).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            break;
        }
        let event: Value = serde_json::from_str(data).with_context(|| format!("the server sent {data:?}"))?;
        if let Some(message) = event["error"]["message"].as_str() {
            bail!("an answer failed: {message}");
        }
        if event["usage"].is_object() {
            usage = Some(event["usage"].clone());
        }
        if event["choices"][0]["text"].as_str().is_none_or(str::is_empty) {
            continue;
        }
        let now = Instant::now();
        match first {
            None => first = Some(now - started),
            Some(_) => between.push(now - last),
        }
        (last, pieces) = (now, pieces + 1);
    }
    let count =
        |name: &str| usage.as_ref().and_then(|usage| usage[name].as_u64()).map(|count| count as usize);
    let prompt_tokens =
        count("prompt_tokens").unwrap_or_else(|| body["prompt"].as_array().map_or(0, Vec::len));
    let tokens = count("completion_tokens").unwrap_or(pieces);
    Ok(Measured { first: first.unwrap_or_else(|| started.elapsed()), between, prompt_tokens, tokens })
}

/// The value below which `percent` of them lie, by the nearest rank, in milliseconds.
fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&times, 50), percentile_ms(&times, 95)), (10.0, 19.0));
        assert_eq!((percentile_ms(&times[..1], 95), percentile_ms(&[], 95)), (20.0, 0.0));
    }
}
