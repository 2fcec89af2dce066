"""instructor in plain text: Mode.MD_JSON asks for JSON in a Markdown block, without fields of the API for it."""

import instructor
import openai
from checks import MODEL, UNKNOWN_MODEL, URL, equal, holds, refused, run
from instructor.core import InstructorRetryException
from pydantic import BaseModel, field_validator

plain = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
client = instructor.from_openai(plain, mode=instructor.Mode.MD_JSON)
# One example in instructor's own words: without it a small model gives the schema back that it is shown.
ASKED = "Return the correct JSON response within a ```json codeblock. not the JSON_SCHEMA"
MESSAGES = [
    {"role": "user", "content": f"Tom is 7 years old.\n\n{ASKED}"},
    {"role": "assistant", "content": '```json\n{"name": "Tom", "age": 7}\n```'},
    {"role": "user", "content": "Jason is 25 years old."},
]
HOW = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 60, "max_retries": 2}


class Person(BaseModel):
    name: str
    age: int


class Impossible(BaseModel):
    age: int

    @field_validator("age")
    @classmethod
    def refuse(cls, age: int) -> int:
        raise ValueError(f"{age} is not what was meant")


def a_model_out_of_plain_text():
    person = client.create(response_model=Person, **HOW)
    equal((person.name, person.age), ("Jason", 25), "read")
    return repr(person)


def with_the_completion():
    person, completion = client.create_with_completion(response_model=Person, **HOW)
    holds(person.name in completion.choices[0].message.content, "not in the completion")
    holds(completion.usage.total_tokens, "no usage")


def partial_models_in_a_stream():
    *_, last = client.create_partial(response_model=Person, **HOW)
    equal((last.name, last.age), ("Jason", 25), "the last one")


def asked_again_with_the_error():
    sent = []
    client.on("completion:kwargs", lambda *_, **kwargs: sent.append(len(kwargs["messages"])))
    refused(InstructorRetryException, lambda: client.create(response_model=Impossible, **HOW))
    holds(len(sent) > 1 and sent == sorted(set(sent)), f"messages sent: {sent}")
    return f"{sent} messages"


def unknown_model():
    error = refused(
        InstructorRetryException, lambda: client.create(response_model=Person, **HOW | {"model": UNKNOWN_MODEL})
    )
    equal((type(error.__cause__), error.n_attempts), (openai.NotFoundError, 1), "the cause, and how often it was met")
    return "NotFoundError is the cause, and not asked for again"


run(
    a_model_out_of_plain_text,
    with_the_completion,
    partial_models_in_a_stream,
    asked_again_with_the_error,
    unknown_model,
)
