"""What the programs of the Python agents share: two tools, what is asked, and what a loop must have made of it."""

from collections.abc import Callable

import openai
from checks import holds

ASKED = (
    "What is the weather in Oslo right now?",
    "What time is it in Tokyo?",
    "What is the weather in Lima right now?",
)
called: list[str] = []


def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    called.append("get_weather")
    return f"It is sunny in {city}, 21 degrees."


def get_time(city: str) -> str:
    """Get the current time in a city."""
    called.append("get_time")
    return "12:30"


TOOLS = [get_weather, get_time]


def loops(answer: Callable[[str], str]) -> str:
    """Ask each question of an agent. A call that was written must have been made, not told as words."""
    num_called = 0
    for question in ASKED:
        called.clear()
        try:
            text = answer(question)
        except openai.BadRequestError as error:
            holds("--tool-call-parser" in error.message, error.message)
            return "refused: the model knows no calls"
        num_called += bool(called)
        holds(called or '"get_' not in text, f"a call in the words: {text}")
    return f"tools were called in {num_called} of {len(ASKED)}"
