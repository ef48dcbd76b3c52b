"""Does the official OpenAI client accept our server?

    python bench/openai_client.py BASE_URL MODEL        (for example http://127.0.0.1:8000/v1 speedrun)

Lists models, chats with and without streaming, completes with echo and log-probabilities, and provokes errors.
Prints a line for each check; ends with 1 if one fails.
"""

import math
import sys

import openai

PROMPT = "Numbers: 1 2 3 四五六"
MESSAGES = [{"role": "user", "content": "你好! What is 2 + 3?"}]
REASONS = ("stop", "length")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base_url, model = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="unused", timeout=120, max_retries=0)
    checks = [
        models, chat, chat_streamed, chat_stream_equals_whole, chat_seeded, chat_stop, completion, completion_streamed,
        completion_echo, unknown_model, bad_temperature, empty_messages,
    ]
    failed = 0
    for check in checks:
        try:
            print(f"ok      {check.__name__}: {check(client, model)}")
        except (AssertionError, openai.OpenAIError, TypeError, AttributeError, IndexError) as problem:
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


if __name__ == "__main__":
    main()
