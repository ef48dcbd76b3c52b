//! `taoye plan serve`.

use super::{catalog, model, parsed, positive, precision, show};
use crate::cli::PlanServe;
use crate::context::{Context, put};
use anyhow::{Context as _, Result, bail};
use plan::advice;
use plan::calibration::Calibration;
use plan::report;
use plan::serve::Request;
use plan::train::Assumption;
use plan::units;
use serde_json::{Value, json};

/// Plans and prints.
///
/// # Errors
/// When a flag cannot be read or the request cannot be met.
pub fn run(context: &Context, flags: &PlanServe) -> Result<()> {
    let request = request(flags)?;
    let calibration = Calibration::shipped();
    let result = plan::serve::plan(&request, &calibration)?;
    let quantities = report::serving(&result);
    let advice = advice::serving(&result, &calibration);
    if let Some(path) = &flags.show.html {
        show::write_page(context, path, &plan::html::serving(&result, &calibration))?;
    }
    if let (Some(key), false) = (&flags.show.explain, context.json) {
        put(&show::explained(&quantities, key)?);
        return Ok(());
    }
    let assumptions = assumptions(&request, &calibration);
    let mut json = show::object(&quantities);
    json.insert("model".into(), json!(request.model.name));
    json.insert("chip".into(), json!(request.chip.name));
    json.insert("group".into(), json!(result.group));
    json.insert("limit".into(), json!(result.limit));
    json.insert("advice".into(), show::advice_json(&advice));
    json.insert("assumptions".into(), show::assumptions_json(&assumptions));
    if let Some(key) = &flags.show.explain {
        show::explained(&quantities, key)?;
        json.insert("formulas".into(), show::formulas(&quantities));
    }
    let text = [
        show::numbers(&quantities),
        format!("Decoding is bound by {}.", result.limit),
        show::advice(&advice),
        show::assumptions(&assumptions),
    ];
    context.print(&text.join("\n\n"), &Value::Object(json));
    Ok(())
}

fn request(flags: &PlanServe) -> Result<Request> {
    let chip = catalog(flags.show.catalog.as_deref())?.chip(&flags.chip).context("--chip")?.clone();
    let count = |noun: &'static str| move |text: &str| units::count(text, noun);
    let context = parsed("--context", Some(&flags.context), count("tokens"))?.unwrap_or(4_096.0);
    let prompt = parsed("--prompt", flags.prompt.as_ref(), count("tokens"))?;
    if let Some(prompt) = prompt.filter(|prompt| *prompt > context) {
        bail!("--prompt: {prompt} tokens are more than the context of {context}");
    }
    if !(1.0..=32.0).contains(&flags.weight_bits) {
        bail!("--weight-bits: {}; from 1 to 32", flags.weight_bits);
    }
    if flags.chips == Some(0) {
        bail!("--chips: 0; at least 1");
    }
    Ok(Request {
        context,
        prompt,
        concurrency: parsed("--concurrency", flags.concurrency.as_ref(), count("sequences"))?,
        latency: parsed("--latency", flags.latency.as_ref(), units::short_seconds)?,
        chips: flags.chips.map(f64::from),
        weight_bits: flags.weight_bits,
        cache: precision("--kv-type", &flags.kv_type)?,
        price: positive("--price", flags.price)?,
        ..Request::new(model(&flags.model)?, chip)
    })
}

fn assumptions(request: &Request, calibration: &Calibration) -> Vec<Assumption> {
    let say = |text: String, source: &str| Assumption { text, source: source.to_owned() };
    let mut all = vec![
        say(
            format!("reading reaches {:.0} % of the memory's bandwidth", 100.0 * calibration.memory),
            "data/calibration.toml",
        ),
        say(
            format!("products reach {:.0} % of the peak", 100.0 * calibration.products_of(&request.chip).0),
            "data/calibration.toml, from training runs",
        ),
        say("sequences are half-way through their answers".to_owned(), "their mean length over time"),
    ];
    if request.prompt.is_none() {
        all.push(say(
            format!("prompts of {} tokens", request.context / 2.0),
            "half of the context; --prompt",
        ));
    }
    if request.concurrency.is_none() {
        all.push(say("as many sequences at once as fit".to_owned(), "--concurrency"));
    }
    all
}
