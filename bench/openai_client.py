"""Does the official OpenAI client accept our server?

    python bench/openai_client.py BASE_URL MODEL [ENCODER]     (for example http://127.0.0.1:8000/v1 speedrun)

Lists models, chats with and without streaming, with tools, by the responses interface, completes with echo and
log-probabilities, holds answers to schemas and to calls, makes vectors where an encoder is named, and provokes errors.
Prints a line for each check; ends with 1 if one fails.
"""

import json
import math
import sys
from typing import Literal

import openai
import pydantic

PROMPT = "Numbers: 1 2 3 四五六"
MESSAGES = [{"role": "user", "content": "你好! What is 2 + 3?"}]
REASONS = ("stop", "length")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    base_url, model = sys.argv[1:3]
    encoder = sys.argv[3] if len(sys.argv) == 4 else None
    client = openai.OpenAI(base_url=base_url, api_key="unused", timeout=120, max_retries=0)
    checks = [
        models, chat, chat_streamed, chat_stream_equals_whole, chat_seeded, chat_stop, completion, completion_streamed,
        completion_echo, choices, responses, responses_streamed, tools, tool_result, structured, structured_streamed,
        structured_responses, forced_call, forced_call_streamed, forced_call_responses, strict_tool, guided, settings,
        unknown_model, bad_temperature, empty_messages, unknown_field, unenforceable_schema,
    ]
    if encoder:
        checks += [lambda client, _model, check=check: check(client, encoder) for check in (embeddings,)]
    failed = 0
    for check in checks:
        try:
            print(f"ok      {check.__name__.replace('<lambda>', 'embeddings')}: {check(client, model)}")
        except (AssertionError, openai.OpenAIError, TypeError, ValueError, AttributeError, IndexError) as problem:
            failed += 1
            print(f"FAILED  {check.__name__}: {type(problem).__name__}: {problem}")
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    sys.exit(1 if failed else 0)


def models(client, model):
    ids = [entry.id for entry in client.models.list().data]
    assert model in ids, f"{model!r} is not among {ids}"
    entry = client.models.retrieve(model)
    assert entry.object == "model" and isinstance(entry.created, int), entry
    return ids


def chat(client, model):
    reply = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12, temperature=0)
    choice, usage = reply.choices[0], reply.usage
    assert reply.object == "chat.completion" and reply.id and reply.model and isinstance(reply.created, int), reply
    assert choice.index == 0 and choice.message.role == "assistant" and choice.finish_reason in REASONS, choice
    assert isinstance(choice.message.content, str), choice
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 12, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    return repr(choice.message.content)


def chat_streamed(client, model):
    chunks = list(client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    ))
    assert len({chunk.id for chunk in chunks}) == 1, "the chunks of one answer have different ids"
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks), chunks[0]
    with_choice = [chunk for chunk in chunks if chunk.choices]
    assert with_choice[0].choices[0].delta.role == "assistant", with_choice[0]
    reasons = [chunk.choices[0].finish_reason for chunk in with_choice]
    assert reasons[-1] in REASONS and not any(reasons[:-1]), reasons
    assert not chunks[-1].choices and chunks[-1].usage.total_tokens > 0, chunks[-1]
    return f"{len(chunks)} chunks"


def chat_stream_equals_whole(client, model):
    request = dict(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    whole = client.chat.completions.create(**request).choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**request, stream=True)
        if chunk.choices
    ]
    assert "".join(pieces) == whole, f"{''.join(pieces)!r} streamed, {whole!r} whole"
    return repr(whole)


def chat_seeded(client, model):
    request = dict(model=model, messages=MESSAGES, max_tokens=16, temperature=1.0, top_p=0.95, seed=42)
    answers = {client.chat.completions.create(**request).choices[0].message.content for _ in range(2)}
    assert len(answers) == 1, f"the same seed gave {answers}"
    return repr(answers.pop())


