//! The end of a tuning run: the table that a person reads, the report, the JSON object, and what to do next.

use super::data::Data;
use super::scores::Scores;
use super::{Base, STAGE};
use crate::pipeline::Run;
use crate::pipeline::summary::{bits_rows, sample_text, seconds_table, stage_json};
use crate::recipe::{AnyRecipe, Tuning};
use anyhow::Result;
use serde_json::json;
use std::fmt::Write;
use train::report::{Block, Label, Language, Report, Section, StageSummary, Table, render, stage};
use train::{Event, read_events};

impl Run<'_, Tuning> {
    /// Prints the table and writes `report.html` and `summary.json`.
    pub(super) fn summarise(&self, base: &Base, data: &Data, before: &Scores, after: &Scores) -> Result<()> {
        let events = read_events(&self.folder.events())?;
        let figures = StageSummary::of(STAGE, &events);
        let report = self.report(base, data, before, after, &events);
        base::fs::write_bytes(&self.folder.report(), render(&report).as_bytes())?;
        let summary = json!({
            "run": self.folder.path(),
            "model": self.folder.model(),
            "init": base.folder,
            "data": data.kind,
            "notices": data.notices,
            "parameters": base.config.parameter_count(),
            "train": figures.as_ref().map(stage_json),
            "before": before,
            "after": after,
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
        self.context.print(&self.table(base, figures.as_ref(), before, after), &summary);
        Ok(())
    }

    fn table(&self, base: &Base, figures: Option<&StageSummary>, before: &Scores, after: &Scores) -> String {
        let mut text = String::from("\n");
        let line = |text: &mut String, name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<28}{value}");
        };
        line(&mut text, "started from", &base.folder.display().to_string());
        line(&mut text, "parameters", &format!("{:.2} M", base.config.parameter_count() as f64 / 1e6));
        if let Some(figures) = figures {
            let tokens = figures.tokens as f64 / 1e6;
            let value = format!(
                "{} steps, {tokens:.2} M tokens, {:.0} tokens/s",
                figures.steps, figures.tokens_per_s
            );
            line(&mut text, "training", &value);
            line(&mut text, "training loss", &format!("{:.4} → {:.4}", figures.first_loss, figures.loss));
            if let Some((first, last)) = figures.first_evaluation_loss.zip(figures.evaluation_loss) {
                line(&mut text, "evaluation loss", &format!("{first:.4} → {last:.4}"));
            }
        }
        if let Some((first, last)) = before.bits.as_ref().zip(after.bits.as_ref()) {
            let value = format!(
                "{:.3} → {:.3} (zstd -19: {:.3})",
                first.bits_per_byte, last.bits_per_byte, last.zstd_bits_per_byte
            );
            line(&mut text, "bits per byte, held out", &value);
        }
        line(&mut text, "seconds", &format!("{:.1}", self.seconds_gone()));
        text.push_str("\n  samples, before and after\n");
        for (first, last) in before.samples.iter().zip(&after.samples) {
            let _ = writeln!(text, "{}", sample_text(first));
            let answer = last.answer.trim_end().replace('\n', "\n      ");
            let _ = writeln!(text, "  →   {answer}\n");
        }
        let model = self.folder.model();
        let _ = write!(
            text,
            "  report    {}\n  talk      taoye chat {}\n  serve     taoye serve {}",
            self.folder.report().display(),
            model.display(),
            model.display()
        );
        text
    }

    fn report(&self, base: &Base, data: &Data, before: &Scores, after: &Scores, events: &[Event]) -> Report {
        let row = |en: &str, zh: &str, value: String| vec![Label::new(en, zh), Label::same(value)];
        let mut rows = vec![
            row("Started from", "起点模型", base.folder.display().to_string()),
            row("Parameters", "参数量", format!("{:.2} M", base.config.parameter_count() as f64 / 1e6)),
        ];
        if let Some((first, last)) = before.bits.as_ref().zip(after.bits.as_ref()) {
            rows.push(row(
                "Bits per byte before, held-out documents",
                "训练前留出文档每字节比特数",
                format!("{:.3}", first.bits_per_byte),
            ));
            rows.extend(bits_rows(last));
        }
        let mut results: Vec<Block> = vec![Block::Table(Table { head: Vec::new(), rows })];
        results.extend(data.notices.iter().map(|notice| Block::Text(Label::same(notice.clone()))));
        results.push(Block::Table(seconds_table(&self.seconds)));
        let samples = before.samples.iter().zip(&after.samples).flat_map(|(first, last)| {
            let sample = |en: &str, zh: &str, text: &str| Block::Sample {
                caption: Label::new(format!("{} ({en})", first.prompt), format!("{}（{zh}）", first.prompt)),
                text: text.to_owned(),
            };
            [sample("before", "训练前", &first.answer), sample("after", "训练后", &last.answer)]
        });
        Report {
            title: Label::same(self.recipe.run_name()),
            language: Language::English,
            sections: vec![
                Section { title: Label::new("Results", "结果"), blocks: results },
                stage(Label::new("Training", "训练"), STAGE, events),
                Section { title: Label::new("Samples", "样例"), blocks: samples.collect() },
            ],
        }
    }
}
