//! A training or serving plan as a page: numbers, assumptions, and pictures of the step's time, the memory, cost against days
//! and what the result hangs on. It must not write files.

use crate::advice::{self, Advice};
use crate::calibration::Calibration;
use crate::picture::{Bar, Section, Swing, bars, curve, page, table, tornado};
use crate::report::{Quantity, serving as serving_quantities, split_words, training as training_quantities};
use crate::serve;
use crate::train::{Assumption, Plan, Request, Speed, plan};
use crate::units::{grouped, show_bytes, show_count, show_seconds, three};

/// Multiples of the plan's chips that the curve shows.
const CLUSTERS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// A training plan's page.
pub fn training(request: &Request, result: &Plan, calibration: &Calibration) -> String {
    let step = &result.found.step;
    let time = step.parts.iter().filter(|part| part.seconds > 0.0).map(|part| Bar {
        name: part.name.to_owned(),
        value: part.seconds,
        shown: format!("{} ({:.1} %)", show_seconds(part.seconds), 100.0 * part.seconds / step.seconds()),
    });
    let memory = result.found.footprint.parts.iter().filter(|part| part.bytes > 0.0).map(|part| Bar {
        name: part.name.to_owned(),
        value: part.bytes,
        shown: show_bytes(part.bytes),
    });
    let advice = advice::training(result, calibration).unwrap_or_default();
    let split = format!("<p>{}</p>", crate::picture::escape(&split_words(result)));
    let sections = [
        Section { heading: "Result · 结果".to_owned(), html: numbers(&training_quantities(result)) },
        Section { heading: "Split · 并行切分".to_owned(), html: split },
        Section {
            heading: "Time of a step · 每步时间".to_owned(), html: bars(&time.collect::<Vec<_>>())
        },
        Section {
            heading: "Memory of the fullest chip · 最满芯片的内存".to_owned(),
            html: bars(&memory.collect::<Vec<_>>()),
        },
        Section {
            heading: "Cost against days · 费用与天数".to_owned(),
            html: clusters(request, result, calibration),
        },
        Section {
            heading: "What the days hang on · 天数的敏感度".to_owned(),
            html: sensitivity(request, result, calibration),
        },
        Section { heading: "What would make it faster · 优化收益".to_owned(), html: ranked(&advice) },
        Section { heading: "Assumptions · 假设".to_owned(), html: assumed(&result.assumptions) },
    ];
    page(&format!("taoye plan train: {} on {}", result.model.name, result.chip.title), &sections)
}

/// A serving plan's page.
pub fn serving(result: &serve::Plan, calibration: &Calibration) -> String {
    let parts = [
        ("reading weights", result.weights_seconds),
        ("reading keys and values", result.cache_seconds),
        ("arithmetic (beside the reading)", result.arithmetic_seconds),
        ("links", result.link_seconds),
    ];
    let time = parts.map(|(name, value)| Bar { name: name.to_owned(), value, shown: show_seconds(value) });
    let held = result.concurrency * result.request.context * result.cache_bytes_per_token;
    let memory = [("weights", result.weight_bytes), ("keys and values", held)];
    let memory = memory.map(|(name, value)| Bar { name: name.to_owned(), value, shown: show_bytes(value) });
    let sections = [
        Section { heading: "Result · 结果".to_owned(), html: numbers(&serving_quantities(result)) },
        Section { heading: "Time of a token · 每词元时间".to_owned(), html: bars(&time) },
        Section { heading: "Memory of a group · 每组内存".to_owned(), html: bars(&memory) },
        Section {
            heading: "What would make it faster · 优化收益".to_owned(),
            html: ranked(&advice::serving(result, calibration)),
        },
    ];
    page(
        &format!("taoye plan serve: {} on {}", result.request.model.name, result.request.chip.title),
        &sections,
    )
}

