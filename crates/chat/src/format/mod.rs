//! How families of models write reasoning and tool calls into their answers, told by the text of their chat template.
//!
//! [`AnswerFormat`] is the description, [`AnswerParser`] takes an answer apart as it grows. Must not know who asks, nor ids.

mod bodies;
mod gemma;
mod grammar;
mod live;
mod parser;
mod tags;

pub use grammar::{Beside, CallRules};
pub use parser::{AnswerParser, Piece};

/// Marks that enclose something: the opening, the closing.
pub(crate) type Marks = (&'static str, &'static str);

/// What stands in a tool-call block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// One object, or a list of objects, with `name` and `arguments` (Hermes, Qwen, ERNIE, Hunyuan).
    Json,
    /// Objects with `name` and `parameters` separated by semicolons, or `name.call(key="value")` (Llama 3).
    Llama,
    /// A list of objects, or `name[ARGS]{…}` again and again (Mistral).
    Mistral,
    /// `<function=name><parameter=key>value</parameter></function>` (Qwen 3 Coder, Qwen 3.5).
    FunctionTags,
    /// `name<arg_key>key</arg_key><arg_value>value</arg_value>` (GLM 4.5 and later).
    ArgKeys,
    /// Calls between tokens of their own, arguments perhaps in a fenced block (DeepSeek V3, R1, V3.1).
    DeepSeek,
    /// `<｜DSML｜invoke name="…">` with parameters (DeepSeek V3.2).
    Dsml,
    /// `call:name{key:value}`; the text is what encloses strings (Gemma).
    Gemma(&'static str),
}

/// A block of tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub open: &'static str,
    /// `None`: it goes on to the answer's end.
    pub close: Option<&'static str>,
    pub body: Body,
}

/// How a model writes down what is no plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFormat {
    family: &'static str,
    pub(crate) reasoning: Option<Marks>,
    /// What stands at the beginning of reasoning and does not belong to it.
    pub(crate) reasoning_title: &'static str,
    /// Marks around the answer itself, which are dropped.
    pub(crate) wrapper: Option<Marks>,
    pub(crate) block: Option<Block>,
    /// Whether an answer that is nothing but JSON objects calls tools (Llama 3).
    pub(crate) bare_json: bool,
    /// Whether arguments stand in a fenced block (DeepSeek V3 and R1).
    pub(crate) fenced: bool,
    takes_tools: bool,
    takes_reasoning: bool,
}

/// One family: what its templates hold, its name, its block.
struct Family {
    sign: &'static str,
    name: &'static str,
    open: &'static str,
    close: Option<&'static str>,
    body: Body,
}

const fn family(
    sign: &'static str,
    name: &'static str,
    open: &'static str,
    close: Option<&'static str>,
    body: Body,
) -> Family {
    Family { sign, name, open, close, body }
}

/// The families; the first whose sign a template holds is it.
#[rustfmt::skip]
const FAMILIES: [Family; 11] = [
    family("<｜DSML｜", "deepseek_v32", "<｜DSML｜function_calls>", Some("</｜DSML｜function_calls>"), Body::Dsml),
    family("<｜tool▁calls▁begin｜>", "deepseek", "<｜tool▁calls▁begin｜>", Some("<｜tool▁calls▁end｜>"), Body::DeepSeek),
    family("<|tool_call>", "gemma4", "<|tool_call>", Some("<tool_call|>"), Body::Gemma("<|\"|>")),
    family("<start_function_call>", "functiongemma", "<start_function_call>", Some("<end_function_call>"), Body::Gemma("<escape>")),
    family("[TOOL_CALLS]", "mistral", "[TOOL_CALLS]", None, Body::Mistral),
    family("<arg_key>", "glm", "<tool_call>", Some("</tool_call>"), Body::ArgKeys),
    family("<function=", "qwen_coder", "<tool_call>", Some("</tool_call>"), Body::FunctionTags),
    family("<tool_calls>", "hunyuan", "<tool_calls>", Some("</tool_calls>"), Body::Json),
    family("<tool_call>", "hermes", "<tool_call>", Some("</tool_call>"), Body::Json),
    family("<|python_tag|>", "llama3", "<|python_tag|>", None, Body::Llama),
    family("<|start_header_id|>", "llama3", "<|python_tag|>", None, Body::Llama),
];

