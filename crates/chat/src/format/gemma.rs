//! The grammar of arguments as Gemma's models write them: bare keys, texts between quotes that are tokens of their own. Knows
//! neither calls nor how they are read.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::grammar::{Rules, Tool, quoted, regex};
use crate::structure::ANNOTATIONS;
use crate::{Error, Result};

/// Keywords that say nothing about which values are valid, or are looked up from elsewhere.
fn is_silent(keyword: &str) -> bool {
    ANNOTATIONS.contains(&keyword) || ["$defs", "definitions"].contains(&keyword)
}

/// Types of values that are written as in JSON.
const SCALARS: [&str; 4] = ["integer", "number", "boolean", "null"];

/// The arguments of a tool's call, braces included.
///
/// # Errors
/// The keyword of the schema that cannot be enforced in this way of writing.
pub(super) fn arguments(rules: &mut Rules<'_>, tool: &Tool, quote: &'static str) -> Result<String> {
    let mut writer = Writer { rules, tool, quote, names: 0, known: BTreeMap::new() };
    if tool.name.is_empty() || tool.name.contains(|sign: char| sign.is_whitespace() || sign == '{') {
        return writer.refused("the name of a tool with blank space or braces");
    }
    writer.value(&tool.schema, "#")
}

struct Writer<'a, 'b> {
    rules: &'a mut Rules<'b>,
    tool: &'a Tool,
    quote: &'static str,
    /// Rules that were named by number.
    names: usize,
    /// Rules of values that references name, and of those that anything may be.
    known: BTreeMap<String, String>,
}

impl Writer<'_, '_> {
    fn refused<T>(&self, what: &str) -> Result<T> {
        let why = "cannot be enforced in this model's way of writing calls";
        Err(Error::Structure(format!("the tool '{}': {what} {why}", self.tool.name)))
    }

    fn refused_keyword<T>(&self, keyword: &str, place: &str) -> Result<T> {
        self.refused(&format!("the schema's keyword `{keyword}` at {place}"))
    }

