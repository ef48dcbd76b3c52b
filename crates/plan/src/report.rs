//! Plans as numbers that can be asked for their formula and source: what the terminal, JSON and HTML show.
//!
//! It must not compute anything that a plan does not hold.

use crate::footprint::FILLED_MAX;
use crate::serve;
use crate::step::{Recompute, Schedule};
use crate::train::{PUE, Plan, Speed};
use crate::units::{grouped, show_bytes, show_count, show_seconds, three};

/// A number of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// Its name in Chinese.
    pub label_zh: &'static str,
    /// The value, in the unit that the key says; none where a figure that it needs is not published.
    pub value: Option<f64>,
    /// The value for people.
    pub shown: String,
    /// How it is computed, with the numbers put in where that helps.
    pub formula: String,
    /// Where the formula or the figure is from.
    pub source: String,
}

fn quantity(
    key: &'static str,
    (label, label_zh): (&'static str, &'static str),
    value: impl Into<Option<f64>>,
    shown: impl Fn(f64) -> String,
    (formula, source): (String, &str),
) -> Quantity {
    let value = value.into();
    let unknown = if key.starts_with("money") { "not known: give --price" } else { "not known" };
    let shown = value.map_or_else(|| unknown.to_owned(), shown);
    Quantity { key, label, label_zh, value, shown, formula, source: source.to_owned() }
}

/// The numbers of a training plan, most important first.
pub fn training(plan: &Plan) -> Vec<Quantity> {
    let mut all = demand(plan);
    all.extend(arithmetic(plan));
    all.extend(speed(plan));
    all.extend(shares(plan));
    all.extend(machine(plan));
    all
}

fn demand(plan: &Plan) -> Vec<Quantity> {
    let count = |value: f64| show_count(value);
    let model = &plan.model;
    vec![
        quantity(
            "days",
            ("days", "天数"),
            plan.days(),
            |v| format!("{} days", three(v)),
            (
                format!(
                    "{} of training / goodput {}",
                    show_seconds(plan.busy_seconds),
                    three(plan.course.goodput)
                ),
                "steps · step_seconds, lengthened by failures and checkpoints",
            ),
        ),
        quantity(
            "chips",
            ("chips", "芯片数"),
            plan.chips,
            |v| format!("{} × {}", grouped(v), plan.chip.title),
            ("given, or the fewest that meet the deadline".to_owned(), "whole nodes"),
        ),
        quantity(
            "chip_hours",
            ("chip hours", "芯片小时"),
            plan.chip_hours(),
            count,
            ("chips · days · 24".to_owned(), "failures counted"),
        ),
        quantity(
            "parameters",
            ("parameters", "参数量"),
            model.parameters(),
            count,
            (
                format!(
                    "{} layers of width {}, {} heads, ffn {}, vocabulary {}",
                    model.layers, model.hidden, model.heads, model.ffn, model.vocabulary
                ),
                &model.source,
            ),
        ),
        quantity(
            "active_parameters",
            ("active parameters", "激活参数量"),
            model.active_parameters(),
            count,
            ("all but the experts that a token does not go to".to_owned(), &model.source),
        ),
    ]
}

fn arithmetic(plan: &Plan) -> Vec<Quantity> {
    let count = |value: f64| show_count(value);
    vec![
        quantity(
            "tokens",
            ("tokens", "词元数"),
            plan.tokens,
            count,
            ("given, or raw bytes · kept share / bytes a token, or what the time allows".to_owned(), ""),
        ),
        quantity(
            "flops_total",
            ("model FLOPs", "模型运算量"),
            plan.model_flops,
            |v| format!("{v:.3e}"),
            (
                "(6 · parameters of products + 6 · layers · (query + value width) · sequence) · tokens"
                    .to_owned(),
                "Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022 (PaLM), appendix B",
            ),
        ),
        quantity(
            "flops_hardware",
            ("FLOPs with recomputation", "含重算的运算量"),
            plan.hardware_flops,
            |v| format!("{v:.3e}"),
            (
                "model FLOPs and the forward pass of what is computed again".to_owned(),
                "Narayanan et al. 2021, equation 3",
            ),
        ),
    ]
}