impl AnswerFormat {
    /// What a template's text says of its family.
    pub fn of_template(source: &str) -> AnswerFormat {
        let has = |text: &str| source.contains(text);
        let takes_tools = has("tools");
        let found = FAMILIES.iter().find(|family| takes_tools && has(family.sign));
        let mut format = AnswerFormat { takes_tools, family: "none", ..AnswerFormat::default() };
        if let Some(found) = found {
            format.family = found.name;
            format.block = Some(Block { open: found.open, close: found.close, body: found.body });
            format.fenced = has("```json");
            format.bare_json = found.body == Body::Llama;
        }
        if has("<|channel>") {
            format.reasoning = Some(("<|channel>", "<channel|>"));
            format.reasoning_title = "thought\n";
        } else if has("[THINK]") {
            format.reasoning = Some(("[THINK]", "[/THINK]"));
        } else if has("<think>") || has("</think>") {
            format.reasoning = Some(("<think>", "</think>"));
        }
        if has("<response>") {
            (format.family, format.wrapper) = ("ernie", Some(("<response>", "</response>")));
        } else if has("<answer>") {
            format.wrapper = Some(("<answer>", "</answer>"));
        }
        format.takes_reasoning = has("reasoning_content");
        format
    }

    /// The family's name; `none` where the template shows no way of calling tools.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Whether the template shows tools to the model.
    pub fn takes_tools(&self) -> bool {
        self.takes_tools
    }

    /// Whether calls can be told from text.
    pub fn knows_calls(&self) -> bool {
        self.block.is_some()
    }

    /// Whether the template puts `reasoning_content` of earlier messages where it belongs.
    pub fn takes_reasoning(&self) -> bool {
        self.takes_reasoning
    }

    /// Whether a prompt that ends so leaves the model in the middle of its reasoning.
    pub fn opens_reasoning(&self, prompt_end: &str) -> bool {
        self.reasoning.is_some_and(|(open, _)| prompt_end.trim_end().ends_with(open))
    }

    /// Is this the text of a token that means something here? Such special tokens are shown to [`AnswerParser`]; all others stay
    /// hidden.
    pub fn is_mark(&self, token: &str) -> bool {
        let marks =
            [self.reasoning, self.wrapper].into_iter().flatten().flat_map(|(open, close)| [open, close]);
        let block = self.block.iter().flat_map(|block| [Some(block.open), block.close]).flatten();
        let inner = match self.block.map(|block| block.body) {
            Some(Body::DeepSeek) => &["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"][..],
            Some(Body::Mistral) => &["[ARGS]", "[CALL_ID]"],
            Some(Body::ArgKeys) => &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            Some(Body::Dsml) => &["｜DSML｜"],
            Some(Body::Gemma("<|\"|>")) => &["<|\"|>"],
            Some(Body::Gemma(_)) => &["<escape>"],
            _ => &[],
        };
        marks.chain(block).chain(inner.iter().copied()).any(|mark| mark == token)
    }
}

#[cfg(test)]
mod tests {
    use super::AnswerFormat;

    #[test]
    fn a_templates_text_tells_its_family() {
        let check = |source: &str, family: &str, knows: bool| {
            let format = AnswerFormat::of_template(source);
            assert_eq!((format.family(), format.knows_calls()), (family, knows), "{source}");
        };
        check("{{ messages }}", "none", false);
        check("{% if tools %}{{ tools }}{% endif %}", "none", false);
        check("<tool_call> without the list", "none", false);
        check("{{ tools }}<tool_call>\n{\"name\"", "hermes", true);
        check("{{ tools }}<tool_call>\n<function=example>", "qwen_coder", true);
        check("{{ tools }}<tool_call>{name}<arg_key>", "glm", true);
        check("{{ tools }}<tool_call><think><response>", "ernie", true);
        check("{{ tools }}<tool_calls><answer><think>", "hunyuan", true);
        check("{{ tools }}[TOOL_CALLS]", "mistral", true);
        check("{{ tools }}<|start_header_id|><|python_tag|>", "llama3", true);
        check("{{ tools }}<｜tool▁calls▁begin｜>", "deepseek", true);
        check("{{ tools }}<|tool_call>call:", "gemma4", true);
        check("{{ tools }}<start_function_call>", "functiongemma", true);
    }

    #[test]
    fn a_prompt_may_begin_the_reasoning() {
        let format = AnswerFormat::of_template("<think>");
        assert!(format.opens_reasoning("<|im_start|>assistant\n<think>\n"));
        assert!(!format.opens_reasoning("<think>\n\n</think>\n\n"));
        assert!(!AnswerFormat::of_template("").opens_reasoning("<think>"));
        assert!(format.is_mark("</think>") && !format.is_mark("<|im_end|>"));
    }
}
