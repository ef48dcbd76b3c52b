//! A curve as inline SVG: axes, grid, key, and a switch to a logarithmic axis where all values allow it.

use super::axis::{Axis, Scale};
use super::{Label, both, escape};

/// Curves over the step.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What is shown.
    pub title: Label,
    /// The values' unit; empty for none.
    pub unit: Label,
    /// At most eight curves.
    pub series: Vec<Series>,
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the key.
    pub name: Label,
    /// Points (step, value) with ascending steps; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A line.
    Line,
    /// A pale line, and a smoothed one upon it.
    Smoothed,
    /// A line with a mark at each point.
    Marked,
}

impl Series {
    /// A curve drawn as a line.
    pub fn curve(name: Label, points: Vec<(f64, f64)>) -> Series {
        Series { name, points, style: Style::Line }
    }

    /// A noisy curve: pale, with a smoothed one upon it.
    pub fn smoothed(name: Label, points: Vec<(f64, f64)>) -> Series {
        Series { name, points, style: Style::Smoothed }
    }

    /// A curve of few points, each marked.
    pub fn marked(name: Label, points: Vec<(f64, f64)>) -> Series {
        Series { name, points, style: Style::Marked }
    }
}

/// A step and its value, or a place in the drawing.
type Point = (f64, f64);

pub(super) const COLOURS: [&str; 8] = [
    "var(--first)",
    "var(--second)",
    "var(--third)",
    "var(--fourth)",
    "var(--fifth)",
    "var(--sixth)",
    "var(--seventh)",
    "var(--eighth)",
];
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;
/// Points of a drawn line; longer ones are averaged in groups.
const POINTS_MAX: usize = 1_200;
const TICKS_MAX: usize = 6;

/// The chart as a `<figure>`; `number` makes its names unique in the document.
pub(super) fn html(chart: &Chart, number: usize) -> String {
    let series: Vec<Series> = chart.series.iter().map(finite).collect();
    let positive = series.iter().flat_map(|series| &series.points).all(|point| point.1 > 0.0);
    let empty = series.iter().all(|series| series.points.is_empty());
    let mut key = String::new();
    if series.len() > 1 {
        for (series, colour) in series.iter().zip(COLOURS) {
            let swatch = format!("<i style=\"background:{colour}\"></i>");
            key.push_str(&format!("<span class=\"key\">{swatch}{}</span>", both(&series.name)));
        }
    } else if !chart.unit.en.is_empty() {
        key = format!("<span class=\"key\">{}</span>", both(&chart.unit));
    }
    let title = format!("<span>{}</span>{key}", both(&chart.title));
    let figure = |switch: &str, body: &str| {
        format!("<figure class=\"chart\"><figcaption>{title}{switch}</figcaption>\n{body}</figure>\n")
    };
    if empty {
        return figure("", &format!("<p>{}</p>\n", both(&Label::new("No values.", "没有数据。"))));
    }
    let linear = svg(chart, &series, Scale::Linear);
    if !positive {
        return figure("", &linear);
    }
    let word = both(&Label::new("log axis", "对数轴"));
    let switch =
        format!("<label class=\"switch\"><input type=\"checkbox\" id=\"log-{number}\"> {word}</label>");
    figure(&switch, &format!("{linear}{}", svg(chart, &series, Scale::Log)))
}

fn finite(series: &Series) -> Series {
    let points = series.points.iter().copied().filter(|point| point.0.is_finite() && point.1.is_finite());
    Series { points: points.collect(), ..series.clone() }
}

fn svg(chart: &Chart, series: &[Series], scale: Scale) -> String {
    let steps = || series.iter().flat_map(|series| &series.points).map(|point| point.0);
    let (first, last) = (steps().fold(f64::INFINITY, f64::min), steps().fold(f64::NEG_INFINITY, f64::max));
    let across = Axis::tight(first, last, TICKS_MAX);
    let drawn: Vec<Series> = series.iter().map(|series| thinned(series, POINTS_MAX)).collect();
    let values = drawn.iter().flat_map(|series| &series.points).map(|point| point.1);
    let up = Axis::around(values, scale, TICKS_MAX);
    let x = |step: f64| LEFT + across.place(step) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM);
    let class = if scale == Scale::Linear { "linear" } else { "log" };
    let mut svg = format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n<g>\n",
        escape(&format!("{} / {}", chart.title.en, chart.title.zh))
    );
    for (value, text) in up.ticks() {
        let (y, end) = (y(value), WIDTH - RIGHT);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\"/>"
        ));
        let (x, y) = (LEFT - 8.0, y + 4.0);
        svg.push_str(&format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{text}</text>\n"));
    }
    let foot = HEIGHT - BOTTOM;
    for (step, text) in across.ticks() {
        let (x, below, label) = (x(step), foot + 5.0, foot + 19.0);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{foot}\" x2=\"{x:.1}\" y2=\"{below}\"/>"
        ));
        svg.push_str(&format!("<text x=\"{x:.1}\" y=\"{label}\" text-anchor=\"middle\">{text}</text>\n"));
    }
    svg.push_str("</g>\n");
    for (series, colour) in drawn.iter().zip(COLOURS) {
        let place = |point: &Point| (x(point.0), y(point.1));
        svg.push_str(&curve(series, colour, &place));
    }
    svg.push_str("</svg>\n");
    svg
}

