//! The section of one stage of several runs: their figures side by side, and their curves in the same charts. It must not
//! know where runs lie.

use super::chart::COLOURS;
use super::stage::{evaluations_of, steps_of, thousands};
use super::{Block, Chart, Label, Section, Series, StageSummary, Table};
use crate::event::{Event, Kind, StepMetrics};

/// Runs that one report can tell apart.
pub const RUNS_MAX: usize = COLOURS.len();

/// A run to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its events.
    pub events: &'a [Event],
}

/// Places on a chart.
type Points = Vec<(f64, f64)>;

/// The section of stage `name` of all runs that have it, at most [`RUNS_MAX`], under `title`.
pub fn compare(title: Label, name: &str, runs: &[Compared<'_>]) -> Section {
    let runs: Vec<&Compared<'_>> = runs.iter().filter(|run| !steps_of(name, run.events).is_empty()).collect();
    let chart = |title: Label, unit: Label, points: &dyn Fn(&[Event]) -> Points, smoothed: bool| {
        let series = runs.iter().map(|run| {
            let (name, points) = (Label::same(run.name), points(run.events));
            if smoothed { Series::smoothed(name, points) } else { Series::marked(name, points) }
        });
        Block::Chart(Chart { title, unit, series: series.collect() })
    };
    let nats = || Label::new("nats/token", "奈特/词元");
    let blocks = vec![
        Block::Table(figures(name, &runs)),
        chart(
            Label::new("Loss by tokens", "损失(按词元)"),
            nats(),
            &|events| over(name, events, |step| step.tokens as f64, |step| step.loss),
            true,
        ),
        chart(
            Label::new("Loss by seconds in steps", "损失(按训练秒数)"),
            nats(),
            &|events| over(name, events, |step| step.seconds, |step| step.loss),
            true,
        ),
        chart(
            Label::new("Evaluation loss by tokens", "评测损失(按词元)"),
            nats(),
            &|events| evaluations_by_tokens(name, events),
            false,
        ),
        chart(
            Label::new("Gradient norm by tokens", "梯度范数(按词元)"),
            Label::new("before clipping", "裁剪前"),
            &|events| over(name, events, |step| step.tokens as f64, |step| step.gradient_norm),
            true,
        ),
    ];
    Section { title, blocks }
}

/// A figure of each step over the running sum of another.
fn over(
    name: &str,
    events: &[Event],
    increase: fn(&StepMetrics) -> f64,
    value: fn(&StepMetrics) -> f64,
) -> Vec<(f64, f64)> {
    let mut sum = 0.0;
    let points = steps_of(name, events).into_iter().map(|(_, step)| {
        sum += increase(step);
        (sum, value(step))
    });
    points.collect()
}

fn evaluations_by_tokens(name: &str, events: &[Event]) -> Vec<(f64, f64)> {
    let steps = steps_of(name, events);
    let tokens_until = |until: usize| -> u64 {
        steps.iter().filter(|(step, _)| *step <= until).map(|(_, step)| step.tokens).sum()
    };
    let evaluations = evaluations_of(name, events).into_iter();
    evaluations.map(|(step, loss)| (tokens_until(step) as f64, loss)).collect()
}

fn figures(name: &str, runs: &[&Compared<'_>]) -> Table {
    let head = vec![
        Label::new("Run", "运行"),
        Label::new("parameters", "参数量"),
        Label::new("steps", "步数"),
        Label::new("tokens", "词元数"),
        Label::new("seconds", "秒"),
        Label::new("tokens/s", "词元/秒"),
        Label::new("loss (end)", "损失(末段)"),
        Label::new("evaluation (last)", "评测(最后)"),
        Label::new("evaluation (best)", "评测(最好)"),
    ];
    let row = |run: &&Compared<'_>| {
        let summary = StageSummary::of(name, run.events)?;
        let parameters = run.events.iter().rev().find_map(|event| match &event.kind {
            Kind::Started { parameters, .. } if event.stage == name => Some(*parameters as u64),
            _ => None,
        });
        let loss = |loss: Option<f64>| loss.map_or("–".to_owned(), |loss| format!("{loss:.4}"));
        let cells = [
            run.name.to_owned(),
            parameters.map_or("–".to_owned(), thousands),
            summary.steps.to_string(),
            thousands(summary.tokens),
            format!("{:.1}", summary.step_seconds),
            thousands(summary.tokens_per_s.round() as u64),
            loss(Some(summary.loss)),
            loss(summary.evaluation_loss),
            loss(summary.best_evaluation.map(|best| best.1)),
        ];
        Some(cells.map(Label::same).to_vec())
    };
    Table { head, rows: runs.iter().filter_map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(losses: &[f64]) -> Vec<Event> {
        let event = |step, kind| Event { stage: "train".into(), step, kind };
        let metrics = |loss| StepMetrics {
            loss,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens: 100,
            seconds: 0.5,
            data_seconds: 0.0,
            other_seconds: 0.0,
            tokens_per_s: 200.0,
            share_of_peak: None,
        };
        let evaluation = Kind::Evaluation { loss: 2.0, targets: 1, is_best: true, seconds: 0.0 };
        let steps = losses.iter().enumerate().map(|(step, loss)| event(step + 1, Kind::Step(metrics(*loss))));
        steps.chain([event(losses.len(), evaluation)]).collect()
    }

    #[test]
    fn curves_lie_over_sums_and_runs_without_the_stage_are_left_out() {
        let (first, second) = (run(&[5.0, 4.0, 3.0]), run(&[6.0]));
        let runs = [
            Compared { name: "a", events: &first },
            Compared { name: "none", events: &[] },
            Compared { name: "b", events: &second },
        ];
        let section = compare(Label::same("t"), "train", &runs);
        let expected: [&[(f64, f64)]; 4] = [
            &[(100.0, 5.0), (200.0, 4.0), (300.0, 3.0)],
            &[(0.5, 5.0), (1.0, 4.0), (1.5, 3.0)],
            &[(300.0, 2.0)],
            &[(100.0, 1.0), (200.0, 1.0), (300.0, 1.0)],
        ];
        let charts = section.blocks.iter().filter_map(|block| match block {
            Block::Chart(chart) => Some(chart),
            _ => None,
        });
        for (chart, points) in charts.zip(expected) {
            assert_eq!(chart.series[0].points, points, "{}", chart.title.en);
            let names: Vec<&str> = chart.series.iter().map(|series| series.name.en.as_str()).collect();
            assert_eq!(names, ["a", "b"]);
        }
        let Block::Table(table) = &section.blocks[0] else { panic!("figures come first") };
        let column = |place: usize| table.rows.iter().map(|row| row[place].en.clone()).collect::<Vec<_>>();
        assert_eq!((column(0), column(3)), (vec!["a".into(), "b".into()], vec!["300".into(), "100".into()]));
    }
}
