"""A step that raises: every request gets the tokens that it would have got, except one for which steps keep failing."""

import pytest

from jaxserve.engine.engine import Engine
from jaxserve.errors import GenerationFailed
from jaxserve.sampling_params import RepetitionDetection
from tests.engine.faulty_runner import STAGES, DeviceFault
from tests.engine.world import BOTH, World, prompt


def add_mixed_requests(world: World) -> None:
    """Add requests with masks, penalties, log-probabilities, further choices, and a beam search."""
    world.add(prompt(9), temperature=1.0, seed=1, presence_penalty=1.0)
    world.add(prompt(21), logprobs=1, prompt_logprobs=1, max_tokens=3)
    world.add(
        prompt(5, start=3),
        bad=((4,), (5, 6)),
        repetition_detection=RepetitionDetection(max_pattern_size=2, min_count=2),
    )
    world.add_group(prompt(6), 3, temperature=1.0, logprobs=1, max_tokens=9)
    world.search(prompt(4), 2, max_tokens=3, bad=((4,),))
    world.add(prompt(9), max_tokens=12)


def count_rebuilds(world: World) -> float:
    return world.stats.snapshot(num_running=0, num_waiting=0).counters["engine_rebuilds"]


@BOTH
@pytest.mark.parametrize("stage", STAGES)
def test_whichever_step_fails_once_every_request_gets_its_tokens(stage, overlap):
    number = 0
    while True:
        world = World(num_pages=24, max_num_seqs=5, overlap=overlap, chunk=8, budget=16)
        world.runner.calls_left[stage] = number
        add_mixed_requests(world)
        world.run()
        world.check()
        assert count_rebuilds(world) == world.runner.num_faults
        if not world.runner.num_faults:
            break
        number += 1
    assert number > 10, "the load takes more steps than that"


@BOTH
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("culprit", range(9))
def test_a_request_for_which_every_step_fails_ends_alone(culprit, stage, overlap):
    world = World(num_pages=64, max_num_seqs=9, overlap=overlap)
    requests = [world.add(prompt(9 + index, start=2 + index % 3), max_tokens=9) for index in range(9)]
    for _ in range(4):
        world.step()
    world.runner.culprits[requests[culprit].request_id] = stage
    world.run()
    others = [request for request in requests if request is not requests[culprit]]
    world.check(*others)
    assert isinstance(world.outputs[requests[culprit].request_id][-1].error, GenerationFailed)
    assert count_rebuilds(world) <= 4 + 3  # log2(9), the first one, that with all, and that of the culprit alone


@BOTH
def test_two_of_eight_requests_fail_and_six_go_on(overlap):
    world = World(num_pages=64, max_num_seqs=8, overlap=overlap)
    requests = [world.add(prompt(9 + index), max_tokens=9) for index in range(8)]
    for request in (requests[2], requests[7]):
        world.runner.culprits[request.request_id] = "fetch"
    world.run()
    world.check(*[request for request in requests if request.request_id not in world.runner.culprits])
    assert {world.reason(requests[2]), world.reason(requests[7])} == {"error"}


def test_requests_that_arrive_in_a_search_wait_for_a_few_tokens_only():
    world = World(num_pages=64, max_num_seqs=8)
    requests = [world.add(prompt(9 + index), max_tokens=50, eos=None) for index in range(4)]
    world.step()
    world.runner.culprits[requests[3].request_id] = "forward"
    world.step()
    newcomer = world.add(prompt(5), max_tokens=1)
    num_steps = 0
    while not world.reason(newcomer):
        world.step()
        num_steps += 1
    assert num_steps < 12 and world.reason(requests[0]) is None
    world.run()
    world.check(newcomer, *requests[:3])


def test_a_choice_whose_first_sibling_is_held_back_does_not_wait_for_it():
    world = World(num_pages=64, max_num_seqs=8)
    first, *siblings = world.add_group(prompt(9), 4, temperature=1.0)
    world.runner.culprits[siblings[2].request_id] = "forward"
    world.run()
    world.check(first, *siblings[:2])


@BOTH
def test_tokens_applied_in_the_step_that_fails_are_sent(overlap):
    world = World(overlap=overlap)
    engine = Engine(world.scheduler, world.runner, overlap=overlap)
    request = world.add(prompt(5), bad=((4,), (5, 6)), max_tokens=9, eos=None)  # its masks need the tokens before them
    world.runner.calls_left["sample"] = 3
    while engine.has_work:
        for output in engine.step():
            world.outputs[output.request_id].append(output)
        engine.audit()
    world.check(request)
    assert world.runner.num_faults == 1


@BOTH
def test_tokens_applied_in_the_step_that_ends_the_engine_are_sent(overlap, monkeypatch):
    """The last token of a request, too: nothing else would tell its caller of its end."""
    world = World(overlap=overlap)
    engine = Engine(world.scheduler, world.runner, overlap=overlap)
    world.add(prompt(5), bad=((4,), (5, 6)), max_tokens=9, eos=None)  # its masks need the tokens before them
    short = world.add(prompt(6, start=9), max_tokens=3, eos=None)
    world.runner.calls_left["sample"] = 3
    monkeypatch.setattr(world.scheduler._search, "allows_rebuild", lambda num_suspects: False)
    outputs = []
    with pytest.raises(DeviceFault) as raised:
        while True:
            outputs += engine.step()
    outputs += engine.fail_all(raised.value)
    for output in outputs:
        world.outputs[output.request_id].append(output)
    world.check(short)
    assert engine.fail_all(raised.value) == []


def test_a_plan_that_raises_is_made_again(monkeypatch):
    world = World(max_num_seqs=4)
    engine = Engine(world.scheduler, world.runner, overlap=True)
    requests = [world.add(prompt(9 + index)) for index in range(3)]
    original, calls = world.cache.start, []

    def start(*args):
        calls.append(args)
        done = original(*args)
        if len(calls) == 2:
            raise DeviceFault("after the pages have been allocated")
        return done

    monkeypatch.setattr(world.cache, "start", start)
    while engine.has_work:
        for output in engine.step():
            world.outputs[output.request_id].append(output)
        engine.audit()
    world.check(*requests)
    assert count_rebuilds(world) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_kept_of_a_suspect_that_was_aborted_while_it_waited_for_its_trial(stage):
    """The other one is the cause, and the last request."""
    world = World()
    cause, suspect = world.add(prompt(5), eos=None), world.add(prompt(6, start=9), eos=None)
    world.runner.culprits[cause.request_id] = stage
    while not world.scheduler._search.is_held(world.scheduler._requests.by_id[suspect.request_id]):
        world.step()
    world.scheduler.finish(suspect.request_id)
    world.run()
    world.scheduler.audit_leftovers()
    assert isinstance(world.outputs[cause.request_id][-1].error, GenerationFailed)


def test_a_request_is_not_blamed_for_one_that_was_aborted_in_the_step_that_failed():
    """Both are on trial when the cause is aborted; its step fails nevertheless, for the last time."""
    world = World()
    innocent, cause = world.add(prompt(5), eos=None), world.add(prompt(6, start=9), eos=None)
    world.runner.culprits[cause.request_id] = "fetch"
    world.step()
    world.when_enqueued = lambda plan: world.scheduler.finish(cause.request_id)
    world.step()
    assert world.runner.num_faults == 2
    world.run()
    world.check(innocent)
