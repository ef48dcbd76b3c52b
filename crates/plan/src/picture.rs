//! Small pictures as inline SVG, and a page that holds them: no script, no network, light and dark.
//!
//! It must not know what a number means.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 250.0;
const ROW: f64 = 26.0;
const COLOUR: &str = "var(--bar)";

/// A bar: its name, its length, and the length as text.
pub struct Bar {
    /// The name.
    pub name: String,
    /// The length; not below 0.
    pub value: f64,
    /// The length for people.
    pub shown: String,
}

/// Bars under each other, as long as their values.
pub fn bars(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let room = WIDTH - LABEL - 110.0;
    let mut svg = open(bars.len() as f64 * ROW + 8.0);
    for (index, bar) in bars.iter().enumerate() {
        let y = index as f64 * ROW + 4.0;
        let width = room * bar.value / most;
        let middle = y + 15.0;
        text(&mut svg, LABEL - 8.0, middle, "end", &bar.name);
        let _ =
            write!(svg, r#"<rect x="{LABEL}" y="{y:.1}" width="{width:.1}" height="18" fill="{COLOUR}"/>"#);
        text(&mut svg, LABEL + width + 6.0, middle, "start", &bar.shown);
    }
    svg + "</svg>"
}

/// One side of a tornado: what varies, and the result at its low and high end.
pub struct Swing {
    /// What varies, and how.
    pub name: String,
    /// The result at its low end.
    pub low: f64,
    /// The result at its high end.
    pub high: f64,
}

/// A tornado: how far a result moves from `middle` as each input goes to its ends; the widest on top.
pub fn tornado(middle: f64, swings: &[Swing], shown: impl Fn(f64) -> String) -> String {
    let mut sorted: Vec<&Swing> = swings.iter().collect();
    sorted.sort_by(|a, b| (b.high - b.low).abs().total_cmp(&(a.high - a.low).abs()));
    let ends = || sorted.iter().flat_map(|swing| [swing.low, swing.high]);
    let least = ends().fold(middle, f64::min);
    let most = ends().fold(middle, f64::max);
    let room = WIDTH - LABEL - 160.0;
    let scale = room / (most - least).max(f64::MIN_POSITIVE);
    let place = |value: f64| LABEL + 70.0 + (value - least) * scale;
    let height = sorted.len() as f64 * ROW + 8.0;
    let mut svg = open(height);
    for (index, swing) in sorted.iter().enumerate() {
        let y = index as f64 * ROW + 4.0;
        let (from, to) = (place(swing.low.min(swing.high)), place(swing.low.max(swing.high)));
        text(&mut svg, LABEL - 8.0, y + 15.0, "end", &swing.name);
        let width = to - from;
        let _ =
            write!(svg, r#"<rect x="{from:.1}" y="{y:.1}" width="{width:.1}" height="18" fill="{COLOUR}"/>"#);
        text(&mut svg, from - 5.0, y + 15.0, "end", &shown(swing.low.min(swing.high)));
        text(&mut svg, to + 5.0, y + 15.0, "start", &shown(swing.low.max(swing.high)));
    }
    let x = place(middle);
    let _ = write!(
        svg,
        r#"<line x1="{x:.1}" x2="{x:.1}" y1="0" y2="{height:.1}" stroke="var(--ink)" stroke-dasharray="3 3"/>"#
    );
    svg + "</svg>"
}

/// Points joined in order; both axes logarithmic. Each point has a label.
pub fn curve(points: &[(f64, f64, String)], (x_name, y_name): (&str, &str)) -> String {
    const HEIGHT: f64 = 280.0;
    let mut svg = open(HEIGHT);
    let logs: Vec<(f64, f64)> =
        points.iter().map(|(x, y, _)| (x.max(1e-12).ln(), y.max(1e-12).ln())).collect();
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let least = logs.iter().map(pick).fold(f64::INFINITY, f64::min);
        let most = logs.iter().map(pick).fold(f64::NEG_INFINITY, f64::max);
        (least, (most - least).max(1e-6))
    };
    let ((left, wide), (low, tall)) = (range(|point| point.0), range(|point| point.1));
    let place = |point: &(f64, f64)| {
        let x = 60.0 + (point.0 - left) / wide * (WIDTH - 190.0);
        (x, HEIGHT - 40.0 - (point.1 - low) / tall * (HEIGHT - 80.0))
    };
    let path: Vec<String> = logs.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{COLOUR}" stroke-width="2"/>"#,
        path.join(" ")
    );
    for (point, (.., label)) in logs.iter().zip(points) {
        let (x, y) = place(point);
        let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{COLOUR}"/>"#);
        text(&mut svg, x + 8.0, y - 6.0, "start", label);
    }
    text(&mut svg, WIDTH / 2.0, HEIGHT - 8.0, "middle", &format!("{x_name} →"));
    text(&mut svg, 8.0, 16.0, "start", &format!("{y_name} ↑"));
    svg + "</svg>"
}

fn open(height: f64) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" width="100%" role="img" xmlns="http://www.w3.org/2000/svg">"#
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let content = escape(content);
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#);
}

/// Text as it may stand between tags and in attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A part of a page: its heading in both languages, and its HTML.
pub struct Section {
    /// The heading, English · Chinese.
    pub heading: String,
    /// What is under it.
    pub html: String,
}

/// A table; its first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
        }
        html.push_str("</tr>");
    }
    html + "</table>"
}

/// A whole page that needs nothing else.
pub fn page(title: &str, sections: &[Section]) -> String {
    let title = escape(title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    for section in sections {
        let _ = writeln!(html, "<section><h2>{}</h2>{}</section>", escape(&section.heading), section.html);
    }
    html + "</body></html>\n"
}

const STYLE: &str = ":root{--ink:#1d2330;--paper:#fff;--bar:#4a6fa5;--line:#d5d9e2}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ee;--paper:#14171f;--bar:#7ea3d8;--line:#343a48}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}\
svg text{font-size:12px;fill:var(--ink)}h2{margin-top:2rem;font-size:1.15rem}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_well_formed_and_escape() {
        let bar = |name: &str, value| Bar { name: name.to_owned(), value, shown: value.to_string() };
        let swing = Swing { name: "speed ±20 %".to_owned(), low: 8.0, high: 12.0 };
        let pictures = [
            bars(&[bar("a < b", 3.0), bar("nothing", 0.0)]),
            bars(&[]),
            tornado(10.0, &[swing], |value| value.to_string()),
            curve(&[(1.0, 2.0, "one".to_owned()), (4.0, 1.0, "two".to_owned())], ("days", "money")),
        ];
        for svg in &pictures {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        }
        assert!(pictures[0].contains("a &lt; b"));
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let section =
            Section { heading: "Time · 时间".to_owned(), html: table(&[vec!["<x>".to_owned()]]) };
        let page = page("Plan", &[section]);
        assert!(page.contains("&lt;x&gt;") && page.contains("时间"));
        for outside in ["src=", "href=", "<script", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
