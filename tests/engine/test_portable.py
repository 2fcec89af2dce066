"""Values that cross threads are plain: what comes back from pickle is equal, and runs to the same tokens."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.engine.plan import Chunk, SampledTokens
from jaxserve.engine.request import Request
from jaxserve.engine.thread import AddRequests, FinishRequests
from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter
from jaxserve.output_constraints import GrammarSpec, ReasoningSpec
from jaxserve.outputs import FinishReason, PositionLogprobs, TokenOutput
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import RepetitionDetection, SamplingParams
from tests.engine.test_guided import wishes
from tests.engine.world import World, prompt


def copy_of(value):
    """Send a value through pickle. The copy must be equal, and no part of it the same object."""
    copy = pickle.loads(pickle.dumps(value))
    assert copy == value and type(copy) is type(value)
    return copy


class Remote:
    """A runner behind a border that only pickled values cross."""

    def __init__(self, runner):
        self.runner = runner

    def forward(self, plan):
        return self.runner.forward(copy_of(plan))

    def sample(self, handle, masks):
        return self.runner.sample(handle, copy_of(masks))

    def fetch(self, handle):
        return copy_of(self.runner.fetch(handle))


@pytest.mark.parametrize("overlap", [False, True])
def test_plans_masks_results_and_outputs_survive_pickling(overlap):
    world = World(num_pages=24, overlap=overlap)
    world.runner = Remote(world.runner)
    for i in range(48):
        params = wishes(i) | {"logprobs": i % 3 or None, "prompt_logprobs": None if i % 7 else 1}
        if i % 8 == 5:
            params["prompt_logprobs"] = None
            world.search(prompt(1 + i % 9), 1 + i % 3, max_tokens=5, **params)
        else:
            world.add_group(prompt(1 + i % 19, 2 + i % 3), 1 + i % 2, max_tokens=3 + i % 9, seed=i, **params)
        world.step()
    world.run()
    world.check()
    assert sum(len(copy_of(output).token_ids) for outputs in world.outputs.values() for output in outputs) > 200


IDS = st.integers(0, 2**31 - 1)
GRAMMARS = st.builds(GrammarSpec, st.text(), st.sampled_from(["structured_outputs", "tools"]))
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(st.text(min_size=1), max_size=3),
    logit_bias=st.dictionaries(IDS, st.floats(-100, 100)),
    allowed_token_ids=st.none() | st.lists(IDS, min_size=1, max_size=5),
    repetition_detection=st.none() | st.just(RepetitionDetection(max_pattern_size=3, min_count=2)),
    structured_outputs=st.none() | st.just({"json": {"type": "object"}}),
)
REQUESTS = st.builds(
    Request,
    st.integers(1),
    st.lists(IDS).map(tuple),
    SAMPLING,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1),
    eos_id=st.none() | IDS,
    stop_ids=st.frozensets(IDS),
    bad_sequences=st.lists(st.lists(IDS).map(tuple)).map(tuple),
    choice_ids=st.lists(IDS).map(tuple),
    grammar=st.none() | GRAMMARS,
    reasoning=st.none() | st.builds(ReasoningSpec, st.booleans(), st.booleans()),
    cache_salt=st.none() | st.text(),
    arrival_s=st.floats(0, 1e9),
)
ERRORS = st.sampled_from([EngineStopped("gone"), GenerationFailed("odd"), InvalidParameter("no", "tools")])


@given(st.lists(REQUESTS, max_size=3))
@settings(deadline=None, max_examples=60)
def test_requests_and_commands_survive_pickling(requests):
    copy_of(AddRequests(tuple(requests), len(requests)))
    copy_of(FinishRequests(tuple(request.request_id for request in requests), FinishReason.STOP))


@given(error=st.none() | ERRORS, ids=st.lists(IDS).map(tuple), reason=st.none() | st.sampled_from(FinishReason))
def test_outputs_survive_pickling(error, ids, reason):
    logprobs = tuple(PositionLogprobs(token_id, -1.5, 1, ((token_id, -1.5),)) for token_id in ids)
    copy_of(TokenOutput(1, ids, logprobs, (None, *logprobs), 3, reason, "end", error))


def test_arrays_are_compared_by_value_type_and_shape():
    tokens = np.array([1, 2, 3], np.int32)
    chunk = Chunk(1, 0, 0, 0, tokens, tokens, tokens, SampleMode.GREEDY, True)
    assert chunk == Chunk(1, 0, 0, 0, tokens.copy(), tokens, tokens, SampleMode.GREEDY, True)
    assert chunk != Chunk(1, 0, 0, 0, tokens + 1, tokens, tokens, SampleMode.GREEDY, True)
    count = np.ones(len(tokens), np.int32)
    assert SampledTokens(tokens, count) != SampledTokens(tokens.astype(np.int64), count)
    assert SampledTokens(tokens, count) != SampledTokens(tokens[:2], count)
    assert InvalidParameter("no", "n") != InvalidParameter("no", "tools")
