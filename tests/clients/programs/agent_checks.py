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
    """Ask each question of an agent. A call that was written must have been made, not told as words.

    A small model may go on calling until the client gives up: that is counted, and no fault of the server.
    """
    num_called = num_endless = 0
    for question in ASKED:
        called.clear()
        try:
            text = answer(question)
        except openai.BadRequestError as error:
            holds("--tool-call-parser" in error.message, error.message)
            return "refused: the model knows no calls"
        except Exception:  # each framework has one of its own for a loop without an end
            if not called:
                raise
            num_endless += 1
            text = ""
        num_called += bool(called)
        holds(called or '"get_' not in text, f"a call in the words: {text}")
    endless = f", {num_endless} without an end" if num_endless else ""
    return f"tools were called in {num_called} of {len(ASKED)}{endless}"