def chat_stop(client, model):
    request = dict(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    whole = client.chat.completions.create(**request).choices[0].message.content
    if len(whole) < 2:
        return f"nothing to stop in {whole!r}"
    stop = whole[1]
    choice = client.chat.completions.create(**request, stop=[stop]).choices[0]
    assert choice.message.content == whole[: whole.index(stop)], f"{choice.message.content!r} stopped at {stop!r}"
    assert choice.finish_reason == "stop", choice
    return f"stopped at {stop!r}"


def completion(client, model):
    reply = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    choice = reply.choices[0]
    assert reply.object == "text_completion" and choice.index == 0 and choice.finish_reason in REASONS, reply
    assert isinstance(choice.text, str) and not choice.text.startswith(PROMPT), choice
    assert choice.logprobs is None and reply.usage.prompt_tokens > 0, reply
    return repr(choice.text)


def completion_streamed(client, model):
    request = dict(model=model, prompt=PROMPT, max_tokens=8, temperature=0)
    whole = client.completions.create(**request).choices[0].text
    chunks = [chunk for chunk in client.completions.create(**request, stream=True) if chunk.choices]
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == whole, f"{text!r} streamed, {whole!r} whole"
    assert chunks[-1].choices[0].finish_reason in REASONS, chunks[-1]
    return f"{len(chunks)} chunks"


def completion_echo(client, model):
    """What scoring tools send: the prompt's own log-probabilities, nothing generated."""
    reply = client.completions.create(model=model, prompt=PROMPT, max_tokens=0, echo=True, logprobs=2, temperature=0)
    choice, logprobs = reply.choices[0], reply.choices[0].logprobs
    assert choice.text == PROMPT, choice.text
    count = len(logprobs.tokens)
    assert count == reply.usage.prompt_tokens, f"{count} tokens, usage {reply.usage}"
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == count, logprobs
    assert logprobs.token_logprobs[0] is None, "nothing precedes the first token, so it has no log-probability"
    assert all(value <= 0 and math.isfinite(value) for value in logprobs.token_logprobs[1:]), logprobs.token_logprobs
    assert all(len(top) >= 1 for top in logprobs.top_logprobs[1:]), logprobs.top_logprobs
    for own, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:]):
        assert own <= max(top.values()) + 1e-6, f"{own} is above the best of {top}"
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset), logprobs.text_offset
    return f"{count} tokens, mean {sum(logprobs.token_logprobs[1:]) / (count - 1):.3f}"


def choices(client, model):
    reply = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, n=2, seed=1, temperature=1.5)
    assert [choice.index for choice in reply.choices] == [0, 1], reply
    return [choice.message.content for choice in reply.choices]


def responses(client, model):
    reply = client.responses.create(model=model, input=MESSAGES[0]["content"], max_output_tokens=16, temperature=0)
    assert reply.object == "response" and reply.status in ("completed", "incomplete"), reply
    chat = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16, temperature=0)
    assert reply.output_text == chat.choices[0].message.content, reply
    assert reply.usage.input_tokens == chat.usage.prompt_tokens, reply.usage
    return repr(reply.output_text)


def responses_streamed(client, model):
    text, kinds = "", []
    with client.responses.stream(
        model=model, input=[{"role": "user", "content": "你好!"}], instructions="Be brief.", max_output_tokens=12,
        temperature=0,
    ) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                text += event.delta
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    return f"{len(kinds)} events, {text!r}"


TOOLS = [{
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}]


def tools(client, model):
    """A model may do without; what it calls must be a call."""
    request = dict(model=model, messages=MESSAGES, tools=TOOLS, max_tokens=24, temperature=0)
    choice = client.chat.completions.create(**request).choices[0]
    for call in choice.message.tool_calls or []:
        assert call.id and call.type == "function" and call.function.name, call
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason, chunks[-1]
    return choice.finish_reason


def tool_result(client, model):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "景德镇"}'}}
    messages = MESSAGES + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "warm"},
    ]
    reply = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, max_tokens=8, temperature=0)
    return repr(reply.choices[0].message.content)


class Verdict(pydantic.BaseModel):
    """What answers are held to; what is not given here may not be there."""

    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["clay", "ore"]
    fired: bool
    degrees: int = pydantic.Field(ge=0, le=2000)


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Jingdezhen", "景德镇"]
    days: int = pydantic.Field(ge=1, le=9)


def structured(client, model):
    """The client's own way: a type goes in, a value of it comes out."""
    verdicts = []
    for temperature in (0, 1):
        reply = client.chat.completions.parse(
            model=model, messages=MESSAGES, response_format=Verdict, max_tokens=120, temperature=temperature, seed=7,
        )
        verdict = reply.choices[0].message.parsed
        assert isinstance(verdict, Verdict), reply
        verdicts.append(verdict.model_dump())
    return verdicts


def structured_streamed(client, model):
    request = dict(model=model, messages=MESSAGES, response_format=Verdict, max_tokens=120, temperature=0)
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        verdict = stream.get_final_completion().choices[0].message.parsed
    assert verdict == client.chat.completions.parse(**request).choices[0].message.parsed, verdict
    return verdict.model_dump()


def structured_responses(client, model):
    reply = client.responses.parse(
        model=model, input=MESSAGES[0]["content"], text_format=Verdict, max_output_tokens=120, temperature=0
    )
    assert isinstance(reply.output_parsed, Verdict), reply
    return reply.output_parsed.model_dump()


def forced_call(client, model):
    tool = openai.pydantic_function_tool(Weather, name="weather")
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        reply = client.chat.completions.parse(
            model=model, messages=MESSAGES, tools=[tool], tool_choice=choice, parallel_tool_calls=False, max_tokens=120,
            temperature=0,
        )
        (call,) = reply.choices[0].message.tool_calls
        assert reply.choices[0].finish_reason == "tool_calls" and call.function.name == "weather", reply
        assert isinstance(call.function.parsed_arguments, Weather), call
    return call.function.parsed_arguments.model_dump()


