//! The end of a run: the table that a person reads, the report, the JSON object, and what to do next.

use super::Run;
use super::scores::{BaseScores, Exchange, FinalScores};
use anyhow::Result;
use eval::bits::BitsPerByte;
use eval::tasks::FamilyScore;
use serde_json::{Value, json};
use std::fmt::Write;
use train::report::{Block, Label, Language, Report, Section, StageSummary, Table, render, stage};
use train::{Event, read_events};

impl Run<'_> {
    /// Prints the table and writes `report.html` and `summary.json`.
    pub(super) fn summarise(&self, before: &BaseScores, after: &FinalScores) -> Result<()> {
        let events = read_events(&self.folder.events())?;
        let stages = ["pretrain", "finetune"].map(|name| StageSummary::of(name, &events));
        base::fs::write_bytes(
            &self.folder.report(),
            render(&self.report(before, after, &events)).as_bytes(),
        )?;
        let summary = json!({
            "run": self.folder.path(),
            "model": self.folder.model(),
            "parameters": self.parameter_count(),
            "pretrain": stages[0].as_ref().map(stage_json),
            "finetune": stages[1].as_ref().map(stage_json),
            "bits": before.bits,
            "tasks_before": before.tasks,
            "tasks_after": after.tasks,
            "accuracy_before": before.tasks.mean_accuracy(),
            "accuracy_after": after.tasks.mean_accuracy(),
            "stage_seconds": self.seconds.iter().map(|(name, seconds)| json!([name, seconds])).collect::<Vec<_>>(),
            "seconds": self.seconds_gone(),
            "peak_rss_bytes": base::machine::peak_rss_bytes(),
            "cpu": base::machine::cpu_name(),
            "isa": self.context.isa().name(),
            "threads": self.context.threads,
            "peak_gflops": self.recipe.sized.as_ref().map(|sized| sized.peak_gflops),
        });
        let text = serde_json::to_string_pretty(&summary)?;
        base::fs::write_bytes(&self.folder.join("summary.json"), text.as_bytes())?;
        self.context.print(&self.table(before, after, &stages), &summary);
        Ok(())
    }

    fn parameter_count(&self) -> usize {
        let model = self.recipe.model.config(self.recipe.tokenizer.vocab_size, vec![], None);
        model.map_or(0, |config| config.parameter_count())
    }

    fn table(&self, before: &BaseScores, after: &FinalScores, stages: &[Option<StageSummary>; 2]) -> String {
        let mut text = String::from("\n");
        let line = |text: &mut String, name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<28}{value}");
        };
        line(&mut text, "parameters", &format!("{:.2} M", self.parameter_count() as f64 / 1e6));
        if let Some(bits) = &before.bits {
            let ratio = format!(
                "{:.3} ({:.2} × zstd -19: {:.3})",
                bits.bits_per_byte, bits.ratio, bits.zstd_bits_per_byte
            );
            line(&mut text, "bits per byte, held out", &ratio);
        }
        for (name, stage) in ["pretraining", "fine-tuning"].iter().zip(stages) {
            let Some(stage) = stage else { continue };
            let share = stage
                .share_of_peak
                .map_or(String::new(), |share| format!(", {:.0} % of peak", 100.0 * share));
            let tokens = stage.tokens as f64 / 1e6;
            let value = format!("{tokens:.2} M tokens, {:.0} tokens/s{share}", stage.tokens_per_s);
            line(&mut text, name, &value);
        }
        let _ = writeln!(text, "\n  exact answers               before   after");
        for (first, second) in before.tasks.families.iter().zip(&after.tasks.families) {
            let (name, first) = percent(first);
            line(&mut text, &name, &format!("{first:>5} %  {:>5} %", percent(second).1));
        }
        let (first, second) = (100.0 * before.tasks.mean_accuracy(), 100.0 * after.tasks.mean_accuracy());
        line(&mut text, "mean", &format!("{first:>5.1} %  {second:>5.1} %"));
        let _ = writeln!(text, "\n  seconds");
        for (name, seconds) in &self.seconds {
            let value = seconds.map_or("done before".to_owned(), |seconds| format!("{seconds:>6.1}"));
            line(&mut text, name, &value);
        }
        line(&mut text, "together", &format!("{:>6.1}", self.seconds_gone()));
        text.push_str("\n  samples\n");
        for exchange in before.samples.iter().chain(&after.samples) {
            let _ = writeln!(text, "{}", sample_text(exchange));
        }
        let model = self.folder.model();
        let _ = write!(
            text,
            "\n  report    {}\n  talk      taoye chat {}\n  serve     taoye serve {}",
            self.folder.report().display(),
            model.display(),
            model.display()
        );
        text
    }

    fn report(&self, before: &BaseScores, after: &FinalScores, events: &[Event]) -> Report {
        let mut results = Vec::new();
        if let Some(bits) = &before.bits {
            results.push(Block::Table(Table { head: Vec::new(), rows: bits_rows(bits) }));
        }
        results.push(Block::Table(Table {
            head: vec![
                Label::new("Exact answers, %", "答案全对,%"),
                Label::new("before fine-tuning", "微调前"),
                Label::new("after", "微调后"),
            ],
            rows: before
                .tasks
                .families
                .iter()
                .zip(&after.tasks.families)
                .map(|(first, second)| [percent(first).0, percent(first).1, percent(second).1])
                .map(|cells| cells.map(Label::same).to_vec())
                .collect(),
        }));
        results.push(Block::Table(seconds_table(&self.seconds)));
        let samples = before.samples.iter().chain(&after.samples).map(|exchange| Block::Sample {
            caption: Label::same(exchange.prompt.clone()),
            text: exchange.answer.clone(),
        });
        Report {
            title: Label::same(self.recipe.name.clone()),
            language: Language::English,
            sections: vec![
                Section { title: Label::new("Results", "结果"), blocks: results },
                stage(Label::new("Pretraining", "预训练"), "pretrain", events),
                stage(Label::new("Fine-tuning", "微调"), "finetune", events),
                Section { title: Label::new("Samples", "样例"), blocks: samples.collect() },
            ],
        }
    }
}

