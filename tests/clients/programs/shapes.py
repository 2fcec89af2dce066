"""What the programs that ask for answers with a shape share. Bounds keep a small model from talking until its limit."""

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, Field

Name = Annotated[str, Field(min_length=1, max_length=20)]
MESSAGES: list[Any] = [{"role": "user", "content": "Jason is 25 years old and lives in Paris. Answer in JSON."}]
# With an example a small model finds the end of its JSON where no schema bounds it.
BY_EXAMPLE: list[Any] = [
    {"role": "user", "content": "Tom is 7 years old. Answer in JSON."},
    {"role": "assistant", "content": '{"name": "Tom", "age": 7}'},
    {"role": "user", "content": "Jason is 25 years old. Answer in JSON."},
]
HOW: dict[str, Any] = {"temperature": 0, "max_tokens": 400}


class Mood(Enum):
    good = "good"
    bad = "bad"


class Address(BaseModel):
    city: Name
    number: int | None


class Person(BaseModel):
    """A person."""

    name: Name
    age: Annotated[int, Field(ge=0, le=120)]
    mood: Mood
    addresses: Annotated[list[Address], Field(min_length=1, max_length=2)]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Name
    days: Annotated[int, Field(ge=1, le=7)]


class GetTime(BaseModel):
    """The time in a city."""

    city: Name


def function(model: type[BaseModel]) -> dict[str, Any]:
    """The tool that takes a model, as the API has it."""
    parameters = model.model_json_schema()
    return {
        "type": "function",
        "function": {"name": model.__name__, "description": model.__doc__, "parameters": parameters},
    }


TOOLS: list[Any] = [function(GetWeather), function(GetTime)]
MODELS: dict[str, type[BaseModel]] = {"GetWeather": GetWeather, "GetTime": GetTime}


def checked(name: str, arguments: str) -> BaseModel:
    """The arguments of a call, held to the schema of its function."""
    return MODELS[name].model_validate_json(arguments)
