"""A fault in one request's own work on the host ends that request; all others get what they would have got alone."""

import importlib
import itertools
import logging

import pytest

from jaxserve.errors import GenerationFailed
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.world import BOTH, World, prompt

POINTS = (
    "sequence.Sequence.from_request",
    "sequence.Sequence.make_mask",
    "sequence.Sequence.append",
    "sequence.Sequence.set_prompt_logprobs",
    "repetition.RepetitionDetector.push",
    "output_processor.make_position_logprobs",
    "beam_manager.BeamManager.add",
    "beam_manager.BeamManager.make_masks",
    "beam_manager.BeamManager.make_outputs",
    "beam_search.BeamSearch.advance",
    "request_outputs.RequestOutputs.make_output",
    "request_table.RequestTable.on_written",
    "stats.Stats.on_arrival",
    "stats.Stats.on_tokens",
    "stats.Stats.on_finish",
)
"""What the engine's thread does for one request at a time."""

PROMPT_TEXT = "the text of a prompt"


def fail_call(monkeypatch, point: str, number: int) -> None:
    """Make the number-th call of a function of jaxserve.engine raise; the calls before it and behind it work."""
    module, *path, name = point.split(".")
    owner = importlib.import_module(f"jaxserve.engine.{module}")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), itertools.count(1)

    def call(*args, **kwargs):
        if next(calls) == number:
            raise RuntimeError(PROMPT_TEXT)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def run_mixed_requests(overlap: bool) -> World:
    """Run requests of every kind that has work of its own on the host, and audit every step."""
    world = World(num_pages=24, max_num_seqs=5, overlap=overlap)
    world.add(prompt(9), temperature=1.0, seed=1)
    world.add(prompt(11), logprobs=1, prompt_logprobs=1, max_tokens=3)
    world.add(
        prompt(5, start=3),
        bad=((4,), (5, 6)),
        repetition_detection=RepetitionDetection(max_pattern_size=2, min_count=2),
    )
    world.add_group(prompt(6), 2, temperature=1.0, logprobs=1, presence_penalty=1.0, max_tokens=4)
    world.search(prompt(4), 2, max_tokens=3, bad=((4,),))
    world.run()
    return world


@BOTH
@pytest.mark.parametrize("point", POINTS)
def test_whichever_call_for_a_request_fails_the_other_requests_get_their_tokens(point, overlap, monkeypatch):
    for number in itertools.chain(range(1, 9), range(10, 60, 9)):
        with monkeypatch.context() as patch:
            fail_call(patch, point, number)
            world = run_mixed_requests(overlap)
        failed = [request for request in world.requests.values() if world.reason(request) == "error"]
        searches = [one for one in world.searches.values() if world.outputs[one.request_id][-1].error is not None]
        ends = [world.outputs[one.request_id][-1].error for one in (*failed, *searches)]
        assert len(ends) <= 1 and all(isinstance(error, GenerationFailed) for error in ends)
        assert world.stats.snapshot(num_running=0, num_waiting=0).counters["request_faults"] == len(ends)
        world.check(*[request for request in world.requests.values() if request not in failed])
        if not searches:
            world.check_search(*world.searches.values())
        if not ends:
            assert number > 1, "the workload never calls it"
            return


def test_a_fault_is_logged_once_with_the_request_and_without_its_text(monkeypatch, caplog):
    fail_call(monkeypatch, "stats.Stats.on_tokens", 3)
    with caplog.at_level(logging.ERROR):
        run_mixed_requests(overlap=True)
    [record] = caplog.records
    assert "has failed with RuntimeError" in record.getMessage() and "on_tokens" in record.getMessage()
    assert PROMPT_TEXT not in caplog.text


def test_a_request_that_cannot_be_added_ends_though_nothing_else_runs(monkeypatch):
    fail_call(monkeypatch, "sequence.Sequence.from_request", 1)
    world = World()
    request = world.add(prompt(5))
    world.run()
    [output] = world.outputs[request.request_id]
    assert isinstance(output.error, GenerationFailed)
