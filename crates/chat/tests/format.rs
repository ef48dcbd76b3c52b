//! Answers of every family taken apart: whole, character by character, broken off, and malformed.
#![allow(clippy::unwrap_used)]

use chat::format::{AnswerFormat, AnswerParser, Piece};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What each family's template holds that tells it.
const HERMES: &str = "{{ tools }} <tool_call> <think>";
const CODER: &str = "{{ tools }} <tool_call> <function= <think>";
const GLM: &str = "{{ tools }} <tool_call> <arg_key> <think>";
const ERNIE: &str = "{{ tools }} <tool_call> <think> <response>";
const HUNYUAN: &str = "{{ tools }} <tool_calls> <think> <answer>";
const LLAMA: &str = "{{ tools }} <|start_header_id|> <|python_tag|>";
const MISTRAL: &str = "{{ tools }} [TOOL_CALLS] [THINK]";
const DEEPSEEK: &str = "{{ tools }} <｜tool▁calls▁begin｜> <think>";
const DSML: &str = "{{ tools }} <｜DSML｜ <think>";
const GEMMA4: &str = "{{ tools }} <|tool_call> <|channel>";
const FUNCTIONGEMMA: &str = "{{ tools }} <start_function_call>";
const ALL: [&str; 11] =
    [HERMES, CODER, GLM, ERNIE, HUNYUAN, LLAMA, MISTRAL, DEEPSEEK, DSML, GEMMA4, FUNCTIONGEMMA];

fn tools() -> Vec<Value> {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": ["string", "null"]}}});
    ["weather", "time"]
        .map(|name| json!({"type": "function", "function": {"name": name, "parameters": parameters}}))
        .to_vec()
}

/// Reasoning, text, and calls as `name(arguments)`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    reasoning: String,
    text: String,
    calls: Vec<String>,
}

fn take(parser: &mut AnswerParser, pieces: &[&str]) -> Parts {
    let mut parts = Parts::default();
    let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    for piece in all {
        match piece {
            Piece::Reasoning(text) => parts.reasoning += &text,
            Piece::Text(text) => parts.text += &text,
            Piece::Call(call) => parts.calls.push(format!("{}({})", call.name, call.arguments)),
            other => panic!("{other:?} comes of certain calls alone"),
        }
    }
    parts
}

/// The answer whole and character by character, which must give the same.
fn parts(template: &str, tools: &[Value], answer: &str) -> Parts {
    let parser = AnswerParser::new(&AnswerFormat::of_template(template), tools, false);
    let whole = take(&mut parser.clone(), &[answer]);
    let characters: Vec<String> = answer.chars().map(String::from).collect();
    let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(take(&mut parser.clone(), &characters), whole, "{answer:?} character by character");
    whole
}