/// A stage's figures for `summary.json`.
pub(super) fn stage_json(summary: &StageSummary) -> Value {
    json!({
        "steps": summary.steps,
        "tokens": summary.tokens,
        "seconds": summary.step_seconds,
        "time": summary.time,
        "overhead": summary.time.overhead(summary.step_seconds),
        "tokens_per_s": summary.tokens_per_s,
        "share_of_peak": summary.share_of_peak,
        "first_loss": summary.first_loss,
        "loss": summary.loss,
        "first_evaluation_loss": summary.first_evaluation_loss,
        "evaluation_loss": summary.evaluation_loss,
        "best_evaluation": summary.best_evaluation,
    })
}

/// Rows of a report's table on bits per byte.
pub(super) fn bits_rows(bits: &BitsPerByte) -> Vec<Vec<Label>> {
    let row = |en: &str, zh: &str, value: f64| vec![Label::new(en, zh), Label::same(format!("{value:.3}"))];
    vec![
        row("Bits per byte, held-out documents", "留出文档每字节比特数", bits.bits_per_byte),
        row("The same, zstd -19", "同上,zstd -19", bits.zstd_bits_per_byte),
        row("Ratio", "比值", bits.ratio),
    ]
}

/// A report's table of what took how long.
pub(super) fn seconds_table(seconds: &[(&'static str, Option<f64>)]) -> Table {
    let rows = seconds.iter().map(|(name, seconds)| {
        let seconds = seconds.map_or("–".into(), |seconds| format!("{seconds:.1}"));
        vec![Label::same(*name), Label::same(seconds)]
    });
    Table { head: vec![Label::new("Stage", "阶段"), Label::new("seconds", "秒")], rows: rows.collect() }
}

/// The family's name and its accuracy in percent.
fn percent(score: &FamilyScore) -> (String, String) {
    (score.family.name().to_owned(), format!("{:.1}", 100.0 * score.accuracy()))
}

pub(super) fn sample_text(exchange: &Exchange) -> String {
    let mark = match exchange.correct {
        Some(true) => "✓ ",
        Some(false) => "✗ ",
        None => "",
    };
    let answer = exchange.answer.trim_end().replace('\n', "\n      ");
    format!("  > {}\n    {mark}{answer}", exchange.prompt.trim_end().replace('\n', "\n    "))
}
