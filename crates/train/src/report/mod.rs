//! A run's report: one HTML file with curves and tables, in Chinese and English, light and dark, that needs
//! no network and runs no script.
//!
//! [`render`] lays out sections of labelled blocks; [`stage`] makes the section of a training stage from its
//! events, [`compare`] that of the same stage of several runs. It must not know where files lie, nor what the stages of a recipe are.

mod axis;
mod chart;
mod compare;
mod stage;

pub use chart::{Chart, Series, Style};
pub use compare::{Compared, RUNS_MAX, compare};
pub(crate) use stage::median;
pub use stage::{StageSummary, StageTime, stage};

/// A text in both languages; the reader switches between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

impl Label {
    /// A text in both languages.
    pub fn new(en: impl Into<String>, zh: impl Into<String>) -> Label {
        Label { en: en.into(), zh: zh.into() }
    }

    /// A text that is the same in both: a name, a number.
    pub fn same(text: impl Into<String>) -> Label {
        let text = text.into();
        Label { en: text.clone(), zh: text }
    }
}

/// The language that is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Chinese.
    Chinese,
}

/// A whole report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The heading.
    pub title: Label,
    /// The language that is shown first.
    pub language: Language,
    /// The sections in order, usually one a stage.
    pub sections: Vec<Section>,
}

/// A headed part of a report.
#[derive(Clone, Debug)]
pub struct Section {
    /// The heading.
    pub title: Label,
    /// What stands below it, in order.
    pub blocks: Vec<Block>,
}

/// What a section is made of. Every text is escaped.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(Label),
    /// A table.
    Table(Table),
    /// A curve; neighbouring ones stand side by side where there is room.
    Chart(Chart),
    /// A text sample, its line breaks kept.
    Sample {
        /// What it is: a prompt, a task.
        caption: Label,
        /// The sample.
        text: String,
    },
}

/// A table; cells that read as numbers are set flush right.
#[derive(Clone, Debug)]
pub struct Table {
    /// Column headings; none for a table of names and values.
    pub head: Vec<Label>,
    /// Rows of cells.
    pub rows: Vec<Vec<Label>>,
}

