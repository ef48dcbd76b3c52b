//! Which keywords of JSON Schema are enforced. What a schema says beside them is refused by name and place.

use serde_json::{Map, Value, json};

/// Keywords that say nothing about which documents are valid.
pub(crate) const ANNOTATIONS: [&str; 13] = [
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "strict",
];

/// Keywords that are enforced and hold no schemas.
const VALUES: [&str; 16] = [
    "$ref",
    "const",
    "enum",
    "type",
    "minItems",
    "maxItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "multipleOf",
];

/// As [`VALUES`]: numbers since draft 6; what they mean as booleans of draft 4 is not enforced.
const BOUNDS: [&str; 2] = ["exclusiveMinimum", "exclusiveMaximum"];

/// Keywords that hold one schema, a list of schemas, or named schemas.
const SCHEMAS: [&str; 3] = ["items", "additionalItems", "additionalProperties"];
const LISTS: [&str; 5] = ["anyOf", "oneOf", "allOf", "prefixItems", "items"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Beyond this a number is not exact where grammars are made of it.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The highest and lowest 64-bit integers that the grammar tells from their neighbours beyond.
const INT64: (f64, f64) = (-9_223_372_036_854_775_808.0, 9_223_372_036_854_774_784.0);

/// The schema with what its formats mean written out, where every keyword is one that is enforced.
///
/// # Errors
/// The first that is not, and where it stands.
pub fn enforceable(schema: &Value) -> Result<Value, String> {
    rewritten("#", schema)
}

fn rewritten(place: &str, schema: &Value) -> Result<Value, String> {
    let keywords = match schema {
        Value::Object(keywords) => keywords,
        Value::Bool(true) => return Ok(schema.clone()),
        Value::Bool(false) if place != "#" => return Ok(schema.clone()),
        _ => return Err(format!("the schema at {place} is no object")),
    };
    let refused = |keyword: &str| format!("the schema's keyword `{keyword}` at {place} cannot be enforced");
    let mut out = Map::new();
    for (keyword, value) in keywords {
        let at = format!("{place}/{keyword}");
        let keyword = keyword.as_str();
        let value = match value {
            Value::Object(named) if NAMED.contains(&keyword) => {
                let inner = named
                    .iter()
                    .map(|(name, schema)| Ok((name.clone(), rewritten(&format!("{at}/{name}"), schema)?)));
                Value::Object(inner.collect::<Result<_, String>>()?)
            }
            Value::Array(list) if LISTS.contains(&keyword) => {
                let inner = list.iter().enumerate();
                let inner = inner.map(|(index, schema)| rewritten(&format!("{at}/{index}"), schema));
                Value::Array(inner.collect::<Result<_, String>>()?)
            }
            Value::Bool(_) | Value::Object(_) if SCHEMAS.contains(&keyword) => rewritten(&at, value)?,
            Value::Number(_) if BOUNDS.contains(&keyword) => value.clone(),
            _ if VALUES.contains(&keyword) || ANNOTATIONS.contains(&keyword) => value.clone(),
            _ => return Err(refused(keyword)),
        };
        out.insert(keyword.to_owned(), value);
    }
    if let Some(keyword) = unenforceable(place, keywords) {
        return Err(refused(keyword));
    }
    write_format_out(&mut out);
    Ok(out.into())
}

/// A keyword that is enforced elsewhere, but not in this company.
fn unenforceable(place: &str, keywords: &Map<String, Value>) -> Option<&'static str> {
    let text = |name: &str| keywords.get(name).and_then(Value::as_str);
    // A schema of another base or draft in the middle would change what its references mean.
    if place != "#" {
        let changes = ["$schema", "$id", "id"].into_iter().find(|name| text(name).is_some());
        if changes.is_some() {
            return changes;
        }
    }
    let old_drafts = ["draft-03", "draft-04", "draft-06", "draft-07", "2019-09"];
    if text("$schema").is_some_and(|draft| old_drafts.iter().any(|old| draft.contains(old)))
        && keywords.contains_key("prefixItems")
    {
        return Some("prefixItems");
    }
    if let Some(inexact) =
        ["const", "enum"].into_iter().find(|name| keywords.get(*name).is_some_and(is_inexact))
    {
        return Some(inexact);
    }
    // Names that the model makes up may be alike, and then count once.
    let required = keywords.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    let closed = keywords.get("additionalProperties") == Some(&Value::Bool(false))
        && !keywords.contains_key("patternProperties");
    let fewest = keywords.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    (fewest > required + 1 && !closed).then_some("minProperties")
}

/// Whether a value holds a whole number that is not exact as a float.
fn is_inexact(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            !number.is_f64() && number.as_f64().is_none_or(|float| float.abs() > EXACT_MAX)
        }
        Value::Array(items) => items.iter().any(is_inexact),
        Value::Object(fields) => fields.values().any(is_inexact),
        _ => false,
    }
}

/// Puts keywords that are enforced beside formats of texts of which the grammar knows a part alone (lengths of months depend on
/// years, parts of names have lengths), and in the place of those of numbers (OpenAPI's).
fn write_format_out(keywords: &mut Map<String, Value>) {
    const DAY: &str = "^(?:[0-9]{4}-(?:0[13-9]|1[0-2])|[0-9]{4}-02-(?:0|1|2[0-8])\
        |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";
    const MAILBOX: &str = r"^[^@]{1,64}@([^.@]{1,63}\.)*[^.@]{1,63}$";
    let Some(format) = keywords.get("format").and_then(Value::as_str) else { return };
    let numeric = match keywords.get("type") {
        Some(Value::String(kind)) => kind == "integer" || kind == "number",
        Some(Value::Array(kinds)) => kinds.iter().all(|kind| kind != "string"),
        _ => false,
    };
    let more = match (format, numeric) {
        // No seconds beyond 59: whether a leap second was inserted is not for a pattern to say.
        ("date", false) => json!({"pattern": DAY}),
        ("date-time", false) => {
            json!({"allOf": [{"pattern": DAY}, {"pattern": "[tT][0-9]{2}:[0-9]{2}:[0-5]"}]})
        }
        ("time", false) => json!({"pattern": "^[0-9]{2}:[0-9]{2}:[0-5]"}),
        // RFC 5321, section 4.5.3.1, and RFC 1035, section 2.3.4.
        ("email", false) => json!({"pattern": MAILBOX, "maxLength": 254}),
        ("hostname", false) => json!({"maxLength": 253}),
        ("int32", true) => json!({"minimum": i32::MIN, "maximum": i32::MAX}),
        ("uint32", true) => json!({"minimum": 0, "maximum": u32::MAX}),
        ("int64", true) => json!({"minimum": INT64.0, "maximum": INT64.1}),
        ("float" | "double", true) => json!({}),
        _ => return,
    };
    if numeric {
        keywords.remove("format");
    }
    let all = keywords.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.push(more);
    }
}
