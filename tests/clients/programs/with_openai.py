"""The openai SDK in Python."""

import openai
from checks import (
    MESSAGES,
    MODEL,
    OVERFLOW,
    SHORT,
    TO_GO_ON,
    TOO_LONG,
    TOO_MANY_TOKENS,
    UNKNOWN_MODEL,
    URL,
    equal,
    holds,
    inner_word,
    refused,
    run,
    until,
    wait_until_idle,
)

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
chat = client.chat.completions


def ask(**how):
    return chat.create(**{"model": MODEL, "messages": MESSAGES, **SHORT, **how})


def text_of(answer):
    return answer.choices[0].message.content


def plain_chat():
    answer = ask()
    equal((answer.object, answer.model, answer.choices[0].message.role), ("chat.completion", MODEL, "assistant"), "is")
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens, "total_tokens")
    holds(text_of(answer), "an empty answer")
    return text_of(answer)


def stream():
    chunks = list(ask(stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    equal("".join(pieces), text_of(ask()), "the chunks together")
    equal([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason], ["length"], "ends")
    return f"{len(chunks)} chunks"


def usage_in_the_stream():
    *chunks, last = ask(stream=True, stream_options={"include_usage": True})
    equal((last.choices, last.usage), ([], ask().usage), "the last chunk")
    holds(all(chunk.usage is None for chunk in chunks), "usage in an earlier chunk")


def stream_helper():
    with chat.stream(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=200) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    holds({"content.delta", "content.done"} <= kinds, f"events {kinds}")
    equal(text_of(final), text_of(ask(max_tokens=200)), "the final completion")


def logprobs():
    answer = ask(logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    equal(len(entries), answer.usage.completion_tokens, "entries")
    equal("".join(entry.token for entry in entries), text_of(answer), "the tokens together")
    for entry in entries:
        equal(len(entry.top_logprobs), 3, "alternatives")
        equal(entry.logprob, max(one.logprob for one in entry.top_logprobs), "a greedy token's logprob")


def several_choices_with_a_seed():
    def twice():
        return [choice.message.content for choice in ask(n=2, seed=7, temperature=1).choices]

    first = twice()
    equal(len(set(first)), 2, "different choices")
    equal(twice(), first, "the same again")


def stop_string():
    whole = text_of(ask())
    stop = inner_word(whole)
    answer = ask(stop=[stop, "\n\n\n"])
    equal((text_of(answer), answer.choices[0].finish_reason), (until(whole, stop), "stop"), "the stopped answer")
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(stop=stop, stream=True)]
    equal("".join(pieces), until(whole, stop), "the stopped stream")


def unknown_model():
    error = refused(openai.NotFoundError, lambda: ask(model=UNKNOWN_MODEL))
    holds(UNKNOWN_MODEL in error.message, error.message)
    return f"NotFoundError, code {error.code}, param {error.param}"


def max_tokens_too_large():
    error = refused(openai.BadRequestError, lambda: ask(max_tokens=TOO_MANY_TOKENS))
    equal(error.param, "max_tokens", "param")
    return "BadRequestError"


def prompt_too_long():
    error = refused(openai.BadRequestError, lambda: ask(messages=[{"role": "user", "content": TOO_LONG}]))
    holds(OVERFLOW in error.message, error.message)


def list_models():
    equal(next(iter(client.models.list())).id, MODEL, "the first model")
    equal(client.models.retrieve(MODEL).id, MODEL, "retrieved")
    refused(openai.NotFoundError, lambda: client.models.retrieve(UNKNOWN_MODEL))


def left_stream():
    stream = ask(stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(stream)
    stream.close()
    wait_until_idle()


def completions():
    answer = client.completions.create(model=MODEL, prompt=TO_GO_ON, **SHORT)
    chunks = client.completions.create(model=MODEL, prompt=TO_GO_ON, **SHORT, stream=True)
    holds(answer.choices[0].text, "an empty answer")
    equal("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text, "the chunks together")


def completions_with_echo():
    answer = client.completions.create(model=MODEL, prompt=TO_GO_ON, echo=True, logprobs=1, max_tokens=1)
    found = answer.choices[0].logprobs
    holds(answer.choices[0].text.startswith(TO_GO_ON), answer.choices[0].text)
    equal("".join(found.tokens), answer.choices[0].text, "the tokens together")
    equal(len(found.tokens), answer.usage.prompt_tokens + 1, "tokens")
    holds(found.token_logprobs[0] is None and None not in found.token_logprobs[1:], "null for the first token alone")


run(
    plain_chat,
    stream,
    usage_in_the_stream,
    stream_helper,
    logprobs,
    several_choices_with_a_seed,
    stop_string,
    unknown_model,
    max_tokens_too_large,
    prompt_too_long,
    list_models,
    left_stream,
    completions,
    completions_with_echo,
)