/// The report as one HTML document.
pub fn render(report: &Report) -> String {
    let (english, chinese) = match report.language {
        Language::English => (" checked", ""),
        Language::Chinese => ("", " checked"),
    };
    let language = if report.language == Language::English { "en" } else { "zh-CN" };
    let mut html = format!(
        "<!doctype html>\n<html lang=\"{language}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{}</h1>\n\
         <nav><label><input type=\"radio\" name=\"language\" id=\"show-en\"{english}>English</label>\n\
         <label><input type=\"radio\" name=\"language\" id=\"show-zh\"{chinese}>中文</label></nav></header>\n",
        escape(if report.language == Language::English { &report.title.en } else { &report.title.zh }),
        both(&report.title),
    );
    let mut charts = 0;
    for section in &report.sections {
        html.push_str(&format!("<section>\n<h2>{}</h2>\n", both(&section.title)));
        let mut in_charts = false;
        for block in &section.blocks {
            let is_chart = matches!(block, Block::Chart(_));
            match (in_charts, is_chart) {
                (false, true) => html.push_str("<div class=\"charts\">\n"),
                (true, false) => html.push_str("</div>\n"),
                _ => {}
            }
            in_charts = is_chart;
            html.push_str(&block_html(block, &mut charts));
        }
        html.push_str(if in_charts { "</div>\n</section>\n" } else { "</section>\n" });
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn block_html(block: &Block, charts: &mut usize) -> String {
    match block {
        Block::Text(text) => format!("<p>{}</p>\n", both(text)),
        Block::Table(table) => table_html(table),
        Block::Chart(chart) => {
            *charts += 1;
            chart::html(chart, *charts)
        }
        Block::Sample { caption, text } => {
            format!(
                "<figure><figcaption>{}</figcaption><pre>{}</pre></figure>\n",
                both(caption),
                escape(text)
            )
        }
    }
}

fn table_html(table: &Table) -> String {
    let row = |cells: &[Label], shape: &[Label], tag: &str| -> String {
        let cell = |(label, shape): (&Label, &Label)| {
            let class = if is_number(&shape.en) { " class=\"number\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", both(label))
        };
        format!("<tr>{}</tr>\n", cells.iter().zip(shape).map(cell).collect::<String>())
    };
    // A heading is set as the first cell below it.
    let shape = table.rows.first().filter(|first| first.len() == table.head.len()).unwrap_or(&table.head);
    let head = match table.head.is_empty() {
        true => String::new(),
        false => format!("<thead>{}</thead>\n", row(&table.head, shape, "th")),
    };
    let rows: String = table.rows.iter().map(|cells| row(cells, cells, "td")).collect();
    format!("<div class=\"scroll\"><table>\n{head}<tbody>{rows}</tbody></table></div>\n")
}

/// Whether a cell begins with a digit, a sign and a digit, or is a dash.
fn is_number(text: &str) -> bool {
    let text = text.trim();
    let digits = text.trim_start_matches(['-', '−', '+', '<', '≈', '×', ' ']);
    digits.starts_with(|c: char| c.is_ascii_digit()) || matches!(text, "–" | "-" | "—")
}

/// Both languages, of which the style shows one; once, where they are the same.
fn both(label: &Label) -> String {
    match label.en == label.zh {
        true => escape(&label.en),
        false => format!(
            "<span class=\"en\" lang=\"en\">{}</span><span class=\"zh\" lang=\"zh-CN\">{}</span>",
            escape(&label.en),
            escape(&label.zh)
        ),
    }
}

/// Text made safe between tags and in quoted attributes; control characters become visible.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// Colours are checked for contrast in both schemes: text ≥ 7:1, lines ≥ 3:1.
const STYLE: &str = "
:root { color-scheme: light dark; --page: #fbfaf8; --card: #ffffff; --ink: #1d1c1a; --soft: #5a5852;
  --line: #dcd9d2; --first: #1f5fa8; --second: #b4481e; --third: #2d7a46; --fourth: #7a4a9c;
  --fifth: #8a6d00; --sixth: #0f7c80; --seventh: #b0256b; --eighth: #666259; }
@media (prefers-color-scheme: dark) { :root { --page: #151412; --card: #1e1d1a; --ink: #eceae4; --soft: #b3afa6;
  --line: #3a3833; --first: #7ab0ee; --second: #ef9468; --third: #7cc795; --fourth: #c79ee3;
  --fifth: #d9bc4a; --sixth: #5fc7cb; --seventh: #f08fbd; --eighth: #b0aba0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, 'Noto Sans CJK SC', 'Noto Sans SC', 'PingFang SC', 'Microsoft YaHei', sans-serif; }
header { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: baseline; justify-content: space-between; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .8rem; }
nav label { margin-left: 1rem; color: var(--soft); }
html:has(#show-en:checked) .zh, html:has(#show-zh:checked) .en { display: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem .4rem; margin: 0; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; font-weight: 600; }
.chart figcaption .key { font-weight: 400; color: var(--soft); font-size: .85rem; }
.chart figcaption .key i { display: inline-block; width: 1.1em; height: 3px; margin-right: .4em; vertical-align: middle; }
.chart figcaption .switch { margin-left: auto; font-weight: 400; color: var(--soft); font-size: .85rem; }
.chart svg { display: block; width: 100%; height: auto; }
.chart .log { display: none; }
.chart:has(.switch input:checked) .log { display: block; } .chart:has(.switch input:checked) .linear { display: none; }
svg text { font-size: 12px; fill: var(--soft); } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; } svg .raw { stroke-width: 1; opacity: .35; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .number { text-align: right; }
figure { margin: .8rem 0; } figcaption { color: var(--ink); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; margin: .3rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, 'Noto Sans Mono CJK SC', monospace; }
@media print { nav, .switch { display: none; } .chart, pre, table { break-inside: avoid; } }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let chart = Chart {
            title: Label::new("Loss", "损失"),
            unit: Label::same("nats"),
            series: vec![Series::curve(Label::same("a"), vec![(1.0, 3.0), (2.0, f64::NAN), (3.0, 1.0)])],
        };
        let cell = |text: &str| Label::same(text);
        Report {
            title: Label::new("Run <1>", "运行 <1>"),
            language: Language::Chinese,
            sections: vec![Section {
                title: Label::new("Stage", "阶段"),
                blocks: vec![
                    Block::Chart(chart.clone()),
                    Block::Chart(chart),
                    Block::Table(Table {
                        head: vec![cell("name")],
                        rows: vec![vec![cell("-3.5 %"), cell("x&y")]],
                    }),
                    Block::Sample {
                        caption: cell("prompt"),
                        text: "</pre><script>alert(1)</script>\u{7}".into(),
                    },
                ],
            }],
        }
    }

    #[test]
    fn nothing_leaves_the_file_and_nothing_runs() {
        let html = render(&report());
        for forbidden in ["<script", "http:", "https:", "url(", "@import", "src=", "NaN", "\u{7}", "Run <1>"]
        {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        for needed in
            ["&lt;/pre&gt;&lt;script&gt;", "x&amp;y", "class=\"number\">-3.5 %", "损失", "lang=\"zh-CN\""]
        {
            assert!(html.contains(needed), "{needed}");
        }
    }

    #[test]
    fn tags_are_balanced() {
        let html = render(&report());
        for tag in ["section", "div", "figure", "svg", "table", "span", "tr", "td", "label", "g", "pre"] {
            let opened =
                html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(html.matches("class=\"charts\"").count(), 1, "neighbouring charts share a row");
    }
}
