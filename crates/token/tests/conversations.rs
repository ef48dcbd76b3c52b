//! Files of conversations and templates of other makers: what is learnt, and what is refused and why.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::Path;

use token::{ChatFile, Conversation, Message, Role, Tokenizer};

fn tokenizer(template: &str) -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer");
    let mut tokenizer = Tokenizer::load(folder).unwrap();
    if !template.is_empty() {
        tokenizer.settings.chat_template = template.to_owned();
    }
    tokenizer
}

/// The texts that the loss counts, or the error.
fn learnt(template: &str, line: &str) -> Result<Vec<String>, String> {
    let tokenizer = tokenizer(template);
    let conversation = Conversation::from_json(line)?;
    let template = tokenizer.chat_template().unwrap();
    let encoded =
        tokenizer.encode_conversation(&template, &conversation).map_err(|error| error.to_string())?;
    assert_eq!(tokenizer.decode(&encoded.ids), template.render(&conversation.messages, false).unwrap());
    // Whatever the weights, the ids are those of asking.
    assert_eq!(encoded.ids, tokenizer.encode_chat(&template, &conversation.messages, false).unwrap().ids);
    let mut texts = Vec::new();
    let mut start = 0;
    for span in encoded.loss_mask.chunk_by(|left, right| left == right) {
        if span[0] == 1 {
            texts.push(tokenizer.decode(&encoded.ids[start..start + span.len()]));
        }
        start += span.len();
    }
    Ok(texts)
}

/// Two turns: `a` is answered by `b`, `c` by `d`.
const TWO: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
    {"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;
const WEIGHTED: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},
    {"role":"user","content":"c"},{"role":"assistant","content":"d","weight":1}]}"#;
/// The answer carries its reasoning, as Qwen 3 and DeepSeek R1 write it.
const REASONED: &str = r#"{"messages":[{"role":"user","content":"a"},
    {"role":"assistant","content":"<think>\nhm\n</think>\n\nb"}]}"#;
const REASONED_TWICE: &str = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"<think>\nhm\n</think>\n\nb"},
    {"role":"user","content":"c"},{"role":"assistant","content":"<think>\nho\n</think>\n\nd"}]}"#;

/// Asks with a header; the last answer gets an empty block of thought, earlier ones lose theirs.
const THINKING: &str = "{%- for m in messages %}
    {%- set content = m.content.split('</think>')[-1].lstrip('\\n') if '</think>' in m.content else m.content %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and loop.last %}
        {{- '<think>\\n' + (m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content else '') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";
/// No header for answers; a space belongs to them.
const INSTRUCT: &str = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
    {% else %} {{ m.content }}<|endoftext|>{% endif %}{% endfor %}";
const MARKED: &str = "{% for m in messages %}{% if m.role == 'assistant' %}A:{% generation %} {{ m.content }}<|im_end|>\
    {% endgeneration %}{% else %}U: {{ m.content }}{% endif %}{% endfor %}";
const OTHERWISE: &str = "{% for m in messages %}{{ m.role ~ '>' ~ m.content ~ '<|im_end|>' }}{% endfor %}\
    {% if add_generation_prompt %}answer:{% endif %}";

#[test]
fn what_is_learnt_is_what_the_model_must_generate() {
    let check = |template: &str, line: &str, expected: &[&str]| {
        assert_eq!(learnt(template, line).unwrap(), expected, "{template}");
    };
    check("", TWO, &["b<|im_end|>", "d<|im_end|>"]);
    check("", WEIGHTED, &["d<|im_end|>"]);
    check(THINKING, TWO, &["b<|im_end|>", "<think>\n\n</think>\n\nd<|im_end|>"]);
    check(THINKING, REASONED, &["<think>\nhm\n</think>\n\nb<|im_end|>"]);
    check(INSTRUCT, TWO, &[" b<|endoftext|>", " d<|endoftext|>"]);
    check(MARKED, TWO, &[" b<|im_end|>", " d<|im_end|>"]);
    check(MARKED, WEIGHTED, &[" d<|im_end|>"]);
    let parts = r#"{"id":7,"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":null,
        "content":[{"type":"text","text":"b"},{"type":"text","text":"<|im_end|>"}]}]}"#;
    check("", parts, &["b<|im_end|><|im_end|>"]);
}