    /// A name for a rule of this tool.
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}_{}_{}", self.tool.index, self.names)
    }

    fn rule(&mut self, kind: &str, right: &str) -> String {
        let name = self.name(kind);
        self.rules.rule(&name, right)
    }

    /// A rule that is made once; it may refer to itself.
    fn once(&mut self, key: &str, make: impl FnOnce(&mut Self) -> Result<String>) -> Result<String> {
        if let Some(name) = self.known.get(key) {
            return Ok(name.clone());
        }
        let name = self.name("shared");
        self.known.insert(key.to_owned(), name.clone());
        let right = make(self)?;
        Ok(self.rules.rule(&name, &right))
    }

    fn value(&mut self, schema: &Value, place: &str) -> Result<String> {
        let keywords = match schema {
            Value::Bool(true) => return self.any(),
            Value::Object(keywords) => keywords,
            _ => return self.refused(&format!("the schema at {place}")),
        };
        let only = |writer: &Self, known: &[&str]| {
            let other =
                keywords.keys().map(String::as_str).find(|name| !known.contains(name) && !is_silent(name));
            other.map_or(Ok(()), |keyword| writer.refused_keyword(keyword, place))
        };
        if let Some(to) = keywords.get("$ref").and_then(Value::as_str) {
            only(self, &["$ref"])?;
            return self.reference(to, place);
        }
        if let Some(choices) = keywords.get("enum").and_then(Value::as_array) {
            only(self, &["enum", "type"])?;
            return self.choices(choices, keywords, place);
        }
        if let Some(one) = keywords.get("const") {
            only(self, &["const", "type"])?;
            return self.choices(std::slice::from_ref(one), keywords, place);
        }
        if let Some(either) = keywords.get("anyOf").and_then(Value::as_array) {
            only(self, &["anyOf"])?;
            let either = either.iter().enumerate();
            let either = either.map(|(index, one)| self.value(one, &format!("{place}/anyOf/{index}")));
            let either = either.collect::<Result<Vec<_>>>()?;
            return Ok(self.rule("either", &either.join(" | ")));
        }
        let types: Vec<&str> = match keywords.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ if keywords.contains_key("properties") => vec!["object"],
            _ if keywords.contains_key("items") => vec!["array"],
            _ => {
                only(self, &[])?;
                return self.any();
            }
        };
        let several = types.len() > 1;
        let mut either = Vec::with_capacity(types.len());
        for kind in types {
            either.push(self.of_type(kind, keywords, place, several)?);
        }
        Ok(self.rule("value", &either.join(" | ")))
    }

    /// A value of one of the types that it may have.
    fn of_type(
        &mut self,
        kind: &str,
        keywords: &Map<String, Value>,
        place: &str,
        several: bool,
    ) -> Result<String> {
        match kind {
            "string" => {
                self.only_beside(keywords, &["type", "minLength", "maxLength"], place, several)?;
                self.text_of(keywords)
            }
            "object" => self.object(keywords, place, several),
            "array" => self.list(keywords, place, several),
            scalar if SCALARS.contains(&scalar) => {
                let mut schema = keywords.clone();
                schema.retain(|keyword, _| !is_silent(keyword));
                schema.insert("type".into(), scalar.into());
                let name = self.name("value");
                Ok(self.rules.json(&name, schema.into()))
            }
            _ => self.refused_keyword("type", place),
        }
    }

    /// What a reference within the tool's schema names.
    fn reference(&mut self, to: &str, place: &str) -> Result<String> {
        let tool = self.tool;
        let named = to.strip_prefix('#').and_then(|pointer| tool.schema.pointer(pointer));
        let Some(schema) = named else { return self.refused_keyword("$ref", place) };
        self.once(&format!("ref {to}"), |writer| writer.value(schema, to))
    }

    /// One of several values, of which those of other types than the schema's are none.
    fn choices(&mut self, choices: &[Value], keywords: &Map<String, Value>, place: &str) -> Result<String> {
        let fits = |value: &Value, kind: &str| match kind {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => false,
        };
        let is_allowed = |value: &Value| match keywords.get("type") {
            Some(Value::String(kind)) => fits(value, kind),
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).any(|kind| fits(value, kind)),
            _ => true,
        };
        let mark = self.rules.mark(self.quote);
        let mut either = Vec::new();
        for value in choices.iter().filter(|value| is_allowed(value)) {
            either.push(match value {
                Value::String(text) if text.contains(self.quote) => {
                    return self.refused_keyword("enum", place);
                }
                Value::String(text) if text.is_empty() => format!("{mark} {mark}"),
                Value::String(text) => format!("{mark} {} {mark}", quoted(text)),
                Value::Array(_) | Value::Object(_) => return self.refused_keyword("enum", place),
                scalar => quoted(&scalar.to_string()),
            });
        }
        match either.is_empty() {
            true => self.refused_keyword("enum", place),
            false => Ok(self.rule("choice", &either.join(" | "))),
        }
    }

    /// Any text between quotes.
    fn text(&mut self) -> Result<String> {
        self.once("text", |writer| {
            let open = writer.rules.mark(writer.quote);
            let name = writer.name("text");
            Ok(format!("{open} {}", writer.rules.until(&name, writer.quote)))
        })
    }

    /// A text of so many characters.
    fn text_of(&mut self, keywords: &Map<String, Value>) -> Result<String> {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
        let (least, most) = (bound("minLength").unwrap_or(0), bound("maxLength"));
        if least == 0 && most.is_none() {
            return self.text();
        }
        let (mark, quote) = (self.rules.mark(self.quote), regex(self.quote));
        let most_text = most.map(|most| most.to_string()).unwrap_or_default();
        let name = self.name("text").to_uppercase();
        if most == Some(0) {
            return Ok(format!("{mark} {mark}"));
        }
        if mark != quoted(self.quote) {
            // The quote is a token, so it may not be spelled.
            let characters = format!("(.|\\n){{{},{most_text}}}", least.max(1));
            self.rules.rule(&name, &format!("/{characters}/ & ~/(.|\\n)*{quote}(.|\\n)*/"));
            let optional = if least == 0 { "?" } else { "" };
            return Ok(self.rule("bounded", &format!("{mark} {name}{optional} {mark}")));
        }
        let characters = format!("(.|\\n){{{least},{most_text}}}{quote}");
        self.rules.rule(&name, &format!("/{characters}/ & ~/(.|\\n)*{quote}(.|\\n)+/"));
        Ok(self.rule("bounded", &format!("{mark} {name}")))
    }

    /// Any value.
    fn any(&mut self) -> Result<String> {
        self.once("any", |writer| {
            let text = writer.text()?;
            let (list, object) =
                (writer.list(&Map::new(), "#", false)?, writer.object(&Map::new(), "#", false)?);
            let name = writer.name("scalar");
            let scalar = writer.rules.json(&name, json!({"type": SCALARS}));
            Ok(format!("{text} | {scalar} | {list} | {object}"))
        })
    }

    fn list(&mut self, keywords: &Map<String, Value>, place: &str, several: bool) -> Result<String> {
        const KNOWN: [&str; 4] = ["type", "items", "minItems", "maxItems"];
        self.only_beside(keywords, &KNOWN, place, several)?;
        let item = match keywords.get("items") {
            Some(items) => self.value(items, &format!("{place}/items"))?,
            None => self.any()?,
        };
        let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems"));
        let next = self.rule("next", &format!("\",\" {item}"));
        let fewest = least.saturating_sub(1);
        let filled = match most {
            Some(0) => return Ok(quoted("[]")),
            Some(1) => item,
            Some(most) => format!("{item} {next}{{{fewest},{}}}", most - 1),
            None => format!("{item} {next}{{{fewest},}}"),
        };
        Ok(match least {
            0 => self.rule("list", &format!("\"[\" ({filled})? \"]\"")),
            _ => self.rule("list", &format!("\"[\" {filled} \"]\"")),
        })
    }

    /// Properties in their order; those that are not required perhaps.
    fn object(&mut self, keywords: &Map<String, Value>, place: &str, several: bool) -> Result<String> {
        const KNOWN: [&str; 4] = ["type", "properties", "required", "additionalProperties"];
        self.only_beside(keywords, &KNOWN, place, several)?;
        let no_fields = Map::new();
        let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&no_fields);
        let required = keywords.get("required").and_then(Value::as_array);
        let required: Vec<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(name) = required.iter().find(|name| !properties.contains_key(**name)) {
            return self.refused(&format!("the required parameter {name:?}, which has no schema,"));
        }
        if properties.is_empty() {
            return self.free_object(keywords.get("additionalProperties"), place);
        }
        let mut pairs = Vec::with_capacity(properties.len());
        for (key, schema) in properties {
            let is_odd = key.trim() != key
                || key.is_empty()
                || key.contains([':', ',', '{', '}', '[', ']', '<', '>', '"', '\\', '\n']);
            if is_odd {
                return self.refused(&format!("the parameter name {key:?}"));
            }
            let value = self.value(schema, &format!("{place}/properties/{key}"))?;
            pairs.push((format!("{} {value}", quoted(&format!("{key}:"))), required.contains(&key.as_str())));
        }
        // From the last to the first: the properties that follow another one.
        let (mut follow, mut begins) = (String::new(), Vec::new());
        for (pair, needed) in pairs.iter().rev() {
            if *needed {
                begins.clear();
            }
            begins.push(format!("{pair} {follow}"));
            let mark = if *needed { "" } else { "?" };
            follow = self.rule("follow", &format!("(\",\" {pair}){mark} {follow}"));
        }
        let begins = begins.join(" | ");
        let mark = if pairs.iter().any(|(_, needed)| *needed) { "" } else { "?" };
        Ok(self.rule("object", &format!("\"{{\" ({begins}){mark} \"}}\"")))
    }

    /// An object whose keys the model makes up.
    fn free_object(&mut self, values: Option<&Value>, place: &str) -> Result<String> {
        let value = match values {
            Some(Value::Bool(false)) => return Ok(quoted("{}")),
            Some(schema) => self.value(schema, &format!("{place}/additionalProperties"))?,
            None => self.any()?,
        };
        let key = self.once("key", |_| Ok("/[A-Za-z_][A-Za-z0-9_\\-]*/".to_owned()))?;
        let pair = self.rule("pair", &format!("{key} \":\" {value}"));
        Ok(self.rule("object", &format!("\"{{\" ({pair} (\",\" {pair})*)? \"}}\"")))
    }

    /// # Errors
    /// A keyword that is not one of the known ones; where there are several types it may be another's.
    fn only_beside(
        &self,
        keywords: &Map<String, Value>,
        known: &[&str],
        place: &str,
        several: bool,
    ) -> Result<()> {
        const OTHERS: [&str; 13] = [
            "minLength",
            "maxLength",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "minItems",
            "maxItems",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ];
        let other = keywords
            .keys()
            .map(String::as_str)
            .find(|name| !(known.contains(name) || is_silent(name) || (several && OTHERS.contains(name))));
        other.map_or(Ok(()), |keyword| self.refused_keyword(keyword, place))
    }
}
