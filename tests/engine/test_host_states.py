"""Snapshots in host memory on the real device path: what comes back from there gives the tokens of a cold run."""

import numpy as np
import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine import limits
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.build import build
from jaxserve.engine.host_states import divide_copies
from jaxserve.engine.program_table import ProgramTable
from jaxserve.errors import BadConfig
from jaxserve.sampling.sampler import SampleMode
from tests.engine.conftest import PAGE, PAGES, Bench
from tests.models.tiny import write

RNG = np.random.default_rng(7)
PROMPTS = [[int(n) for n in RNG.integers(0, 256, 2 * PAGE + 5)] for _ in range(8)]
NUM_TOKENS = 2 * PAGE


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "choose_buckets", lambda **_: Buckets(decode=(2,), prefill=(64,)))
        patch.setattr(ProgramTable, "modes", (SampleMode.GREEDY,))
        patch.setattr(ProgramTable, "prompt_logprobs", ())
        loaded = build(configure(write(tmp_path_factory.mktemp("model"), "qwen3_5", seed=3)))
    yield loaded
    loaded.engine.close()


def configure(model, **settings):
    return EngineConfig(
        model=str(model),
        **{"max_model_len": 256, "max_num_seqs": 2, "max_num_batched_tokens": 64, "num_gpu_blocks_override": PAGES},
        **{"max_logprobs": 0, "roofline": False, "kv_offloading_size": 0.001} | settings,
    )


def run_turn(bench, prompts):
    """The answers to some prompts, one after another."""
    answers = []
    for prompt in prompts:
        number = len(bench.outputs)
        bench.add(number, prompt, tokens=NUM_TOKENS)
        answers.append(bench.run()[number])
    return answers


def test_conversations_that_take_turns_find_their_snapshots_in_host_memory(built):
    cold, prompts, expected = Bench(built, prefix_caching=False), [PROMPTS], []
    for _ in range(3):
        expected.append(run_turn(cold, prompts[-1]))
        prompts.append([[*prompt, *answer, 7] for prompt, answer in zip(prompts[-1], expected[-1], strict=True)])
    cached = Bench(built)
    assert [run_turn(cached, turn) for turn in prompts[:3]] == expected
    borders = [len(prompt) // PAGE * PAGE for turn in prompts[1:3] for prompt in turn]
    assert cached.counter("prefix_cache_hits") == sum(borders)
    assert cached.counter("snapshots_evicted") == 0
    assert cached.counter("snapshots_reloaded") == len(borders)


def test_a_lost_device_state_takes_the_states_in_host_memory_with_it(built):
    bench = Bench(built)
    first = run_turn(bench, PROMPTS)
    bench.engine.runner.reset()
    bench.scheduler.restart((), RuntimeError("lost"))
    assert run_turn(bench, PROMPTS[:2]) == first[:2]
    assert bench.counter("snapshots_reloaded") == 0


def test_the_start_says_how_many_snapshots_host_memory_holds(built):
    [line] = [line for name, line in built.description.items() if "recurrent" in name]
    states = next(size for size in built.cache_size.groups if size.is_recurrent)
    assert states.num_host_pages * states.page_bytes <= 0.001 * 2**30
    assert f"{states.num_host_pages} more in 1 MiB of host memory" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_offloading_size": -1.0}, "a number of GiB from 0 on, got -1.0"),
        ({"kv_offloading_size": 1e9}, "1e+09 GiB is more than the"),
        ({"enable_prefix_caching": False}, "without a prefix cache; leave it out"),
    ],
)
def test_host_memory_that_is_not_there_or_has_no_use_is_refused(built, settings, words):
    with pytest.raises(BadConfig, match=words.replace("+", r"\+")):
        build(configure(built.path, **settings))


def test_a_model_without_recurrent_layers_has_no_use_for_it(tiny_model):
    with pytest.raises(BadConfig, match="without layers with a recurrent state"):
        build(configure(tiny_model))


def test_states_that_are_exchanged_are_read_before_they_are_written(built):
    run_turn(Bench(built), PROMPTS[:4])
    executor = built.engine.runner.executor
    [(group, first)] = executor.table.first_host_pages.items()

    def read(slot):
        return list(map(np.asarray, executor._read_state(group, slot)))

    before = {slot: read(slot) for slot in (1, 2, 3)}
    assert not all(np.array_equal(one, other) for one, other in zip(before[1], before[2], strict=True))
    executor.copy_pages([(group, 3, first)])
    executor.copy_pages([(group, 1, 3), (group, 1, first + 1), (group, 2, 1), (group, first, 2), (group, 3, first)])
    executor.copy_pages([(group, first, 4), (group, first + 1, 5)])
    expected = {1: before[2], 2: before[3], 3: before[1], 4: before[3], 5: before[1]}
    for slot, arrays in expected.items():
        assert all(map(np.array_equal, read(slot), arrays)), slot
    executor.copy_pages([(group, 1, 2), (group, 2, 1)])
    assert all(map(np.array_equal, read(1), before[3])) and all(map(np.array_equal, read(2), before[2]))


def test_copies_are_divided_by_where_they_lead():
    copies = [(0, 9, 1), (1, 1, 2), (1, 1, 9), (1, 9, 1), (1, 9, 8), (1, 2, 3), (1, 2, 9)]
    divided = divide_copies(copies, {1: 5})
    assert divided.on_device == [(0, 9, 1), (1, 1, 2)]
    assert (divided.offloaded, divided.reloaded, divided.on_host) == (
        [(1, 1, 9), (1, 2, 9)],
        [(1, 9, 1)],
        [(1, 9, 8)],
    )
    assert divided.exchanged == [(1, 2, 3)]
