//! The section of a training stage: a table of its figures and the curves of its events.

use super::{Block, Chart, Label, Section, Series, Table};
use crate::event::{Event, Kind, StepMetrics};
use serde::Serialize;

/// Figures of a whole stage, from its events.
#[derive(Clone, Debug, PartialEq)]
pub struct StageSummary {
    /// Optimiser steps done.
    pub steps: usize,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    /// Time spent in steps.
    pub step_seconds: f64,
    /// Where the rest of the time went, and what reading data took of the steps.
    pub time: StageTime,
    /// Median tokens a second over the steps.
    pub tokens_per_s: f64,
    /// Median share of the arithmetic peak, where it is known.
    pub share_of_peak: Option<f64>,
    /// Training loss of the first step, in nats.
    pub first_loss: f64,
    /// Mean training loss over the last twentieth of the steps, in nats.
    pub loss: f64,
    /// The first evaluation's loss, in nats; of given weights that is the one before any step.
    pub first_evaluation_loss: Option<f64>,
    /// The last evaluation's loss, in nats.
    pub evaluation_loss: Option<f64>,
    /// Step and loss of the best evaluation after a step.
    pub best_evaluation: Option<(usize, f64)>,
}

/// Seconds of a stage beside the arithmetic of its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StageTime {
    /// Reading the steps' sequences; part of the time in steps.
    pub data_s: f64,
    /// Evaluations.
    pub evaluation_s: f64,
    /// Writing checkpoints.
    pub checkpoint_s: f64,
    /// Events and progress.
    pub other_s: f64,
}

impl StageTime {
    /// Share of the whole stage in which no step computed; `step_s` are the seconds in steps.
    pub fn overhead(&self, step_s: f64) -> f64 {
        let beside = self.evaluation_s + self.checkpoint_s + self.other_s;
        (beside + self.data_s) / (step_s + beside)
    }

    fn of(name: &str, events: &[Event]) -> StageTime {
        let mut time = StageTime::default();
        for event in events.iter().filter(|event| event.stage == name) {
            match &event.kind {
                Kind::Step(step) => {
                    time.data_s += step.data_seconds;
                    time.other_s += step.other_seconds;
                }
                Kind::Evaluation { seconds, .. } => time.evaluation_s += seconds,
                Kind::Checkpoint { seconds, .. } => time.checkpoint_s += seconds,
                _ => {}
            }
        }
        time
    }
}

impl StageSummary {
    /// The figures of stage `name`; none when it has no steps.
    pub fn of(name: &str, events: &[Event]) -> Option<StageSummary> {
        let steps = steps_of(name, events);
        let (last, _) = *steps.last()?;
        let metrics: Vec<&StepMetrics> = steps.iter().map(|step| step.1).collect();
        let tail = &metrics[metrics.len() - metrics.len().div_ceil(20)..];
        let shares: Vec<f64> = metrics.iter().filter_map(|step| step.share_of_peak).collect();
        Some(StageSummary {
            steps: last,
            tokens: metrics.iter().map(|step| step.tokens).sum(),
            step_seconds: metrics.iter().map(|step| step.seconds).sum(),
            time: StageTime::of(name, events),
            tokens_per_s: median(metrics.iter().map(|step| step.tokens_per_s).collect())?,
            share_of_peak: median(shares),
            first_loss: metrics[0].loss,
            loss: tail.iter().map(|step| step.loss).sum::<f64>() / tail.len() as f64,
            first_evaluation_loss: evaluations_of(name, events).first().map(|evaluation| evaluation.1),
            evaluation_loss: evaluations_of(name, events).last().map(|evaluation| evaluation.1),
            best_evaluation: best_of(name, events),
        })
    }

