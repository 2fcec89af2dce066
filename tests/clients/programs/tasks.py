"""What the programs of the Python clients ask of the scripted server, whose answers are known: see ScriptedLLM."""

HELLO = "Hello there."
SAID = f"You said: {HELLO}"
THOUGHT = "Let me think."
TASK = (
    'Please call get_weather with {"city":"Oslo"} and call get_time with {"city":"Oslo"} '
    'then call get_weather with {"city":"Lima"}.'
)
DONE = "Results: sunny in Oslo; 12:30 in Oslo; sunny in Lima"
NUM_TURNS = 3  # that TASK takes
NUM_CALLS = 3


def get_weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"sunny in {city}"


def get_time(city: str) -> str:
    """Tells the time in a city."""
    return f"12:30 in {city}"


FUNCTIONS = {"get_weather": get_weather, "get_time": get_time}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
