"""litellm's provider for servers like vLLM: models named hosted_vllm/NAME."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks the network for prices

import litellm
from checks import (
    MESSAGES,
    MODEL,
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
)

litellm.suppress_debug_info = True
WHERE = {"api_base": f"{URL}/v1", "api_key": "none", "num_retries": 0, "max_retries": 0}


def ask(model=MODEL, **how):
    return litellm.completion(**{"model": f"hosted_vllm/{model}", "messages": MESSAGES, **SHORT, **WHERE, **how})


def text_of(answer):
    return answer.choices[0].message.content


def plain_chat():
    answer = ask()
    holds(text_of(answer), "an empty answer")
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens, "total_tokens")
    return text_of(answer)


def stream():
    chunks = list(ask(stream=True))
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), text_of(ask()), "the chunks together")
    return f"{len(chunks)} chunks"


def usage_in_the_stream():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    found = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    equal([one.total_tokens for one in found], [ask().usage.total_tokens], "usage")
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    equal(text_of(built), text_of(ask()), "the answer put together again")


def logprobs():
    answer = ask(logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    equal("".join(entry.token for entry in entries), text_of(answer), "the tokens together")
    equal({len(entry.top_logprobs) for entry in entries}, {2}, "alternatives")


def several_choices_with_a_seed():
    def twice():
        return [choice.message.content for choice in ask(n=2, seed=7, temperature=1).choices]

    first = twice()
    equal(len(set(first)), 2, "different choices")
    equal(twice(), first, "the same again")


def stop_string():
    whole = text_of(ask())
    stop = inner_word(whole)
    answer = ask(stop=[stop])
    equal((text_of(answer), answer.choices[0].finish_reason), (until(whole, stop), "stop"), "the stopped answer")


def unknown_model():
    refused(litellm.NotFoundError, lambda: ask(model=UNKNOWN_MODEL))


def max_tokens_too_large():
    refused(litellm.BadRequestError, lambda: ask(max_tokens=TOO_MANY_TOKENS))


def prompt_too_long():
    long = [{"role": "user", "content": TOO_LONG}]
    refused(litellm.ContextWindowExceededError, lambda: ask(messages=long))
    return "ContextWindowExceededError"


def list_models():
    found = litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="hosted_vllm", api_base=f"{URL}/v1", api_key="none"
    )
    equal(found, [MODEL], "models")


def fields_that_only_vllm_has():
    answer = ask(extra_body={"ignore_eos": True, "min_p": 0.1, "top_k": 5}, max_tokens=64)
    equal(answer.usage.completion_tokens, 64, "tokens despite an end token")


def completions():
    answer = litellm.text_completion(model=f"hosted_vllm/{MODEL}", prompt=TO_GO_ON, **SHORT, **WHERE)
    holds(answer.choices[0].text, "an empty answer")


run(
    plain_chat,
    stream,
    usage_in_the_stream,
    logprobs,
    several_choices_with_a_seed,
    stop_string,
    unknown_model,
    max_tokens_too_large,
    prompt_too_long,
    list_models,
    fields_that_only_vllm_has,
    completions,
)
