"""Several tokens in one program are those of one program each. On the real device path, tiny weights."""

import jax
import numpy as np
import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine import limits
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.build import build
from jaxserve.engine.compile import compile_counter
from jaxserve.engine.program_table import MultiStep, ProgramTable
from jaxserve.engine.request import Request
from jaxserve.errors import BadConfig
from jaxserve.models.registry import find_architecture
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.peft import read_adapter
from tests.engine.conftest import PAGE, PAGES, Bench
from tests.engine.hlo import large_moves, num_donated
from tests.models.tiny import write
from tests.weights.peft_writer import write_adapter

MOST = 5
ROWS = 4
FAMILIES = ("llama", "gemma3", "qwen3_5")  # of full attention and with adapters, of windows, of recurrent states
RNG = np.random.default_rng(5)
PROMPTS = [[int(n) for n in RNG.integers(0, 256, size)] for size in (PAGE - 3, 2 * PAGE, 40, PAGE + 1, 7, 61)]
SAMPLED = {"temperature": 1.3, "top_p": 0.95, "top_k": 50}
WISHES = (
    {"temperature": 0.0},
    SAMPLED,
    {"temperature": 0.0, "frequency_penalty": 0.7, "logit_bias": ((5, 3.0),)},
    SAMPLED | {"repetition_penalty": 1.3, "presence_penalty": 0.4},
)
BOTH = pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])


def configure(model, **settings):
    return EngineConfig(
        model=str(model),
        **{"max_model_len": 128, "max_num_seqs": ROWS, "max_num_batched_tokens": 64, "num_gpu_blocks_override": PAGES},
        **{"max_logprobs": 2, "roofline": False, "num_scheduler_steps": MOST} | settings,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "choose_buckets", lambda **_: Buckets(decode=(ROWS,), prefill=(64,)))
        patch.setattr(ProgramTable, "modes", (SampleMode.SAMPLE, SampleMode.PROCESSORS, SampleMode.LOGPROBS))
        patch.setattr(ProgramTable, "prompt_logprobs", ())
        directory, adapters = write(tmp_path_factory.mktemp("model"), request.param, seed=3), request.param == "llama"
        loaded = build(configure(directory, enable_lora=adapters, max_loras=1, max_lora_rank=4))
        yield loaded
        loaded.engine.close()


def run(built, wishes, *, most, num_tokens=24, stops=frozenset(), adapters=(None,), **how):
    """The bench on which every prompt was answered, with wishes and adapters in turn."""
    bench = Bench(built, max_tokens_per_row=most, **how)
    for i, prompt in enumerate(PROMPTS):
        params = SamplingParams(**wishes[i % len(wishes)], max_tokens=num_tokens + i)
        eos, *others = stops or [None]
        length = len(prompt) + num_tokens + i
        ends = {"eos_id": eos, "stop_ids": frozenset(others)}
        request = Request(i, tuple(prompt), params, i, length, **ends, adapter=adapters[i % len(adapters)])
        bench.engine.add(request)
    bench.run()
    return bench


def answers(bench):
    lasts = {i: outputs[-1] for i, outputs in bench.outputs.items()}
    return {i: (bench.tokens(i), last.finish_reason, last.stop_reason) for i, last in lasts.items()}


def num_tokens_by_output(bench):
    return {len(output.token_ids) for outputs in bench.outputs.values() for output in outputs}


@BOTH
@pytest.mark.parametrize("wishes", [WISHES[:1], WISHES[:2], WISHES], ids=["greedy", "sampled", "penalties"])
def test_tokens_that_come_together_are_those_that_come_alone(built, overlap, wishes):
    alone = run(built, wishes, most=1)
    together = run(built, wishes, most=MOST, overlap=overlap)
    assert answers(together) == answers(alone)
    assert max(num_tokens_by_output(together)) == MOST


