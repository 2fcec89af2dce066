"""What a request must be answered, computed from its tokens alone, and what its reply says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxserve.engine.request import Request
from tests.expected_output import expected_beams, expected_output
from tests.simulation.model import ALPHABET


@dataclass
class Choice:
    """One choice of a reply, or the beginning of one."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None


@dataclass
class Reply:
    """A reply as far as it was read. error: the object of one that has failed."""

    choices: dict[int, Choice] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    is_done: bool = False


def expect(request: Request) -> list[Choice]:
    """Compute the choices of an engine request: one, or those of a beam search."""
    if request.is_beam_search:
        return [_cut(list(truth.tokens), truth.reason, request) for truth in expected_beams(request)]
    truth = expected_output(request)
    return [_cut(list(truth.tokens), truth.reason, request)]


def _cut(tokens: list[int], reason: str, request: Request) -> Choice:
    """Turn tokens into text, up to the first stop string."""
    text = ""
    stops = request.params.stop
    for number, token in enumerate(tokens, 1):
        if not (reason == "stop" and number == len(tokens)) and token > 1:
            text += ALPHABET[token - 2]
            stop = next((stop for stop in stops if text.endswith(stop)), None)
            if stop is not None and number > request.params.min_tokens:
                return Choice(tokens[:number], text[: len(text) - len(stop)], "stop")
    return Choice(tokens, text, reason)


def read_reply(body: bytes, is_stream: bool) -> Reply:
    """Read a reply of a generation endpoint. Raises AssertionError if a complete stream is none."""
    return _read_stream(body) if is_stream else _read_whole(body)


def _read_whole(body: bytes) -> Reply:
    data = json.loads(body)
    if "error" in data:
        return Reply(error=data["error"], is_done=True)
    choices = {}
    for choice in data["choices"]:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        choices[choice["index"]] = Choice(choice["token_ids"], text or "", choice["finish_reason"])
    return Reply(choices, usage=data["usage"], is_done=True)


def _read_stream(body: bytes) -> Reply:
    reply = Reply()
    frames = body.split(b"\n\n")
    for frame in frames[:-1]:  # the last one is cut off, or empty
        assert not reply.is_done, "an event behind the end of a stream"
        if frame.startswith(b":"):
            continue
        assert frame.startswith(b"data: "), frame
        if frame == b"data: [DONE]":
            reply.is_done = True
            continue
        event = json.loads(frame[len(b"data: ") :])
        assert reply.error is None, "an event behind an error"
        if "error" in event:
            reply.error = event["error"]
            continue
        reply.usage = event.get("usage") or reply.usage
        for choice in event["choices"]:
            _add(reply.choices.setdefault(choice["index"], Choice()), choice)
    return reply


def _add(choice: Choice, event: dict[str, Any]) -> None:
    assert choice.finish_reason is None, "an event behind the end of a choice"
    delta = event.get("delta") or {}
    choice.text += event.get("text") or delta.get("content") or ""
    choice.token_ids += event.get("token_ids") or []
    choice.finish_reason = event["finish_reason"]


def is_beginning(part: Sequence[int], whole: Sequence[int]) -> bool:
    """Tell whether `part` is how `whole` begins."""
    return list(part) == list(whole[: len(part)])
