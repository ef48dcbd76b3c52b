//! `taoye plan train`.

use super::{catalog, model, parsed, positive, precision, show};
use crate::cli::{MethodFlag, PlanTrain, RecomputeFlag, StageFlag};
use crate::context::{Context, put};
use anyhow::{Context as _, Result, bail};
use plan::advice;
use plan::calibration::Calibration;
use plan::report;
use plan::split::Wanted;
use plan::step::Recompute;
use plan::train::{Method, Plan, Raw, Request, Speed, Stage};
use plan::units;
use serde_json::{Value, json};
use std::fmt::Write;

/// Plans and prints.
///
/// # Errors
/// When a flag cannot be read or the request cannot be met.
pub fn run(context: &Context, flags: &PlanTrain) -> Result<()> {
    let request = request(flags)?;
    let calibration = Calibration::shipped();
    let result = plan::train::plan(&request, &calibration)?;
    let quantities = report::training(&result);
    let advice = advice::training(&result, &calibration)?;
    if let Some(path) = &flags.show.html {
        show::write_page(context, path, &plan::html::training(&request, &result, &calibration))?;
    }
    if let (Some(key), false) = (&flags.show.explain, context.json) {
        put(&show::explained(&quantities, key)?);
        return Ok(());
    }
    let mut json = show::object(&quantities);
    json.insert("model".into(), json!(result.model.name));
    json.insert("chip".into(), json!(result.chip.name));
    json.insert("precision".into(), json!(result.precision.name()));
    json.insert("sequence_tokens".into(), json!(result.sequence));
    json.insert("batch_sequences".into(), json!(result.found.batch));
    json.insert("days_without_failures".into(), json!(result.busy_seconds / plan::train::DAY));
    json.insert("split".into(), split_json(&result));
    json.insert("step_parts".into(), step_json(&result));
    json.insert("memory_parts".into(), memory_json(&result));
    json.insert("advice".into(), show::advice_json(&advice));
    json.insert("assumptions".into(), show::assumptions_json(&result.assumptions));
    if let Some(key) = &flags.show.explain {
        show::explained(&quantities, key)?;
        json.insert("formulas".into(), show::formulas(&quantities));
    }
    let text = [
        show::numbers(&quantities),
        format!("Split: {}", report::split_words(&result)),
        step_text(&result),
        memory_text(&result),
        show::advice(&advice),
        show::assumptions(&result.assumptions),
    ];
    context.print(&text.join("\n\n"), &Value::Object(json));
    Ok(())
}

fn request(flags: &PlanTrain) -> Result<Request> {
    let chip = catalog(flags.show.catalog.as_deref())?.chip(&flags.chip).context("--chip")?.clone();
    let count = |noun: &'static str| move |text: &str| units::count(text, noun);
    let raw = parsed("--raw", flags.raw.as_ref(), units::bytes)?.map(|bytes| Raw {
        bytes,
        kept: flags.kept,
        bytes_per_token: flags.bytes_per_token,
    });
    positive("--bytes-per-token", flags.bytes_per_token)?;
    let speed = match (flags.tflops_per_chip, flags.mfu) {
        (Some(tflops), _) => {
            Speed::PerChip(positive("--tflops-per-chip", Some(tflops))?.unwrap_or(tflops) * 1e12)
        }
        (None, Some(share)) => Speed::Share(share),
        (None, None) => Speed::Predicted,
    };
    Ok(Request {
        model: flags.model.as_deref().map(model).transpose()?,
        tokens: parsed("--tokens", flags.tokens.as_ref(), count("tokens"))?,
        raw,
        chips: whole("--chips", parsed("--chips", flags.chips.as_ref(), count("chips"))?)?,
        deadline: parsed("--days", flags.days.as_ref(), units::seconds)?,
        speed,
        sequence: whole("--seq-len", parsed("--seq-len", flags.seq_len.as_ref(), count("tokens"))?)?,
        batch: whole(
            "--global-batch",
            parsed("--global-batch", flags.global_batch.as_ref(), count("sequences"))?,
        )?,
        wanted: wanted(flags)?,
        precision: flags.precision.as_deref().map(|name| precision("--precision", name)).transpose()?,
        method: method(flags)?,
        stage: stage(flags)?,
        price: positive("--price", flags.price)?,
        chip_hours_between_failures: positive("--chip-mtbf", flags.chip_mtbf)?,
        restart_seconds: parsed("--restart", flags.restart.as_ref(), units::short_seconds)?,
        storage_bytes_per_second: parsed("--storage", flags.storage.as_ref(), units::bytes)?,
        ..Request::new(chip)
    })
}