def forced_call_streamed(client, model):
    request = dict(
        model=model, messages=MESSAGES, tools=[openai.pydantic_function_tool(Weather, name="weather")],
        tool_choice="required", parallel_tool_calls=False, max_tokens=120, temperature=0,
    )
    (whole,) = client.chat.completions.create(**request).choices[0].message.tool_calls
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**request, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.index == 0, chunk
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments) == (whole.function.name, whole.function.arguments), (name, arguments, whole)
    return arguments


def forced_call_responses(client, model):
    tool = {"type": "function", "name": "weather", "parameters": Weather.model_json_schema(), "strict": True}
    reply = client.responses.create(
        model=model, input="你好!", tools=[tool], tool_choice="required", parallel_tool_calls=False,
        max_output_tokens=120, temperature=0,
    )
    (item,) = reply.output
    assert item.type == "function_call" and item.name == "weather", reply
    return Weather.model_validate_json(item.arguments).model_dump()


def strict_tool(client, model):
    """Where the model may choose, a strict tool's arguments still obey its schema."""
    tool = openai.pydantic_function_tool(Weather, name="weather")
    reasons = []
    for seed in range(3):
        reply = client.chat.completions.create(model=model, messages=MESSAGES, tools=[tool], max_tokens=60, seed=seed)
        for call in reply.choices[0].message.tool_calls or []:
            Weather.model_validate_json(call.function.arguments)
        reasons.append(reply.choices[0].finish_reason)
    return reasons


def guided(client, model):
    """vLLM's fields, which its users send beside OpenAI's."""
    def ask(**extra):
        reply = client.completions.create(model=model, prompt=PROMPT, max_tokens=120, temperature=0, extra_body=extra)
        assert reply.choices[0].finish_reason == "stop", reply
        return reply.choices[0].text

    assert ask(structured_outputs={"choice": ["烧土", "炼石"]}) in ("烧土", "炼石")
    number = ask(structured_outputs={"regex": "[0-9]{3}"})
    assert len(number) == 3 and number.isdigit(), number
    Verdict.model_validate(json.loads(ask(guided_json=Verdict.model_json_schema())))
    return number


def settings(client, model):
    request = dict(model=model, messages=MESSAGES, max_tokens=16, temperature=0.8, seed=3)
    more = dict(
        min_p=0.05, top_k=40, typical_p=0.95, repetition_penalty=1.1, dry_multiplier=0.8, dry_base=1.75,
        dry_allowed_length=2, dry_sequence_breakers=["\n"], stop_token_ids=[0],
    )
    reply = client.chat.completions.create(
        **request, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -100}, extra_body=more
    )
    assert reply.choices[0].finish_reason in REASONS, reply
    return repr(reply.choices[0].message.content)


def embeddings(client, model):
    """The client asks for base64 by itself and turns it into numbers."""
    texts = ["clay", "clay", "ore"]
    reply = client.embeddings.create(model=model, input=texts)
    vectors = [entry.embedding for entry in reply.data]
    assert [entry.index for entry in reply.data] == [0, 1, 2] and reply.usage.total_tokens > 0, reply
    assert vectors[0] == vectors[1] and abs(sum(x * x for x in vectors[2]) - 1) < 1e-4, vectors
    plain = client.embeddings.create(model=model, input="clay", encoding_format="float").data[0].embedding
    assert all(abs(x - y) < 1e-6 for x, y in zip(plain, vectors[0])), "base64 and numbers differ"
    return f"{len(vectors[0])} numbers"


def expect_error(kinds, send):
    """The client raises its own error kind with our message in it."""
    try:
        send()
    except kinds as error:
        assert error.body and error.body.get("message"), f"no message in {error.response.text}"
        assert error.body.get("type"), f"no type in {error.response.text}"
        return f"{error.status_code} {error.body['message']}"
    raise AssertionError("the request was accepted")


def unknown_model(client, _model):
    return expect_error(
        openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    )


def bad_temperature(client, model):
    return expect_error(
        (openai.BadRequestError, openai.UnprocessableEntityError),
        lambda: client.chat.completions.create(model=model, messages=MESSAGES, temperature=-1),
    )


def empty_messages(client, model):
    return expect_error(
        (openai.BadRequestError, openai.UnprocessableEntityError),
        lambda: client.chat.completions.create(model=model, messages=[]),
    )


def unknown_field(client, model):
    return expect_error(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=model, messages=MESSAGES, extra_body={"frobnicate": 1}),
    )


def unenforceable_schema(client, model):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    said = expect_error(
        openai.BadRequestError,
        lambda: client.chat.completions.create(
            model=model, messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "numbers", "schema": schema}},
        ),
    )
    assert "uniqueItems" in said, said
    return said


if __name__ == "__main__":
    main()
