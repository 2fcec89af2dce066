"""langchain-openai: with_structured_output in its three methods, and bind_tools."""

from checks import MODEL, URL, equal, holds, refused, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import BadRequestError
from shapes import BY_EXAMPLE, MESSAGES, GetTime, GetWeather, Person, checked

QUESTION = MESSAGES[0]["content"]
model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=400, max_retries=0)


def a_model_by_its_schema():
    found = model.with_structured_output(Person).invoke(QUESTION)  # json_schema is its default
    holds(isinstance(found, Person), repr(found))
    return repr(found)


def a_model_by_a_tool():
    found = model.with_structured_output(Person, method="function_calling").invoke(QUESTION)
    holds(isinstance(found, Person), repr(found))


def json_mode():
    found = model.with_structured_output(method="json_mode").invoke(BY_EXAMPLE)
    holds(isinstance(found, dict), repr(found))


def with_the_raw_answer():
    found = model.with_structured_output(Person, include_raw=True).invoke(QUESTION)
    equal(found["parsing_error"], None, "parsing_error")
    equal(Person.model_validate_json(found["raw"].content), found["parsed"], "the raw answer")


def a_model_in_a_stream():
    *_, last = model.with_structured_output(Person).stream(QUESTION)
    equal(last, model.with_structured_output(Person).invoke(QUESTION), "the last one")


def any_tool():
    answer = model.bind_tools([GetWeather, GetTime], tool_choice="any").invoke(QUESTION)
    holds(answer.tool_calls and not answer.invalid_tool_calls, repr(answer))
    for call in answer.tool_calls:
        {"GetWeather": GetWeather, "GetTime": GetTime}[call["name"]].model_validate(call["args"])
    return str([call["name"] for call in answer.tool_calls])


def a_named_tool():
    bound = model.bind_tools([GetWeather, GetTime], tool_choice="GetTime", parallel_tool_calls=False)
    (call,) = bound.invoke(QUESTION).tool_calls
    equal(call["name"], "GetTime", "the tool")
    answer = model.bind_tools([GetWeather, GetTime], tool_choice="none").invoke(
        [HumanMessage(QUESTION), bound.invoke(QUESTION), ToolMessage("12:30", tool_call_id=call["id"])]
    )
    holds(answer.content and not answer.tool_calls, "no words after the result")


def tools_in_a_stream():
    bound = model.bind_tools([GetWeather, GetTime], tool_choice="any")
    first, *rest = bound.stream(QUESTION)
    for chunk in rest:
        first += chunk
    said = [(call["name"], call["args"]) for call in first.tool_calls]
    equal(said, [(call["name"], call["args"]) for call in bound.invoke(QUESTION).tool_calls], "the calls together")
    for call in first.tool_call_chunks:
        checked(call["name"], call["args"])


def tools_as_the_model_likes():
    try:
        answer = model.bind_tools([GetWeather, GetTime]).invoke(QUESTION)
    except BadRequestError as error:
        holds("--tool-call-parser" in error.message, error.message)
        return "refused: the model knows no calls"
    holds(answer.content or answer.tool_calls, "neither words nor calls")
    return answer.content or str([call["name"] for call in answer.tool_calls])


def a_keyword_that_cannot_be_enforced():
    schema = {"title": "S", "type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    shape = {"type": "json_schema", "json_schema": {"name": "S", "schema": schema}}
    error = refused(BadRequestError, lambda: model.bind(response_format=shape).invoke(QUESTION))
    holds("uniqueItems" in error.message, error.message)


run(
    a_model_by_its_schema,
    a_model_by_a_tool,
    json_mode,
    with_the_raw_answer,
    a_model_in_a_stream,
    any_tool,
    a_named_tool,
    tools_in_a_stream,
    tools_as_the_model_likes,
    a_keyword_that_cannot_be_enforced,
)
