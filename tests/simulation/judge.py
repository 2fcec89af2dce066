"""Judges of replies: whether each is the right one, or one that the faults and limits of its time excuse."""

from collections.abc import Sequence
from typing import Any

from jaxserve.engine.request import Request
from tests.simulation.client import Outcome
from tests.simulation.deployment import NEVER, Incarnation
from tests.simulation.truth import Reply, expect, is_beginning, read_reply

FAST_LINK_S = 0.02  # latency up to which a client notices an end soon
DEAD_ENGINE_TOLD_S = 5.0
REQUEST_FAULTS = ("nan_row", "detok_raise", "culprit")


class WrongReply(AssertionError):
    """A client has got what it must not get."""


class Judge:
    """Judges the outcomes of a simulation.

    settings   Of the plan.
    lives      Of the server.
    faults     Pairs of time and point, as they happened.
    """

    def __init__(
        self, settings: dict[str, Any], lives: Sequence[Incarnation], faults: Sequence[tuple[float, str]]
    ) -> None:
        self._settings, self._lives, self._faults = settings, lives, faults

    def judge(self, outcome: Outcome) -> None:
        """Raise WrongReply if an outcome is not right."""
        try:
            self._judge(outcome)
        except AssertionError as error:
            raise WrongReply(f"request {outcome.base}: {error}; {_describe(outcome)}") from error

    def _judge(self, outcome: Outcome) -> None:
        assert not outcome.is_stuck, "it was never answered"
        assert not outcome.extra or outcome.call["manner"]["how"] == "pipelined", "bytes behind the last reply"
        if outcome.is_refused:
            assert not self._was_up(outcome), "a server that is up has refused a connection"
            return
        if outcome.status == 200 and "seed" in (outcome.request["body"] or ""):
            self._judge_generation(outcome)
        elif outcome.is_complete:
            self._judge_status(outcome, outcome.status or 0)
        if not outcome.is_complete and not outcome.has_left:
            assert self._may_be_cut(outcome), "the connection has ended before the reply"
        self._judge_end_of_engine(outcome)

    def _judge_generation(self, outcome: Outcome) -> None:
        assert outcome.request["status"] == 200, "it must be refused"
        is_stream = bool(outcome.request["body"].get("stream"))
        if not is_stream and not outcome.is_complete:
            return
        reply = read_reply(outcome.body, is_stream)
        is_cut_behind_its_end = reply.is_done and self._may_be_cut(outcome)  # in the last chunk, which is empty
        assert reply.is_done == outcome.is_complete or is_cut_behind_its_end, (
            "a reply that is not whole, or goes on after its end"
        )
        if reply.error is not None:
            assert is_stream, "status 200 with an error"
            self._judge_status(outcome, reply.error["code"])
        self._compare(outcome, reply)

    def _compare(self, outcome: Outcome, reply: Reply) -> None:
        truth = {}
        for prompt, requests in enumerate(self._find_requests(outcome)):
            choices = [choice for request in requests for choice in expect(request)]
            truth |= {prompt * (outcome.request["body"].get("n") or 1) + at: one for at, one in enumerate(choices)}
        is_whole = reply.is_done and reply.error is None
        for index, choice in reply.choices.items():
            expected = truth[index]
            assert is_beginning(choice.token_ids, expected.token_ids), f"choice {index}: {choice}, not {expected}"
            assert expected.text.startswith(choice.text), f"choice {index}: {choice}, not {expected}"
            if choice.finish_reason is not None:
                assert choice == expected, f"choice {index}: {choice}, not {expected}"
        if is_whole:
            assert reply.choices.keys() == truth.keys() and len(truth) == _num_choices(outcome), (
                f"choices {sorted(reply.choices)}"
            )
            assert all(choice.finish_reason for choice in reply.choices.values()), "a choice has not ended"
            if reply.usage is not None:
                num_tokens = sum(len(choice.token_ids) for choice in truth.values())
                assert reply.usage["completion_tokens"] == num_tokens, f"usage {reply.usage}, not {num_tokens} tokens"

    def _find_requests(self, outcome: Outcome) -> Sequence[Sequence[Request]]:
        """Return the engine requests of a client's request, by prompt."""
        found = [life.requests[outcome.base] for life in self._lives if outcome.base in life.requests]
        assert len(found) == 1, f"it was started {len(found)} times"
        return found[0]

    def _judge_status(self, outcome: Outcome, status: int) -> None:
        wanted, settings = outcome.request["status"], self._settings
        if status == wanted:
            return
        if status in (429, 503):
            assert "retry-after" in outcome.headers or outcome.status == 200, "no Retry-After"
        excuses = {
            401: outcome.call["key"] == "wrong",
            408: outcome.ended_s - outcome.sent_s >= settings["body_timeout_s"],
            429: bool(settings["max_concurrency_per_key"]),
            400: _num_choices(outcome)
            > min(settings["max_concurrency_per_key"] or 99, settings["max_num_queued_reqs"]),
            504: 0 < settings["request_timeout_s"] <= outcome.ended_s - outcome.sent_s,
            503: settings["is_tight"] or not self._was_up(outcome) or self._waited(outcome),
            500: any(
                outcome.sent_s <= at_s <= outcome.ended_s for at_s, point in self._faults if point in REQUEST_FAULTS
            )
            or any(outcome.sent_s <= life.dead_at_s <= outcome.ended_s for life in self._lives),
        }
        assert excuses.get(status), f"status {status}, not {wanted}"

    def _waited(self, outcome: Outcome) -> bool:
        return 0 < self._settings["queue_timeout_s"] <= outcome.ended_s - outcome.sent_s

    def _was_up(self, outcome: Outcome) -> bool:
        """Tell whether the server was up, and not asked to end, all the time."""
        return any(
            life.listening_s <= outcome.sent_s and outcome.ended_s <= min(life.draining_s, life.dead_at_s, life.ended_s)
            for life in self._lives
        )

    def _may_be_cut(self, outcome: Outcome) -> bool:
        how = outcome.call["manner"]["how"]
        is_slow = how in ("slow", "stall") or outcome.call["link"]["bytes_per_s"] < 1e5
        has_idled = how == "silent" or outcome.base % 8 > 0
        is_slow_sender = how == "slow_body"
        return not self._was_up(outcome) or is_slow or has_idled or is_slow_sender or self._settings["is_tight"]

    def _judge_end_of_engine(self, outcome: Outcome) -> None:
        if outcome.call["manner"]["how"] != "read" or outcome.call["link"]["latency_s"] > FAST_LINK_S:
            return
        if outcome.call["link"]["bytes_per_s"] < 1e5 or outcome.call["link"]["window_bytes"] < 4096:
            return
        for life in self._lives:
            if life.dead_at_s < NEVER and outcome.sent_s <= life.dead_at_s < outcome.ended_s:
                late_s = outcome.ended_s - life.dead_at_s
                assert late_s <= DEAD_ENGINE_TOLD_S + 0.5, f"it was told {late_s:.1f} s after the death of the engine"


def _num_choices(outcome: Outcome) -> int:
    body = outcome.request["body"]
    if not isinstance(body, dict):
        return 0
    prompt = body.get("prompt")
    return (body.get("n") or 1) * (len(prompt) if isinstance(prompt, list) else 1)


def _describe(outcome: Outcome) -> str:
    return (
        f"sent {outcome.sent_s:.3f}, ended {outcome.ended_s:.3f}, status {outcome.status}, complete "
        f"{outcome.is_complete}, left {outcome.has_left}, manner {outcome.call['manner']}, key {outcome.call['key']}, "
        f"{outcome.request}, body {outcome.body[-400:]!r}"
    )