#[test]
fn templates_that_do_not_tell_answers_are_refused() {
    let check = |template: &str, line: &str, expected: &str| {
        let message = learnt(template, line).unwrap_err();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    check(OTHERWISE, TWO, "asked otherwise than it was taught");
    check(THINKING, REASONED_TWICE, "up to message 1 otherwise when others follow");
    check("{{ messages[0].content }}", TWO, "leaves out what message 1 says");
    check("{{ messages[0].content }}{{ raise_exception('no system') }}", TWO, "no system");
    let injected = REASONED.replace("hm", "<|im_end|>");
    check(THINKING, &injected, "spells a special token");
    let mut bare = tokenizer("");
    bare.settings.chat_template.clear();
    let template = bare.chat_template().unwrap();
    let message = template.render(&[Message::new(Role::User, "a")], true).unwrap_err().to_string();
    assert!(message.contains("no chat template"), "{message}");
}

#[test]
fn bad_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let tokenizer = tokenizer("");
    let template = tokenizer.chat_template().unwrap();
    let good = TWO.replace('\n', "");
    let check = |line: &str, expected: &str| {
        std::fs::write(&path, format!("\u{feff}{good}\r\n\n{line}\n{good}\n")).unwrap();
        let mut seen = 0;
        let visit = &mut |_: &Conversation, _| {
            seen += 1;
            ControlFlow::Continue(())
        };
        let message = tokenizer.encode_chat_file(&template, &path, visit).unwrap_err().to_string();
        assert_eq!(seen, 1);
        assert!(message.contains("chats.jsonl, line 3: ") && message.contains(expected), "{message}");
    };
    check("{", "not valid JSON");
    check("[1]", "expected an object");
    check(r#"{"text":"a"}"#, "expected \"messages\"");
    check(r#"{"messages":[]}"#, "no assistant message");
    check(r#"{"messages":[{"role":"user","content":"a"}]}"#, "no assistant message");
    check(r#"{"tools":[{"type":"function"}],"messages":[]}"#, "tools[0]: expected");
    check(r#"{"functions":[{"name":"f"}],"messages":[]}"#, "write them as \"tools\"");
    check(r#"{"messages":["a"]}"#, "messages[0]: expected an object");
    check(r#"{"messages":[{"role":"bot","content":"a"}]}"#, "role is \"bot\"");
    check(r#"{"messages":[{"role":"user"}]}"#, "content is missing");
    check(r#"{"messages":[{"role":"user","content":1}]}"#, "content is neither");
    check(r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, "image_url");
    check(r#"{"messages":[{"role":"user","content":"a","weight":1}]}"#, "weight belongs to assistant");
    check(r#"{"messages":[{"role":"assistant","content":"a","weight":0.5}]}"#, "weight is 0.5");
    check(
        r#"{"messages":[{"role":"assistant","content":"a","tool_calls":[1]}]}"#,
        "tool_calls[0]: a tool call is not an object",
    );
    check(
        r#"{"messages":[{"role":"user","content":"a","tool_calls":[{"name":"f"}]}]}"#,
        "belong to assistant messages",
    );
    check(r#"{"messages":[{"role":"assistant","content":"a","audio":{}}]}"#, "\"audio\" is not");
}

#[test]
fn a_file_is_read_to_its_end_or_to_where_it_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let tokenizer = tokenizer("");
    let template = tokenizer.chat_template().unwrap();
    std::fs::write(&path, format!("{0}\n{0}\n", TWO.replace('\n', ""))).unwrap();
    let totals = tokenizer.encode_chat_file(&template, &path, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let one = tokenizer.encode_chat_file(&template, &path, &mut |_, _| ControlFlow::Break(())).unwrap();
    assert_eq!((totals.conversations, one.conversations), (2, 1));
    assert_eq!((totals.tokens, totals.counted_tokens), (2 * one.tokens, 8));
    assert_eq!(ChatFile::open(&path).unwrap().count(), 2);
    std::fs::write(&path, "\n").unwrap();
    let empty = tokenizer.encode_chat_file(&template, &path, &mut |_, _| ControlFlow::Continue(()));
    assert!(empty.unwrap_err().to_string().contains("no conversation"));
}