fn curve(series: &Series, colour: &str, place: &dyn Fn(&Point) -> Point) -> String {
    let line = |points: &[Point], class: &str| {
        let places = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}"));
        let places = places.collect::<Vec<_>>().join(" ");
        format!("<polyline class=\"curve{class}\" style=\"stroke:{colour}\" points=\"{places}\"/>\n")
    };
    match series.style {
        Style::Line => line(&series.points, ""),
        Style::Smoothed => {
            format!("{}{}", line(&series.points, " raw"), line(&smooth(&series.points), ""))
        }
        Style::Marked => {
            let mark = |point: &Point| {
                let (x, y) = place(point);
                let note = format!("{}: {:.4}", point.0, point.1);
                format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" style=\"fill:{colour}\"><title>{note}</title></circle>"
                )
            };
            let marks: String = series.points.iter().map(mark).collect();
            format!("{}{marks}\n", line(&series.points, ""))
        }
    }
}

/// An exponential mean whose weights sum to one from the first point on; it forgets over a fiftieth of the
/// points.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.5);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut smoothed = Vec::with_capacity(points.len());
    for &(step, value) in points {
        sum = keep * sum + value;
        weight = keep * weight + 1.0;
        smoothed.push((step, sum / weight));
    }
    smoothed
}

/// At most `points_max` points, each the mean of a group.
fn thinned(series: &Series, points_max: usize) -> Series {
    let group = series.points.len().div_ceil(points_max).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    Series { points: series.points.chunks(group).map(mean).collect(), ..series.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: Label::same("t"),
            unit: Label::same(""),
            series: vec![Series::smoothed(Label::same("s"), points)],
        }
    }

    #[test]
    fn a_logarithmic_axis_is_offered_only_where_it_exists() {
        let cases = [
            (vec![(0.0, 1.0), (1.0, 2.0)], 2, true),
            (vec![(0.0, 0.0), (1.0, 2.0)], 1, false),
            (vec![(0.0, f64::INFINITY), (1.0, 2.0)], 2, true),
            (vec![(0.0, f64::NAN)], 0, false),
            (vec![], 0, false),
        ];
        for (points, drawings, switch) in cases {
            let html = html(&chart(points.clone()), 1);
            assert_eq!(html.matches("<svg").count(), drawings, "{points:?}");
            assert_eq!(html.contains("checkbox"), switch, "{points:?}");
            assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        }
    }

    #[test]
    fn every_point_lies_inside_the_frame() {
        let points: Vec<_> =
            (0..5_000).map(|step| (step as f64, 1.0 + (step as f64 * 0.7).sin().abs() * 9.0)).collect();
        let html = html(&chart(points), 1);
        let mut seen = 0;
        for list in html.split("points=\"").skip(1) {
            for pair in list.split('"').next().unwrap_or_default().split(' ') {
                let (x, y) = pair.split_once(',').expect("a pair");
                let (x, y): (f64, f64) = (x.parse().expect("a number"), y.parse().expect("a number"));
                assert!(
                    (LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                    "{x},{y}"
                );
                seen += 1;
            }
        }
        assert_eq!(seen, 4 * 1_000, "two lines of a thousand groups of five, twice");
    }

    #[test]
    fn smoothing_keeps_a_constant_and_begins_at_the_first_value() {
        let level: Vec<_> = (0..200).map(|step| (step as f64, 3.0)).collect();
        assert!(smooth(&level).iter().all(|point| (point.1 - 3.0).abs() < 1e-12));
        assert_eq!(smooth(&[(0.0, 8.0), (1.0, 2.0)])[0], (0.0, 8.0));
    }
}