fn whole(flag: &str, value: Option<f64>) -> Result<Option<f64>> {
    match value {
        Some(value) if value.fract() != 0.0 => bail!("{flag}: {value} is not a whole number"),
        value => Ok(value),
    }
}

fn wanted(flags: &PlanTrain) -> Result<Wanted> {
    let ways = |flag: &str, value: Option<u32>| match value {
        Some(0) => bail!("{flag}: 0 ways; at least 1"),
        value => Ok(value.map(f64::from)),
    };
    let recompute = flags.recompute.map(|flag| match flag {
        RecomputeFlag::None => Recompute::None,
        RecomputeFlag::Selective => Recompute::Selective,
        RecomputeFlag::Alternate => Recompute::Alternate,
        RecomputeFlag::Full => Recompute::Full,
    });
    Ok(Wanted {
        dp: ways("--dp", flags.dp)?,
        tp: ways("--tp", flags.tp)?,
        pp: ways("--pp", flags.pp)?,
        ep: ways("--ep", flags.ep)?,
        cp: ways("--cp", flags.cp)?,
        micro_batch: ways("--micro-batch", flags.micro_batch)?,
        recompute,
        zero: flags.zero,
    })
}

fn method(flags: &PlanTrain) -> Result<Method> {
    let rank = f64::from(flags.rank);
    if flags.rank == 0 {
        bail!("--rank: 0; at least 1");
    }
    if !(1..=16).contains(&flags.bits) {
        bail!("--bits: {}; from 1 to 16", flags.bits);
    }
    Ok(match flags.method {
        MethodFlag::Full => Method::Full,
        MethodFlag::Pure16 => Method::Pure16,
        MethodFlag::Lora => Method::Lora(rank),
        MethodFlag::Qlora => Method::Qlora { rank, bits: f64::from(flags.bits) },
    })
}

fn stage(flags: &PlanTrain) -> Result<Stage> {
    Ok(match flags.stage {
        StageFlag::Pretrain => Stage::Pretrain,
        StageFlag::Finetune => Stage::FineTune,
        StageFlag::Preference => Stage::Preference,
        StageFlag::Reinforce if (0.0..=1.0).contains(&flags.generated) => {
            Stage::Reinforce { generated: flags.generated }
        }
        StageFlag::Reinforce => bail!("--generated: {}; from 0 to 1", flags.generated),
    })
}

fn step_text(result: &Plan) -> String {
    let step = &result.found.step;
    let title = match result.speed {
        Speed::Predicted => "A step, part by part:",
        _ => "A step as predicted (the speed was given, so days do not follow from this):",
    };
    let mut text = title.to_owned();
    for part in step.parts.iter().filter(|part| part.seconds > 0.0) {
        let share = 100.0 * part.seconds / step.seconds();
        let seconds = units::show_seconds(part.seconds);
        let _ = write!(
            text,
            "\n  {:<32} {seconds:>9} {share:5.1} %  bound by {}",
            part.name,
            advice::limit(part)
        );
    }
    text
}

fn memory_text(result: &Plan) -> String {
    let mut text = String::from("Memory of the fullest chip:");
    for part in result.found.footprint.parts.iter().filter(|part| part.bytes > 0.0) {
        let _ = write!(text, "\n  {:<32} {:>9}", part.name, units::show_bytes(part.bytes));
    }
    text
}

fn split_json(result: &Plan) -> Value {
    let (found, split) = (&result.found, &result.found.split);
    let pieces = match split.schedule {
        plan::step::Schedule::Interleaved(pieces) => pieces,
        _ => 1.0,
    };
    json!({
        "dp": split.dp, "tp": split.tp, "pp": split.pp, "ep": split.ep, "cp": split.cp, "zero": split.zero,
        "chunks": pieces, "micro_batch": found.micro_batch, "recompute": found.recompute.name(),
    })
}

fn step_json(result: &Plan) -> Value {
    let part = |part: &plan::step::Part| json!({ "name": part.name, "seconds": part.seconds, "limit": advice::limit(part), "formula": part.formula });
    result.found.step.parts.iter().map(part).collect()
}

fn memory_json(result: &Plan) -> Value {
    let part = |part: &plan::footprint::Part| json!({ "name": part.name, "bytes": part.bytes, "formula": part.formula });
    result.found.footprint.parts.iter().map(part).collect()
}
