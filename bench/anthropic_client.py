"""Does the official Anthropic client accept our server?

    python bench/anthropic_client.py BASE_URL MODEL     (for example http://127.0.0.1:8000 speedrun)

Sends messages with and without streaming, with tools and their results, holds answers to a schema and to calls, counts tokens,
lists models, and provokes errors.
Prints a line for each check; ends with 1 if one fails.
"""

import json
import sys

import anthropic

MESSAGES = [{"role": "user", "content": "你好! What is 2 + 3?"}]
REASONS = ("end_turn", "max_tokens")
TOOLS = [{
    "name": "weather", "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base_url, model = sys.argv[1:]
    client = anthropic.Anthropic(base_url=base_url, api_key="unused", timeout=120, max_retries=0)
    checks = [
        message, streamed, counted, models, tools, tool_result, forced_call, forced_call_streamed, structured, unknown_model,
        missing_field, bad_temperature, unenforceable_schema,
    ]
    failed = 0
    for check in checks:
        try:
            print(f"ok      {check.__name__}: {check(client, model)}")
        except (AssertionError, anthropic.AnthropicError, TypeError, ValueError, AttributeError, IndexError) as problem:
            failed += 1
            print(f"FAILED  {check.__name__}: {type(problem).__name__}: {problem}")
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    sys.exit(1 if failed else 0)


def text_of(reply):
    return "".join(block.text for block in reply.content if block.type == "text")


def message(client, model):
    reply = client.messages.create(model=model, max_tokens=12, system="Be brief.", messages=MESSAGES, extra_body={"temperature": 0})
    assert reply.type == "message" and reply.role == "assistant" and reply.stop_reason in REASONS, reply
    assert reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0) > 0, reply.usage
    assert 0 < reply.usage.output_tokens <= 12, reply.usage
    return repr(text_of(reply))


def streamed(client, model):
    request = dict(model=model, max_tokens=16, messages=MESSAGES, extra_body={"temperature": 0})
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(whole) == text_of(final), f"{text!r} streamed, {text_of(whole)!r} whole"
    assert final.stop_reason == whole.stop_reason, final
    assert final.usage.output_tokens == whole.usage.output_tokens, final.usage
    return repr(text)


def counted(client, model):
    count = client.messages.count_tokens(model=model, messages=MESSAGES)
    usage = client.messages.create(model=model, max_tokens=1, messages=MESSAGES).usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0), (count, usage)
    return count.input_tokens


def models(client, model):
    ids = [entry.id for entry in client.models.list(limit=100)]
    assert model in ids, f"{model!r} is not among {ids}"
    return ids


def tools(client, model):
    """A model may do without; what it calls must be a call."""
    reply = client.messages.create(model=model, max_tokens=24, messages=MESSAGES, tools=TOOLS, extra_body={"temperature": 0})
    for block in reply.content:
        assert block.type in ("text", "thinking") or (block.name and isinstance(block.input, dict)), block
    return reply.stop_reason


def tool_result(client, model):
    messages = MESSAGES + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "景德镇"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "warm"}]},
    ]
    reply = client.messages.create(model=model, max_tokens=8, messages=messages, tools=TOOLS, extra_body={"temperature": 0})
    return repr(text_of(reply))


FORCED = {
    "name": "weather", "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Jingdezhen", "景德镇"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": False,
    },
}


def check_input(block):
    assert block.type == "tool_use" and block.name == "weather", block
    assert set(block.input) == {"city", "days"} and block.input["city"] in ("Jingdezhen", "景德镇"), block
    assert 1 <= block.input["days"] <= 9, block


def forced_call(client, model):
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        reply = client.messages.create(
            model=model, max_tokens=120, messages=MESSAGES, tools=[FORCED],
            tool_choice={**choice, "disable_parallel_tool_use": True}, extra_body={"temperature": 0},
        )
        assert reply.stop_reason == "tool_use", reply
        (block,) = reply.content
        check_input(block)
    return block.input


def forced_call_streamed(client, model):
    with client.messages.stream(
        model=model, max_tokens=120, messages=MESSAGES, tools=[FORCED],
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, extra_body={"temperature": 0},
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        (block,) = stream.get_final_message().content
    check_input(block)
    assert json.loads("".join(pieces)) == block.input, pieces
    return f"{len(pieces)} pieces"


def structured(client, model):
    schema = {
        "type": "object", "properties": {"kind": {"enum": ["clay", "ore"]}, "fired": {"type": "boolean"}},
        "required": ["kind", "fired"], "additionalProperties": False,
    }
    reply = client.messages.create(
        model=model, max_tokens=120, messages=MESSAGES,
        extra_body={"temperature": 0, "output_config": {"format": {"type": "json_schema", "schema": schema}}},
    )
    verdict = json.loads(text_of(reply))
    assert reply.stop_reason == "end_turn" and verdict["kind"] in ("clay", "ore"), reply
    assert isinstance(verdict["fired"], bool), verdict
    return verdict


def expect_error(kind, send):
    """The client raises its own error kind with our message in it."""
    try:
        send()
    except kind as error:
        assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        return f"{error.status_code} {error.body['error']['message']}"
    raise AssertionError("the request was accepted")


def unknown_model(client, _model):
    return expect_error(
        anthropic.NotFoundError,
        lambda: client.messages.create(model="no-such-model", max_tokens=1, messages=MESSAGES),
    )


def missing_field(client, model):
    return expect_error(
        anthropic.BadRequestError, lambda: client.messages.create(model=model, max_tokens=1, messages=[])
    )


def bad_temperature(client, model):
    return expect_error(
        anthropic.BadRequestError,
        lambda: client.messages.create(model=model, max_tokens=1, messages=MESSAGES, extra_body={"temperature": -1}),
    )


def unenforceable_schema(client, model):
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}
    said = expect_error(
        anthropic.BadRequestError,
        lambda: client.messages.create(
            model=model, max_tokens=8, messages=MESSAGES, tools=[tool], tool_choice={"type": "any"}
        ),
    )
    assert "uniqueItems" in said, said
    return said


if __name__ == "__main__":
    main()