fn numbers(quantities: &[Quantity]) -> String {
    let head = ["", "", "", "formula · 公式", "source · 来源"].map(str::to_owned).to_vec();
    let rows = quantities.iter().map(|quantity| {
        vec![
            quantity.label.to_owned(),
            quantity.label_zh.to_owned(),
            quantity.shown.clone(),
            quantity.formula.clone(),
            quantity.source.clone(),
        ]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn assumed(assumptions: &[Assumption]) -> String {
    let head = ["assumed · 假设", "why, or how to say otherwise · 依据"].map(str::to_owned).to_vec();
    let rows = assumptions.iter().map(|assumption| vec![assumption.text.clone(), assumption.source.clone()]);
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn ranked(advice: &[Advice]) -> String {
    let head = ["optimisation · 优化", "gain · 收益", ""].map(str::to_owned).to_vec();
    let rows = advice.iter().map(|advice| {
        let state = match (advice.is_there, advice.fits) {
            (true, _) => "in the plan · 已采用",
            (false, true) => "",
            (false, false) => "does not fit · 内存不足",
        };
        vec![advice.name.clone(), format!("{:+.1} %", 100.0 * advice.gain), state.to_owned()]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// The same training on fewer and more chips: days against money, or against chip hours where no price is known.
fn clusters(request: &Request, result: &Plan, calibration: &Calibration) -> String {
    let of = |factor: f64| {
        let chips = (result.chips * factor).round().max(1.0);
        plan(&free(request, result, chips), calibration).ok()
    };
    let points: Vec<_> = CLUSTERS
        .into_iter()
        .filter_map(of)
        .map(|plan| {
            let cost = plan.money().unwrap_or_else(|| plan.chip_hours());
            (plan.days(), cost, format!("{} chips", grouped(plan.chips)))
        })
        .collect();
    let cost = if result.money().is_some() { "US dollars · 美元" } else { "chip hours · 芯片小时" };
    let list: Vec<Vec<String>> =
        std::iter::once(vec!["chips".to_owned(), "days".to_owned(), cost.to_owned()])
            .chain(
                points.iter().map(|(days, cost, chips)| vec![chips.clone(), three(*days), show_count(*cost)]),
            )
            .collect();
    curve(&points, ("days · 天", cost)) + &table(&list)
}

/// The plan's own request on `chips`, its split free, with everything that was found put in.
fn free(request: &Request, result: &Plan, chips: f64) -> Request {
    Request {
        model: Some(result.model.clone()),
        tokens: Some(result.tokens),
        raw: None,
        chips: Some(chips),
        deadline: None,
        wanted: crate::split::Wanted { recompute: request.wanted.recompute, ..Default::default() },
        ..request.clone()
    }
}

/// Days when one input is a fifth lower or higher, the others as they are.
fn sensitivity(request: &Request, result: &Plan, calibration: &Calibration) -> String {
    let base = Request { wanted: request.wanted, ..free(request, result, result.chips) };
    let days = |request: Request, calibration: &Calibration| {
        plan(&request, calibration).map_or(f64::NAN, |plan| plan.days())
    };
    let mut swings = Vec::new();
    let mut add = |name: &str, low: f64, high: f64| {
        if low.is_finite() && high.is_finite() {
            swings.push(Swing { name: name.to_owned(), low, high });
        }
    };
    let tokens =
        |factor: f64| days(Request { tokens: Some(result.tokens * factor), ..base.clone() }, calibration);
    add("tokens ±20 %", tokens(0.8), tokens(1.2));
    let speed = |factor: f64| match request.speed {
        Speed::Predicted => {
            let mut changed = calibration.clone();
            let class = result.chip.class.clone();
            let share = calibration.products_of(&result.chip).0 * factor;
            changed.products.insert(class, share.min(1.0));
            days(base.clone(), &changed)
        }
        Speed::PerChip(speed) => {
            days(Request { speed: Speed::PerChip(speed * factor), ..base.clone() }, calibration)
        }
        Speed::Share(share) => {
            days(Request { speed: Speed::Share((share * factor).min(1.0)), ..base.clone() }, calibration)
        }
    };
    add("speed of products ±20 %", speed(1.2), speed(0.8));
    let network = |factor: f64| {
        let mut changed = calibration.clone();
        changed.network *= factor;
        changed.link *= factor;
        days(base.clone(), &changed)
    };
    add("links and network ±20 %", network(1.2), network(0.8));
    let failing = |factor: f64| {
        let hours =
            request.chip_hours_between_failures.unwrap_or(crate::reliability::CHIP_HOURS_BETWEEN_FAILURES);
        days(Request { chip_hours_between_failures: Some(hours * factor), ..base.clone() }, calibration)
    };
    add("time between failures, half and double", failing(2.0), failing(0.5));
    tornado(result.days(), &swings, |days| format!("{} d", three(days)))
}
