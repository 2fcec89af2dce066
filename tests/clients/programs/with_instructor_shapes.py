"""instructor with fields of the API: Mode.TOOLS names a tool, Mode.JSON_SCHEMA sends the schema of a response."""

import instructor
import openai
from checks import MODEL, URL, equal, holds, refused, run
from instructor.core import InstructorRetryException
from pydantic import field_validator
from shapes import HOW, MESSAGES, Address, GetWeather, Person

plain = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
by_tools = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
by_schema = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
ASK = {"model": MODEL, "messages": MESSAGES, "max_retries": 0, **HOW}


class Impossible(Address):
    @field_validator("city")
    @classmethod
    def refuse(cls, city: str) -> str:
        raise ValueError(f"{city} is not what was meant")


def a_model_by_tools():
    person = by_tools.create(response_model=Person, **ASK)
    holds(isinstance(person, Person), repr(person))
    return repr(person)


def a_model_by_tools_with_its_completion():
    person, completion = by_tools.create_with_completion(response_model=Person, **ASK)
    (call,) = completion.choices[0].message.tool_calls
    equal(Person.model_validate_json(call.function.arguments).model_dump(), person.model_dump(), "the call")


def partial_models_by_tools():
    *_, last = by_tools.create_partial(response_model=GetWeather, **ASK)
    equal(last.model_dump(), by_tools.create(response_model=GetWeather, **ASK).model_dump(), "the last one")


def asked_again_with_the_error():
    sent = []
    by_tools.on("completion:kwargs", lambda *_, **kwargs: sent.append(kwargs["messages"]))
    refused(InstructorRetryException, lambda: by_tools.create(response_model=Impossible, **ASK | {"max_retries": 2}))
    holds(len(sent) > 1 and sent[-1][-1]["role"] == "tool", f"{len(sent)} requests")
    return f"{len(sent)} requests, calls and their errors in the history"


def a_model_by_its_schema():
    person = by_schema.create(response_model=Person, **ASK)
    holds(isinstance(person, Person), repr(person))
    return repr(person)


def partial_models_by_their_schema():
    *_, last = by_schema.create_partial(response_model=GetWeather, **ASK)
    equal(last.model_dump(), by_schema.create(response_model=GetWeather, **ASK).model_dump(), "the last one")


run(
    a_model_by_tools,
    a_model_by_tools_with_its_completion,
    partial_models_by_tools,
    asked_again_with_the_error,
    a_model_by_its_schema,
    partial_models_by_their_schema,
)