    fn table(&self) -> Table {
        let row = |en: &str, zh: &str, value: String| vec![Label::new(en, zh), Label::same(value)];
        let time = &self.time;
        let whole_s = self.step_seconds + time.evaluation_s + time.checkpoint_s + time.other_s;
        let share = |seconds: f64| format!("{seconds:.1} s ({:.2} %)", 100.0 * seconds / whole_s);
        let mut rows = vec![
            row("Steps", "步数", self.steps.to_string()),
            row("Tokens", "词元数", thousands(self.tokens)),
            row("Time in steps", "训练用时", format!("{:.1} s", self.step_seconds)),
            row("of it reading data", "其中读取数据", share(time.data_s)),
            row("Time in evaluations", "评测用时", share(time.evaluation_s)),
            row("Time in checkpoints", "检查点用时", share(time.checkpoint_s)),
            row("Other time", "其他用时", share(time.other_s)),
            row("Tokens/s (median)", "每秒词元数(中位数)", thousands(self.tokens_per_s.round() as u64)),
            row("Training loss (end)", "训练损失(末段)", format!("{:.4}", self.loss)),
        ];
        if let Some(loss) = self.evaluation_loss {
            rows.push(row("Evaluation loss (last)", "评测损失(最后)", format!("{loss:.4}")));
        }
        if let Some((step, loss)) = self.best_evaluation {
            let value = format!("{loss:.4} (step {step})");
            rows.push(row("Evaluation loss (best)", "评测损失(最好)", value));
        }
        if let Some(share) = self.share_of_peak {
            rows.push(row("Share of arithmetic peak", "算力峰值占比", format!("{:.1} %", 100.0 * share)));
        }
        Table { head: Vec::new(), rows }
    }
}

/// The section of stage `name` under `title`: its figures, its curves and its notices.
pub fn stage(title: Label, name: &str, events: &[Event]) -> Section {
    let mut blocks: Vec<Block> =
        StageSummary::of(name, events).map(|s| Block::Table(s.table())).into_iter().collect();
    for event in events.iter().filter(|event| event.stage == name) {
        if let Kind::Notice { message } | Kind::Failed { message } = &event.kind {
            blocks.push(Block::Text(Label::new(
                format!("Notice at step {}: {message}", event.step),
                format!("第 {} 步的提示:{message}", event.step),
            )));
        }
    }
    blocks.extend(charts(name, events).into_iter().map(Block::Chart));
    Section { title, blocks }
}

fn charts(name: &str, events: &[Event]) -> Vec<Chart> {
    let steps = steps_of(name, events);
    let over = |value: &dyn Fn(&StepMetrics) -> f64| -> Vec<(f64, f64)> {
        steps.iter().map(|(step, metrics)| (*step as f64, value(metrics))).collect()
    };
    let evaluations: Vec<(f64, f64)> =
        evaluations_of(name, events).into_iter().map(|(step, loss)| (step as f64, loss)).collect();
    let mut losses = vec![Series::smoothed(Label::new("training", "训练"), over(&|step| step.loss))];
    if !evaluations.is_empty() {
        losses.push(Series::marked(Label::new("evaluation", "评测"), evaluations));
    }
    let chart = |title: Label, unit: Label, series: Vec<Series>| Chart { title, unit, series };
    let mut charts = vec![
        chart(Label::new("Loss", "损失"), Label::new("nats/token", "奈特/词元"), losses),
        chart(
            Label::new("Learning rate", "学习率"),
            Label::same(""),
            vec![Series::curve(Label::new("learning rate", "学习率"), over(&|step| step.learning_rate))],
        ),
        chart(
            Label::new("Gradient norm", "梯度范数"),
            Label::new("before clipping", "裁剪前"),
            vec![Series::smoothed(Label::new("norm", "范数"), over(&|step| step.gradient_norm))],
        ),
        chart(
            Label::new("Tokens per second", "每秒词元数"),
            Label::same(""),
            vec![Series::smoothed(Label::new("tokens/s", "词元/秒"), over(&|step| step.tokens_per_s))],
        ),
    ];
    if steps.iter().any(|step| step.1.share_of_peak.is_some()) {
        charts.push(chart(
            Label::new("Share of arithmetic peak", "算力峰值占比"),
            Label::same("%"),
            vec![Series::smoothed(
                Label::new("share", "占比"),
                over(&|step| 100.0 * step.share_of_peak.unwrap_or(f64::NAN)),
            )],
        ));
    }
    charts
}

