"""Grammars that would like to take the server with them, while somebody else's stream goes on.

Each is answered or refused, tokens of the stream arrive meanwhile, and what the stream says is what it says alone.
"""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.contract.api_client import CHAT, FOX

pytestmark = pytest.mark.assets


DEEP = '{"items":' * 3000 + "{}" + "}" * 3000
WIDE = {"type": "object", "properties": {f"key{i}": {"type": "string", "maxLength": i} for i in range(3000)}}
LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
BUSH = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}] * 50}}}
EXACT = {"type": "array", "items": {"type": "string", "minLength": 10**6, "maxLength": 10**6}, "minItems": 10**6}
RULES = "\n".join(["root ::= r0", *(f'r{i} ::= r{i + 1} | "{i}"' for i in range(5000)), 'r5000 ::= "z"'])
TAG = '{"type":"structural_tag","format":' + '{"type":"sequence","elements":[' * 200 + "]}" * 200 + "}"
HOSTILE = {
    "deep": {"json": DEEP},
    "wide": {"json": WIDE},
    "loop": {"json": LOOP},
    "bush": {"json": BUSH},
    "enormous": {"json": EXACT},
    "pattern": {"json": {"type": "string", "pattern": "^(a|aa)+(b|bb)+$" * 40}},
    "repeats": {"regex": "((a{1,1000}){1,1000}){1,1000}"},
    "backtracking": {"regex": "(x+x+)+y"},
    "parentheses": {"regex": "(" * 20_000 + "a" + ")" * 20_000},
    "lookbehind": {"regex": "(?<=a)b"},
    "intersections": {"regex": "(.*a.{20}&.*b.{20})&(.*c.{25})"},
    "choices": {"choice": [f"option number {i} of many {i * i}" for i in range(20_000)]},
    "long choice": {"choice": ["x" * 500_000]},
    "left recursion": {"grammar": 'root ::= root "a" | root root | "b"'},
    "ambiguity": {"grammar": 'root ::= s\ns ::= s s s | s s | "a" | ""'},
    "many rules": {"grammar": RULES},
    "lark bomb": {"grammar": "start: A\nA: /((((.{1,500}){1,500}){1,500}){1,500})/"},
    "tag": {"structural_tag": TAG},
}


class Background:
    """A stream that somebody else reads, on a thread of its own."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.pieces: list[str] = []
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "Background":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._wanted.is_set():
            self.pieces += told(self._http, self._wanted)


def told(http: httpx.Client, stop: threading.Event | None = None) -> Iterator[str]:
    body = {"messages": FOX, "temperature": 0, "max_tokens": 200, "ignore_eos": True, "stream": True}
    with http.stream("POST", CHAT, json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            if stop is not None and stop.is_set():
                return


@pytest.fixture(scope="module")
def background(http: httpx.Client) -> Iterator[Background]:
    with Background(http) as background:
        yield background


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_answered_or_refused_while_others_are_served(ask, background, name):
    before = len(background.pieces)
    reply = ask.ask(structured_outputs=HOSTILE[name], max_tokens=24, temperature=1, seed=1)
    assert reply.status_code in (200, 400), reply.text
    if reply.status_code == 400:
        assert reply.json()["error"]["param"] == "structured_outputs"
        assert len(reply.content) < 4000
    assert ask.text(structured_outputs={"choice": ["still", "here"]}) in ("still", "here")
    assert len(background.pieces) > before


def test_the_stream_has_said_what_it_says_alone(http, background):
    alone = "".join(told(http))
    said = "".join(background.pieces)
    assert len(said) > len(alone) and said.startswith(alone)
