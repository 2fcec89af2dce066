"""langchain-openai: ChatOpenAI and OpenAI with a base URL."""

import openai
from checks import (
    MODEL,
    QUESTION,
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
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI


def model(**how):
    short = {"model": MODEL, "temperature": 0, "max_tokens": 24, "max_retries": 0}
    return ChatOpenAI(base_url=f"{URL}/v1", api_key="none", **{**short, **how})


def invoke():
    answer = model().invoke(QUESTION)
    holds(answer.content, "an empty answer")
    equal(answer.response_metadata["finish_reason"], "length", "finish_reason")
    holds(answer.usage_metadata["output_tokens"], "no usage")
    return answer.content


def stream():
    chunks = list(model().stream(QUESTION))
    equal("".join(chunk.content for chunk in chunks), model().invoke(QUESTION).content, "the chunks together")
    return f"{len(chunks)} chunks"


def usage_in_the_stream():
    first, *rest = model(stream_usage=True).stream(QUESTION)
    for chunk in rest:
        first += chunk
    equal(first.usage_metadata, model().invoke(QUESTION).usage_metadata, "usage")


def batch():
    questions = [QUESTION, "What is the capital of France?", "Name three colours."]
    answers = model().batch(questions)
    equal([one.content for one in answers], [model().invoke(one).content for one in questions], "batched")


def logprobs():
    answer = model().bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    entries = answer.response_metadata["logprobs"]["content"]
    equal("".join(entry["token"] for entry in entries), answer.content, "the tokens together")
    equal({len(entry["top_logprobs"]) for entry in entries}, {2}, "alternatives")


def several_choices_with_a_seed():
    def twice():
        (choices,) = model(n=2, seed=7, temperature=1).generate([[HumanMessage(QUESTION)]]).generations
        return [choice.text for choice in choices]

    first = twice()
    equal(len(set(first)), 2, "different choices")
    equal(twice(), first, "the same again")


def stop_string():
    whole = model().invoke(QUESTION).content
    stop = inner_word(whole)
    equal(model().invoke(QUESTION, stop=[stop]).content, until(whole, stop), "the stopped answer")


def unknown_model():
    error = refused(openai.NotFoundError, lambda: model(model=UNKNOWN_MODEL).invoke(QUESTION))
    return f"{type(error).__name__}, a NotFoundError"


def max_tokens_too_large():
    error = refused(openai.BadRequestError, lambda: model(max_tokens=TOO_MANY_TOKENS).invoke(QUESTION))
    equal(error.param, "max_completion_tokens", "param")
    return f"{type(error).__name__}, a BadRequestError"


def prompt_too_long():
    error = refused(openai.BadRequestError, lambda: model().invoke(TOO_LONG))
    holds(isinstance(error, ContextOverflowError), f"only {type(error).__name__}: {error.message}")
    return type(error).__name__


def completions():
    llm = OpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=8, max_retries=0)
    whole = llm.invoke(TO_GO_ON)
    holds(whole, "an empty answer")
    equal("".join(llm.stream(TO_GO_ON)), whole, "the chunks together")


run(
    invoke,
    stream,
    usage_in_the_stream,
    batch,
    logprobs,
    several_choices_with_a_seed,
    stop_string,
    unknown_model,
    max_tokens_too_large,
    prompt_too_long,
    completions,
)