pub(super) fn steps_of<'a>(name: &str, events: &'a [Event]) -> Vec<(usize, &'a StepMetrics)> {
    let of_stage = events.iter().filter(|event| event.stage == name);
    let steps = of_stage.filter_map(|event| match &event.kind {
        Kind::Step(metrics) => Some((event.step, metrics)),
        _ => None,
    });
    steps.collect()
}

pub(super) fn evaluations_of(name: &str, events: &[Event]) -> Vec<(usize, f64)> {
    let of_stage = events.iter().filter(|event| event.stage == name);
    let evaluations = of_stage.filter_map(|event| match event.kind {
        Kind::Evaluation { loss, .. } => Some((event.step, loss)),
        _ => None,
    });
    evaluations.collect()
}

/// Step and loss of the last evaluation that was the best when it was made.
fn best_of(name: &str, events: &[Event]) -> Option<(usize, f64)> {
    let mut of_stage = events.iter().rev().filter(|event| event.stage == name);
    of_stage.find_map(|event| match event.kind {
        Kind::Evaluation { loss, is_best: true, .. } => Some((event.step, loss)),
        _ => None,
    })
}

/// The middle value, the upper of two; none of no values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn events() -> Vec<Event> {
        let event = |stage: &str, step, kind| Event { stage: stage.into(), step, kind };
        let metrics = |loss| StepMetrics {
            loss,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens: 2_000,
            seconds: 0.5,
            data_seconds: 0.05,
            other_seconds: 0.01,
            tokens_per_s: 4_000.0,
            share_of_peak: Some(0.5),
        };
        let mut events: Vec<Event> =
            (1..=40).map(|step| event("a", step, Kind::Step(metrics(41.0 - step as f64)))).collect();
        events.push(event("a", 40, Kind::Evaluation { loss: 2.5, targets: 10, is_best: true, seconds: 0.1 }));
        events.push(event("a", 40, Kind::Checkpoint { name: "step-40".into(), bytes: 1, seconds: 0.3 }));
        events.push(event("a", 40, Kind::Notice { message: "took <care>".into() }));
        events.push(event("b", 1, Kind::Step(metrics(9.0))));
        events
    }

    #[test]
    fn a_summary_takes_its_own_stage_only() {
        let summary = StageSummary::of("a", &events()).unwrap();
        assert_eq!((summary.steps, summary.tokens, summary.loss), (40, 80_000, 1.5));
        assert_eq!((summary.evaluation_loss, summary.share_of_peak), (Some(2.5), Some(0.5)));
        let StageTime { data_s, evaluation_s, checkpoint_s, other_s } = summary.time;
        assert!((data_s - 2.0).abs() < 1e-9 && (other_s - 0.4).abs() < 1e-9, "{data_s} {other_s}");
        assert_eq!((evaluation_s, checkpoint_s), (0.1, 0.3));
        let overhead = summary.time.overhead(summary.step_seconds);
        assert!((overhead - 2.8 / 20.8).abs() < 1e-9, "{overhead}");
        assert_eq!((summary.first_loss, summary.best_evaluation), (40.0, Some((40, 2.5))));
        assert_eq!(StageSummary::of("c", &events()), None);
    }

    #[test]
    fn events_survive_their_journal() {
        for event in events() {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
        }
    }

    #[test]
    fn a_section_shows_figures_curves_and_notices() {
        let section = stage(Label::same("A"), "a", &events());
        let kinds: Vec<&str> = section
            .blocks
            .iter()
            .map(|block| match block {
                Block::Table(_) => "table",
                Block::Text(_) => "text",
                Block::Chart(_) => "chart",
                Block::Sample { .. } => "sample",
            })
            .collect();
        assert_eq!(kinds, ["table", "text", "chart", "chart", "chart", "chart", "chart"]);
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