@BOTH
def test_a_row_ends_at_each_of_its_stop_tokens(built, overlap):
    free = run(built, WISHES, most=1)
    stops = frozenset(free.tokens(i)[5 + 3 * i] for i in range(4))
    alone = run(built, WISHES, most=1, stops=stops)
    together = run(built, WISHES, most=MOST, stops=stops, overlap=overlap)
    assert answers(together) == answers(alone)
    assert any(reason == "stop" for _, reason, _ in answers(together).values())


@BOTH
def test_a_preempted_row_gets_the_same_tokens(built, overlap):
    alone = run(built, WISHES, most=1, num_tokens=50)
    together = run(built, WISHES, most=MOST, num_tokens=50, overlap=overlap, num_pages=1 + 14)
    assert answers(together) == answers(alone)
    assert together.counter("num_preemptions") > 0


def test_rows_with_adapters_get_the_same_tokens(built, tmp_path):
    if not built.config.has_adapters:
        pytest.skip("this engine has none")
    checkpoint, architecture = open_checkpoint(built.path), find_architecture(built.model_config)
    written = write_adapter(tmp_path / "a", {name: checkpoint.read(name) for name in checkpoint.tensors}, size=1.0)
    adapter = read_adapter(written.directory, "a", architecture.params(architecture.spec(built.model_config)), 4)
    alone, together = (run(built, WISHES, most=most, adapters=(adapter, None)) for most in (1, MOST))
    assert answers(together) == answers(alone) != answers(run(built, WISHES, most=MOST))


def test_a_row_with_log_probabilities_makes_all_come_alone(built):
    wishes = ({"temperature": 0.0, "logprobs": 1}, SAMPLED)
    plain = run(built, [{"temperature": 0.0}, SAMPLED], most=MOST)
    scored = run(built, wishes, most=MOST)
    assert {i: scored.tokens(i) for i in scored.outputs} == {i: plain.tokens(i) for i in plain.outputs}
    assert all(len(output.token_ids) == 1 for i in (0, 2, 4) for output in scored.outputs[i])


def test_the_loop_counts_the_tokens_of_each_row_and_ends_with_the_last_one(built, monkeypatch):
    runner, counts = built.engine.runner, []
    fetch = runner.fetch

    def spy(handle):
        result = fetch(handle)
        if result.decode is not None:
            counts.append(result.decode.count_B.tolist())
        return result

    monkeypatch.setattr(runner, "fetch", spy)
    bench = Bench(built, max_tokens_per_row=MOST, overlap=False)
    for i, num_tokens in enumerate((1 + MOST + 2, 1 + 1)):  # the first token is that of the prompt
        bench.add(i, PROMPTS[i], tokens=num_tokens)
    bench.run()
    assert counts == [[MOST, 1], [2]]


def test_nothing_compiles(built):
    before = compile_counter.compiled
    run(built, WISHES, most=MOST)
    assert compile_counter.compiled == before


def test_no_pass_copies_pages_and_all_that_changes_is_donated(built):
    executor = built.engine.runner.executor
    pages = jax.tree.leaves(executor.state.pages)
    programs = {key: program for key, program in executor.programs.items() if isinstance(key, MultiStep)}
    assert {key.mode for key in programs} == {SampleMode.SAMPLE, SampleMode.PROCESSORS}
    for key, program in programs.items():
        text = program.as_text()
        assert large_moves(text, min(leaf.size for leaf in pages)) == []
        assert num_donated(text) == len(pages) + 2 + (3 if key.mode >= SampleMode.PROCESSORS else 0)


def test_the_start_says_how_many_tokens_a_program_computes(built):
    assert f"up to {MOST} tokens of a row in one program" in built.description["shapes"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_scheduler_steps": 0}, "num_scheduler_steps must be at least 1, got 0"),
        ({"num_scheduler_steps": 8, "batch_invariant": True}, "leave one of them out"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(BadConfig, match=words):
        configure("model", **settings)


def test_a_model_that_pools_has_no_use_for_it(tiny_model):
    with pytest.raises(BadConfig, match="num_scheduler_steps=5 is for generation, and this model pools"):
        build(configure(tiny_model, task="embed"))
