//! `taoye bench prefill | decode`: a model's speed beside the machine's limits.

use crate::cli::BenchInference;
use crate::commands::load;
use crate::context::Context;
use anyhow::{Context as _, Result, ensure};
use engine::{Chunk, Engine, LogitRows, Options, Sequence};
use serde_json::json;
use std::time::{Duration, Instant};
use tensor::limits;

/// Tokens of a prompt that go through the model together.
const STEP_TOKENS: usize = 512;

/// Measures how fast a prompt is computed.
///
/// # Errors
/// When the model cannot be loaded, or its context is shorter than what was asked for.
pub fn prefill(context: &Context, flags: &BenchInference) -> Result<()> {
    let tokens = flags.tokens.unwrap_or(512);
    let mut bench = Bench::new(context, flags, tokens)?;
    let runs = bench.measure(flags.rounds, |bench, sequence| bench.extend(sequence, tokens))?;
    // The output projection is computed for the last token alone.
    let layout = bench.engine.layout();
    let products = 2.0 * tokens as f64 * (layout.active_parameter_count() - layout.head().len()) as f64;
    let attention = bench.attention_flops(tokens);
    let operations = products + attention;
    let figures = Figures {
        name: "prefill",
        tokens,
        unit: "GOP/s",
        amount: operations / 1e9,
        limits: [bench.limits.arithmetic, bench.limits().arithmetic],
    };
    bench.report(context, flags, &runs, figures)
}

/// Measures how fast tokens are generated, one after the other.
///
/// # Errors
/// As [`prefill`].
pub fn decode(context: &Context, flags: &BenchInference) -> Result<()> {
    let tokens = flags.tokens.unwrap_or(128);
    let mut bench = Bench::new(context, flags, tokens)?;
    let runs = bench.measure(flags.rounds, |bench, mut sequence| {
        for _ in 0..tokens {
            sequence = bench.extend(sequence, 1)?;
        }
        Ok(sequence)
    })?;
    let kept = flags.depth as f64 + (tokens as f64 + 1.0) / 2.0;
    let bytes =
        bench.engine.bytes_read_per_token() as f64 + kept * bench.engine.cache_bytes_per_token() as f64;
    let figures = Figures {
        name: "decode",
        tokens,
        unit: "GB/s",
        amount: bytes * tokens as f64 / 1e9,
        limits: [bench.limits.bandwidth, bench.limits().bandwidth],
    };
    bench.report(context, flags, &runs, figures)
}

struct Bench {
    engine: Engine,
    device: tensor::Device,
    depth: usize,
    loaded: Duration,
    limits: Limits,
    /// Most memory that was held before the limits were measured, which takes some of its own.
    peak_bytes: u64,
    next_id: u32,
}

#[derive(Clone, Copy)]
struct Limits {
    /// GOP/s of the arithmetic that the weights are multiplied with.
    arithmetic: f64,
    /// GB/s of reads.
    bandwidth: f64,
}

/// What a measurement is told of.
struct Figures {
    name: &'static str,
    tokens: usize,
    unit: &'static str,
    /// Work of one run, in 10⁹ operations or bytes.
    amount: f64,
    limits: [f64; 2],
}

impl Bench {
    fn new(context: &Context, flags: &BenchInference, tokens: usize) -> Result<Bench> {
        ensure!(tokens > 0 && flags.rounds > 0, "--tokens and --rounds must be at least 1");
        let wanted = flags.depth + tokens;
        let device = context.device()?;
        let options = Options {
            max_sequences: 1,
            context_tokens: Some(flags.load.context.unwrap_or(wanted)),
            step_rows: STEP_TOKENS,
            ..load::options(&flags.load)
        };
        let begun = Instant::now();
        let engine = Engine::load(
            &load::model(&flags.model)?,
            device.clone(),
            options,
            load::loading(context, &flags.load)?,
        )
        .with_context(|| format!("{}", flags.model.display()))?;
        let loaded = begun.elapsed();
        let limits = Limits { arithmetic: 0.0, bandwidth: 0.0 };
        Ok(Bench { engine, device, depth: flags.depth, loaded, limits, peak_bytes: 0, next_id: 0 })
    }