fn speed(plan: &Plan) -> Vec<Quantity> {
    let from = match plan.speed {
        Speed::Predicted => "predicted: the sum of the step's parts",
        Speed::PerChip(_) => "from the speed given: hardware FLOPs of a step / (chips · speed)",
        Speed::Share(_) => "from the share of the peak given: model FLOPs of a step / (chips · peak · share)",
    };
    vec![
        quantity(
            "step_seconds",
            ("seconds of a step", "每步秒数"),
            plan.step_seconds,
            show_seconds,
            (from.to_owned(), "`taoye plan proof` shows how far such predictions are from published runs"),
        ),
        quantity(
            "steps",
            ("steps", "步数"),
            plan.steps,
            grouped,
            (format!("tokens / ({} sequences · {} tokens)", plan.found.batch, plan.sequence), ""),
        ),
        quantity(
            "tokens_per_second",
            ("tokens a second", "每秒词元数"),
            plan.tokens / plan.busy_seconds,
            show_count,
            ("tokens / training time without failures".to_owned(), ""),
        ),
    ]
}

fn shares(plan: &Plan) -> Vec<Quantity> {
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    vec![
        quantity(
            "mfu",
            ("share of peak (MFU)", "模型算力利用率 (MFU)"),
            plan.mfu(),
            percent,
            (
                format!(
                    "model FLOPs a second and chip / {} peak of {} TFLOP/s",
                    plan.precision.name(),
                    three(plan.peak / 1e12)
                ),
                "Chowdhery et al. 2022 (PaLM), section 4.1",
            ),
        ),
        quantity(
            "hfu",
            ("with recomputation (HFU)", "硬件算力利用率 (HFU)"),
            plan.hfu(),
            percent,
            (
                "FLOPs with recomputation a second and chip / peak".to_owned(),
                "Chowdhery et al. 2022 (PaLM), section 4.1",
            ),
        ),
        quantity(
            "tflops_per_chip",
            ("TFLOP/s a chip", "每芯片 TFLOP/s"),
            plan.hardware_tflops_per_chip(),
            three,
            (
                "FLOPs with recomputation / (chips · training time)".to_owned(),
                "Narayanan et al. 2021, section 5.1",
            ),
        ),
        quantity(
            "model_tflops_per_chip",
            ("model TFLOP/s a chip", "每芯片模型 TFLOP/s"),
            plan.model_tflops_per_chip(),
            three,
            ("model FLOPs / (chips · training time)".to_owned(), ""),
        ),
        quantity(
            "rollout_share",
            ("share of rollouts", "采样时间占比"),
            plan.rollout_seconds / plan.busy_seconds,
            percent,
            (
                "generated tokens / tokens a second by the serving roofline, over all".to_owned(),
                "Pope et al. 2022, arXiv:2211.05102, section 2",
            ),
        ),
    ]
}

fn machine(plan: &Plan) -> Vec<Quantity> {
    let memory = plan.chip.memory.value().map(|gb| plan.found.footprint.bytes() / (gb * 1e9));
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    let course = &plan.course;
    vec![
        quantity("memory_bytes_per_chip", ("memory of a chip", "每芯片内存"), plan.found.footprint.bytes(), |v| {
            format!("{} ({} of the chip's)", show_bytes(v), memory.map_or_else(String::new, percent))
        }, (
            format!("the sum of the parts on the fullest chip; at most {:.0} % of it is filled", 100.0 * FILLED_MAX),
            "Korthikanti et al. 2022, sections 4 and 5; Rajbhandari et al. 2020 (ZeRO)",
        )),
        quantity("goodput", ("goodput", "有效训练占比"), course.goodput, percent, (
            format!("Daly's expected time: a failure every {}, a checkpoint of {} every {}", show_seconds(course.seconds_between_failures), show_seconds(course.checkpoint_seconds), show_seconds(course.interval_seconds)),
            "Daly 2006, equation 20",
        )),
        quantity("failures", ("failures to expect", "预计故障数"), plan.failures(), three, (
            "days / time between failures of the cluster".to_owned(),
            "failures independent, in proportion to chips",
        )),
        quantity("checkpoint_interval_seconds", ("checkpoint every", "检查点间隔"), course.interval_seconds, show_seconds, (
            "√(2 · seconds of a checkpoint · seconds between failures), no sooner than the last is written".to_owned(),
            "Young 1974",
        )),
        quantity("energy_kwh", ("energy", "能耗"), plan.energy_kwh(), |v| format!("{} MWh", three(v / 1000.0)), (
            format!("chip hours · {} W · {PUE}", plan.chip.power.value().map_or_else(|| "?".to_owned(), three)),
            plan.chip.power.source(),
        )),
        quantity("money_usd", ("money", "费用"), plan.money(), |v| format!("{} US dollars", grouped(v)), (
            match plan.price {
                Some(price) => format!("chip hours · {price} US dollars"),
                None => "chip hours · price; no price is known: --price".to_owned(),
            },
            "what is paid for a chip and hour",
        )),
    ]
}