fn check(template: &str, answer: &str, reasoning: &str, text: &str, calls: &[&str]) {
    let expected = Parts {
        reasoning: reasoning.into(),
        text: text.into(),
        calls: calls.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(parts(template, &tools(), answer), expected, "{answer:?}");
}

const CITY: &str = r#"weather({"city":"景德镇"})"#;
const DAYS: &str = r#"weather({"city":"a b","days":2})"#;

#[test]
fn calls_in_json() {
    let one = r#"<tool_call>
{"name": "weather", "arguments": {"city": "景德镇"}}
</tool_call>"#;
    check(HERMES, one, "", "", &[CITY]);
    check(
        HERMES,
        &format!("<think>\nhm\n</think>\n\nI look.\n{one}\n{one}\n"),
        "hm",
        "I look.",
        &[CITY, CITY],
    );
    check(HERMES, &one.replace("\n</tool_call>", ""), "", "", &[CITY]);
    let text = r#"<tool_call>{"name": "time", "arguments": "{\"city\": \"</tool_call>\"}"}</tool_call>"#;
    check(HERMES, text, "", "", &[r#"time({"city":"</tool_call>"})"#]);
    check(HERMES, r#"<tool_call>{"name": "time"}</tool_call>"#, "", "", &["time({})"]);
    check(
        ERNIE,
        &format!("<think>\nhm\n</think>\n\n<response>\nSaid.\n</response>\n{one}"),
        "hm",
        "Said.",
        &[CITY],
    );
    let list = r#"<tool_calls>[{"name": "weather", "arguments": {"city": "a b", "days": 2}}, {"name": "time", "arguments": {}}]</tool_calls>"#;
    check(HUNYUAN, list, "", "", &[DAYS, "time({})"]);
    check(HUNYUAN, "<think>\nhm\n</think>\n<answer>\nYes.\n</answer>", "hm", "Yes.", &[]);
}

#[test]
fn calls_of_llama_and_mistral() {
    let object = r#"{"name": "weather", "parameters": {"city": "景德镇"}}"#;
    check(LLAMA, object, "", "", &[CITY]);
    check(LLAMA, &format!("<|python_tag|>{object}; {object}"), "", "", &[CITY, CITY]);
    check(LLAMA, r#"<|python_tag|>weather.call(city="a b", days=2)"#, "", "", &[DAYS]);
    check(LLAMA, "<|python_tag|>print(1)", "", "<|python_tag|>print(1)", &[]);
    check(LLAMA, r#"{"answer": 42}"#, "", r#"{"answer": 42}"#, &[]);
    check(
        LLAMA,
        r#"{"name": "not a call"} is what I said"#,
        "",
        r#"{"name": "not a call"} is what I said"#,
        &[],
    );
    check(LLAMA, " Plain {\"name\": 1}", "", " Plain {\"name\": 1}", &[]);
    check(MISTRAL, r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "景德镇"}}]"#, "", "", &[CITY]);
    check(
        MISTRAL,
        r#"Wait.[TOOL_CALLS]weather[ARGS]{"city": "a b", "days": 2}[TOOL_CALLS]time[CALL_ID]123456789[ARGS]{}"#,
        "",
        "Wait.",
        &[DAYS, "time({})"],
    );
    check(MISTRAL, r#"[THINK]hm[/THINK][TOOL_CALLS]weather{"city": "景德镇"}"#, "hm", "", &[CITY]);
    check(MISTRAL, "[TOOL_CALLS]nothing", "", "[TOOL_CALLS]nothing", &[]);
}

#[test]
fn calls_in_tags() {
    let coder = "<tool_call>\n<function=weather>\n<parameter=city>\na b\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>";
    check(CODER, &format!("<think>hm</think>{coder}"), "hm", "", &[DAYS]);
    let code = "<tool_call>\n<function=weather>\n<parameter=city>\n</tool_call>\n1\n</parameter>\n</function>\n</tool_call>";
    check(CODER, code, "", "", &[r#"weather({"city":"</tool_call>\n1"})"#]);
    check(CODER, "<tool_call>\n<function=time>\n</function>\n</tool_call>", "", "", &["time({})"]);
    let glm = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>a b</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>";
    check(GLM, glm, "", "", &[DAYS]);
    check(GLM, &glm.replace('\n', ""), "", "", &[DAYS]);
    check(GLM, "<tool_call>time</tool_call>", "", "", &["time({})"]);
    let dsml = "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">a b</｜DSML｜parameter>\n\
                <｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
    check(DSML, &format!("So.\n\n{dsml}"), "", "So.", &[DAYS]);
    // A parameter whose type says text stays text, whatever it looks like.
    let number = "<tool_call>weather<arg_key>units</arg_key><arg_value>1</arg_value></tool_call>";
    check(GLM, number, "", "", &[r#"weather({"units":"1"})"#]);
}

#[test]
fn calls_of_deepseek_and_gemma() {
    let old = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"景德镇\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(DEEPSEEK, &format!("<think>\nhm</think>\n\n{old}"), "hm", "", &[CITY]);
    let new = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"a b\", \"days\": 2}<｜tool▁call▁end｜>\
               <｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check(DEEPSEEK, new, "", "", &[DAYS, "time({})"]);
    check(
        GEMMA4,
        "<|channel>thought\nhm<channel|><|tool_call>call:weather{city:<|\"|>a b<|\"|>,days:2}<tool_call|>",
        "hm",
        "",
        &[DAYS],
    );
    let nested = "<|tool_call>call:time{at:{x:[1,<|\"|>}<|\"|>],y:true},z:null}<tool_call|>";
    check(GEMMA4, nested, "", "", &[r#"time({"at":{"x":[1,"}"],"y":true},"z":null})"#]);
    check(
        FUNCTIONGEMMA,
        "<start_function_call>call:weather{city:<escape>景德镇<escape>}<end_function_call>",
        "",
        "",
        &[CITY],
    );
}

#[test]
fn what_is_no_call_comes_back_as_text() {
    for text in [
        "<tool_call>{\"name\": }</tool_call> after",
        "<tool_call>{\"name\": \"weather\", \"arguments\": [1]}</tool_call>",
        "before \n<tool_call>nothing",
        "<tool_call></tool_call>",
        "a <tool_cal",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {}</tool_call>\n",
        "ends with spaces \n ",
    ] {
        check(HERMES, text, "", text, &[]);
    }
    let good = "<tool_call>{\"name\": \"time\"}</tool_call>";
    check(
        HERMES,
        &format!("<tool_call>{{bad}}</tool_call>{good}"),
        "",
        "<tool_call>{bad}</tool_call>",
        &["time({})"],
    );
    // Without tools nothing is a call.
    assert_eq!(parts(HERMES, &[], good).text, good);
    for template in ALL {
        for text in ["Plain text.", "1 < 2 and [3]", "{\"a\": 1}"] {
            check(template, text, "", text, &[]);
        }
    }
}

#[test]
fn reasoning_that_the_prompt_began_or_nobody_ends() {
    let format = AnswerFormat::of_template(HERMES);
    let begun = |answer: &str| take(&mut AnswerParser::new(&format, &[], true), &[answer]);
    assert_eq!(
        begun("hm\n</think>\n\nYes."),
        Parts { reasoning: "hm".into(), text: "Yes.".into(), calls: vec![] }
    );
    assert_eq!(begun("<think>\nhm\n"), Parts { reasoning: "hm".into(), ..Parts::default() });
    check(HERMES, "<think>\n\n</think>\n\nYes.", "", "Yes.", &[]);
    check(HERMES, "<think>a <tool_call> b", "a <tool_call> b", "", &[]);
    check(HERMES, "no </think> here", "", "no </think> here", &[]);
}

/// Pieces of what any family writes, and of what none does.
fn answers() -> impl Strategy<Value = Vec<String>> {
    const WORDS: &[&str] = &[
        "<tool_call>",
        "</tool_call>",
        "<tool_calls>",
        "</tool_calls>",
        "<think>",
        "</think>",
        "<function=weather>",
        "</function>",
        "<parameter=city>",
        "</parameter>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "{\"name\": \"weather\", \"arguments\": {}}",
        "{\"name\": ",
        "\"",
        "{",
        "}",
        "[",
        "]",
        "[TOOL_CALLS]",
        "[ARGS]",
        "weather",
        "call:weather{",
        "<|tool_call>",
        "<tool_call|>",
        "<|\"|>",
        "<start_function_call>",
        "<end_function_call>",
        "<escape>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<｜DSML｜function_calls>",
        "<response>",
        "</response>",
        "<answer>",
        "</answer>",
        "<|python_tag|>",
        ";",
        " ",
        "\n",
        "文",
        "<|channel>",
        "<channel|>",
        "thought\n",
        "[THINK]",
        "[/THINK]",
        "<",
        "\\",
    ];
    proptest::collection::vec(proptest::sample::select(WORDS).prop_map(str::to_owned), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_gives_the_same_and_loses_nothing(words in answers(), family in 0..ALL.len(), begun: bool, seed: u64) {
        let format = AnswerFormat::of_template(ALL[family]);
        let parser = AnswerParser::new(&format, &tools(), begun && format.family() != "llama3" && format.family() != "functiongemma");
        let answer = words.concat();
        let whole = take(&mut parser.clone(), &[&answer]);
        let characters: Vec<String> = answer.chars().map(String::from).collect();
        let one_by_one: Vec<&str> = characters.iter().map(String::as_str).collect();
        prop_assert_eq!(&take(&mut parser.clone(), &one_by_one), &whole);
        let mut state = seed;
        let mut cut: Vec<String> = vec![String::new()];
        for character in answer.chars() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if state >> 62 == 0 {
                cut.push(String::new());
            }
            cut.last_mut().unwrap().push(character);
        }
        let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
        prop_assert_eq!(&take(&mut parser.clone(), &cut), &whole);
        if whole.calls.is_empty() {
            // But for white space and the marks of reasoning and answer, every character is still there.
            let bare = |text: &str| {
                let marks = ["<think>", "</think>", "<|channel>", "<channel|>", "[THINK]", "[/THINK]", "<response>", "</response>", "<answer>", "</answer>", "thought"];
                let text = marks.iter().fold(text.to_owned(), |text, mark| text.replace(mark, ""));
                let mut characters: Vec<char> = text.chars().filter(|character| !character.is_whitespace()).collect();
                characters.sort_unstable();
                characters
            };
            prop_assert_eq!(bare(&(whole.reasoning.clone() + "\u{0}" + &whole.text)), bare(&(answer + "\u{0}")));
        }
    }
}