    fn limits(&self) -> Limits {
        let exec = self.device.exec();
        let arithmetic = match self.engine.is_quantized() {
            true => limits::integer_peak(exec),
            false => limits::fma_peak(exec),
        };
        Limits { arithmetic, bandwidth: limits::read_bandwidth(exec) }
    }

    /// Seconds of each round, each from a sequence of the depth that was asked for.
    fn measure(
        &mut self,
        rounds: usize,
        run: impl Fn(&mut Bench, Sequence) -> Result<Sequence>,
    ) -> Result<Vec<f64>> {
        let mut sequence = self.engine.sequence(self.engine.context_tokens());
        sequence = self.extend(sequence, self.depth)?;
        let mut seconds = Vec::with_capacity(rounds);
        for round in 0..=rounds {
            let begun = Instant::now();
            sequence = run(self, sequence)?;
            match round {
                0 => {
                    self.peak_bytes = base::machine::peak_rss_bytes().unwrap_or(0);
                    self.limits = self.limits();
                }
                _ => seconds.push(begun.elapsed().as_secs_f64()),
            }
            sequence.truncate(self.depth);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }

    /// Appends ids that have no meaning, and computes them in steps.
    fn extend(&mut self, mut sequence: Sequence, tokens: usize) -> Result<Sequence> {
        let vocabulary = self.engine.config().vocab_size as u32;
        let end = sequence.ids().len() + tokens;
        while sequence.ids().len() < end {
            let rows = (end - sequence.ids().len()).min(STEP_TOKENS);
            for _ in 0..rows {
                self.next_id = (self.next_id + 7919) % vocabulary;
                sequence.push(self.next_id);
            }
            let logits = if sequence.ids().len() == end { LogitRows::Last } else { LogitRows::None };
            let mut chunks = [Chunk { sequence, rows, logits }];
            self.engine.step(&mut chunks)?;
            let [chunk] = chunks;
            sequence = chunk.sequence;
        }
        Ok(sequence)
    }

    /// Multiply-adds of attention, twice: scores and values, each new row over what is before it.
    fn attention_flops(&self, tokens: usize) -> f64 {
        let config = self.engine.config();
        let pairs = tokens as f64 * (self.depth as f64 + (tokens as f64 + 1.0) / 2.0);
        4.0 * pairs * (config.layers * config.heads * config.head_dim) as f64
    }

    fn report(
        &self,
        context: &Context,
        flags: &BenchInference,
        runs: &[f64],
        figures: Figures,
    ) -> Result<()> {
        let (median, best) = (runs[runs.len() / 2], runs[0]);
        let [before, after] = figures.limits;
        let limit = before.max(after);
        let (speed, rate) = (figures.tokens as f64 / median, figures.amount / median);
        let memory = self.engine.memory();
        let text = format!(
            "{} · {} · {} threads · {}\n{} of {} tokens at depth {}: {speed:.1} tokens/s (best {:.1}) · {rate:.0} {unit}, \
             {:.1} % of {limit:.0} ({before:.0} before, {after:.0} after)\nweights {}, peak memory {}, loaded in {:.2} s",
            base::machine::cpu_name(),
            context.isa(),
            context.threads,
            flags.model.display(),
            figures.name,
            figures.tokens,
            self.depth,
            figures.tokens as f64 / best,
            100.0 * rate / limit,
            base::progress::format_bytes(memory.weights_bytes as f64),
            base::progress::format_bytes(self.peak_bytes as f64),
            self.loaded.as_secs_f64(),
            unit = figures.unit,
        );
        let json = json!({
            "bench": figures.name, "model": flags.model.display().to_string(), "tokens": figures.tokens,
            "depth": self.depth, "rounds": runs.len(), "tokens_per_s": speed,
            "tokens_per_s_best": figures.tokens as f64 / best, "rate": rate, "unit": figures.unit,
            "limit_before": before, "limit_after": after, "share_of_peak": rate / limit,
            "isa": context.isa().name(), "threads": context.threads, "cpu": base::machine::cpu_name(),
            "weights_bytes": memory.weights_bytes, "peak_rss_bytes": self.peak_bytes, "load_s": self.loaded.as_secs_f64(),
        });
        context.print(&text, &json);
        Ok(())
    }
}