/// The split in words.
pub fn split_words(plan: &Plan) -> String {
    let found = &plan.found;
    let split = &found.split;
    let schedule = match split.schedule {
        Schedule::Interleaved(pieces) if pieces > 1.0 => format!(" in {pieces} chunks"),
        _ => String::new(),
    };
    let mut words = vec![format!("{}-way data", split.dp)];
    for (ways, name) in [(split.tp, "tensor"), (split.cp, "context"), (split.ep, "expert")] {
        if ways > 1.0 {
            words.push(format!("{ways}-way {name}"));
        }
    }
    if split.pp > 1.0 {
        words.push(format!("{} pipeline stages{schedule}", split.pp));
    }
    words.push(match split.zero {
        0 => "nothing sharded".to_owned(),
        1 => "optimiser state sharded".to_owned(),
        2 => "optimiser state and gradients sharded".to_owned(),
        _ => "weights, gradients and optimiser state sharded".to_owned(),
    });
    words.push(format!("micro-batches of {}", found.micro_batch));
    words.push(match found.recompute {
        Recompute::None => "nothing recomputed".to_owned(),
        Recompute::Selective => "attention recomputed".to_owned(),
        Recompute::Alternate => "every second layer recomputed".to_owned(),
        Recompute::Full => "all layers recomputed".to_owned(),
    });
    words.join(", ")
}

/// The numbers of a serving plan.
pub fn serving(plan: &serve::Plan) -> Vec<Quantity> {
    let request = &plan.request;
    let roofline = "Williams et al. 2009; Pope et al. 2022, arXiv:2211.05102, section 2";
    vec![
        quantity("chips", ("chips", "芯片数"), plan.chips(), |v| {
            let groups = if plan.groups == 1.0 { "group" } else { "groups" };
            format!("{} × {} ({} {groups} of {})", grouped(v), request.chip.title, plan.groups, plan.group)
        }, ("of the groups that hold the model and meet the latency, those that serve the wanted concurrency with the fewest chips, else the smallest with three quarters of the most tokens a second and chip".to_owned(), "")),
        quantity("tokens_per_second", ("tokens a second", "每秒词元数"), plan.tokens_per_second * plan.groups, show_count, (
            "sequences at once / seconds of a step, all groups".to_owned(),
            roofline,
        )),
        quantity("tokens_per_second_per_chip", ("tokens a second and chip", "每芯片每秒词元数"), plan.tokens_per_second / plan.group, show_count, (
            "tokens a second of a group / its chips".to_owned(),
            roofline,
        )),
        quantity("step_seconds", ("seconds a token", "每词元秒数"), plan.step_seconds, show_seconds, (
            format!("max(weights {} + keys and values {}, arithmetic {}) + links {}", show_seconds(plan.weights_seconds), show_seconds(plan.cache_seconds), show_seconds(plan.arithmetic_seconds), show_seconds(plan.link_seconds)),
            roofline,
        )),
        quantity("first_token_seconds", ("first token after", "首词元时间"), plan.first_token_seconds, show_seconds, (
            "prompt tokens / prompt tokens a second".to_owned(),
            "a prompt that waits for nobody; arithmetic binds",
        )),
        quantity("prompt_tokens_per_second", ("prompt tokens a second", "每秒提示词元数"), plan.prompt_tokens_per_second * plan.groups, show_count, (
            "1 / (operations of a prompt token / speed + links), all groups, nothing else running".to_owned(),
            roofline,
        )),
        quantity("concurrency", ("sequences at once", "并发序列数"), plan.concurrency * plan.groups, grouped, (
            "what memory and latency allow, all groups".to_owned(),
            "",
        )),
        quantity("weight_bytes", ("weights", "权重"), plan.weight_bytes, show_bytes, (
            format!("parameters · {} / 8", request.weight_bits),
            &request.model.source,
        )),
        quantity("cache_bytes_per_token", ("keys and values of a token", "每词元 KV"), plan.cache_bytes_per_token, show_bytes, (
            format!("layers · {} elements · {} bytes", request.model.cache_width(), request.cache.bytes()),
            &request.model.source,
        )),
        quantity("memory_bytes_per_chip", ("memory of a chip", "每芯片内存"), plan.used_bytes / plan.group, show_bytes, (
            "(weights + sequences at once · context · keys and values) / group + 1.5 GB".to_owned(),
            "",
        )),
        quantity("money_usd_per_million_tokens", ("money for a million tokens", "每百万词元费用"), plan.money_per_million(), |v| format!("{} US dollars", three(v)), (
            "price · chips of a group / tokens an hour · 10⁶, all chips busy".to_owned(),
            if plan.price.is_some() { "price given or in the catalogue" } else { "no price is known: --price" },
        )),
    ]
}
