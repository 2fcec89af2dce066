"""Adapters on the real device path: one that is served gives what the model does that it is merged into.

Engines of tiny random weights with the fewest programs, as in test_model_families.py: of plain weights, of a checkpoint
whose projections are fused, of packed weights, of the blocks of a .gguf file, and of families with
experts.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.config import EngineConfig
from jaxserve.engine import limits
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.build import build
from jaxserve.engine.compile import compile_counter
from jaxserve.engine.program_table import Forward, ProgramTable
from jaxserve.engine.request import Request
from jaxserve.models.registry import find_architecture
from jaxserve.native import library
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.peft import read_adapter
from tests.engine.conftest import PAGES, Bench
from tests.models.tiny import write
from tests.models.torch_model import TorchModel
from tests.weights import gguf_writer
from tests.weights.peft_writer import write_adapter

RNG = np.random.default_rng(5)
PROMPTS = [[int(n) for n in RNG.integers(0, 256, size)] for size in (60, 7, 33, 52, 18, 40)]
NUM_TOKENS = 24
KINDS = {"llama": "none", "phi3": "none", "llama int8": "int8", "qwen3_moe": "none", "deepseek_v2": "none"}
KINDS["llama blocks"] = "blocks"


@pytest.fixture(scope="module")
def fewest_programs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "choose_buckets", lambda **_: Buckets(decode=(2,), prefill=(16, 64)))
        patch.setattr(ProgramTable, "modes", (SampleMode.GREEDY, SampleMode.SAMPLE, SampleMode.BEAM))
        yield


@pytest.fixture(scope="module", params=KINDS)
def built(request, tmp_path_factory, fewest_programs):
    if KINDS[request.param] != "none" and library.find_compiler() is None:
        pytest.skip("no C compiler here")
    loaded = build(
        EngineConfig(
            model=str(write_model(tmp_path_factory.mktemp("family"), *request.param.split())),
            quantization=KINDS[request.param],
            max_model_len=128,
            max_num_seqs=2,
            max_num_batched_tokens=64,
            num_gpu_blocks_override=PAGES,
            max_logprobs=1,
            roofline=False,
            enable_lora=True,
            max_loras=2,
            max_lora_rank=8,
        )
    )
    yield loaded
    loaded.engine.close()


def write_model(folder, family, kind="none"):
    directory = write(folder, family, seed=3)
    if kind != "blocks":
        return directory
    checkpoint = open_checkpoint(directory)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    return gguf_writer.write(directory / "m.gguf", checkpoint.config, tensors, kind=Kind.Q5_0)


@pytest.fixture(scope="module")
def weights(built):
    checkpoint = open_checkpoint(built.path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.fixture(scope="module")
def written(weights, tmp_path_factory):
    """Three adapters: of all matrices, of a few with a smaller rank, and of the feed-forward blocks."""
    folder = tmp_path_factory.mktemp("adapters")
    own = {name: value for name, value in weights.items() if ".experts." not in name and "kv_b_proj" not in name}
    few = [name for name in own if "attn" in name and name.endswith("proj.weight")][::2]
    return [
        write_adapter(folder / "all", own, rank=8, seed=1),
        write_adapter(folder / "few", own, rank=2, seed=2, modules=few.__contains__, size=1.0),
        write_adapter(folder / "third", own, rank=5, seed=3),
    ]


@pytest.fixture(scope="module")
def adapters(built, written):
    architecture = find_architecture(built.model_config)
    params = architecture.params(architecture.spec(built.model_config))
    return [read_adapter(each.directory, each.directory.name, params, 8) for each in written]


def run(built, requests, *, n=1, beams=0, params=None, **how):
    """Return the tokens of each of (prompt, adapter), all of them added before the first step."""
    bench = Bench(built, **how)
    for number, (prompt, adapter) in enumerate(requests):
        first = 1 + 10 * number
        sampling = {"temperature": 0.0} | (params or {}) | ({"n": beams, "use_beam_search": True} if beams else {})
        for choice in range(1 if beams else n):
            request = Request(
                first + choice,
                tuple(prompt),
                SamplingParams(**sampling, max_tokens=NUM_TOKENS),
                choice,
                len(prompt) + NUM_TOKENS,
                parent_id=first if choice else None,
                num_siblings=0 if choice else n - 1,
                choice_ids=tuple(range(first, first + beams)),
                adapter=adapter,
            )
            bench.engine.add(request)
    outputs = bench.run()
    return bench, [
        [outputs[1 + 10 * number + choice] for choice in range(max(n, beams))] for number in range(len(requests))
    ]


def alone(built, prompt, adapter, **how):
    return run(built, [(prompt, adapter)], prefix_caching=False, overlap=False, **how)[1][0]


def score(built, prompt, adapter):
    """Return the log-probabilities of a prompt's own tokens."""
    return run(built, [(prompt, adapter)], params={"prompt_logprobs": 0})[0].outputs[1][0].prompt_logprobs[1:]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_an_adapter_gives_the_logits_and_tokens_of_the_model_that_it_is_merged_into(built, weights, written, adapters):
    is_packed = built.config.quantization != "none"
    for each, adapter in zip(written[:2], adapters, strict=False):
        model = TorchModel(built.model_config, each.merge(weights))
        prompt = PROMPTS[0]
        bench, [[tokens]] = run(built, [(prompt, adapter)], params={"prompt_logprobs": 0})
        logits = model.logits(prompt + tokens)
        expected = np.take_along_axis(log_softmax(logits[:-1]), np.array(prompt + tokens)[1:, None], 1)[:, 0]
        scores = np.array([entry.logprob for entry in bench.outputs[1][0].prompt_logprobs[1:]])
        if is_packed:  # whose own errors are smaller than what the adapter changes
            plain = np.array([entry.logprob for entry in score(built, prompt, None)])
            error, effect = (np.abs(scores - others).mean() for others in (expected[: len(scores)], plain))
            assert error < 0.25 * effect
            continue
        np.testing.assert_allclose(scores, expected[: len(scores)], atol=2e-4)  # merged weights are rounded again
        assert tokens == logits.argmax(-1)[len(prompt) - 1 : -1].tolist()


@pytest.mark.parametrize("params", [{}, {"temperature": 1.3, "top_k": 50}], ids=["greedy", "sampled"])
def test_tokens_do_not_depend_on_the_adapters_around_a_request(built, adapters, params):
    """More adapters than slots, in one batch with requests without, in chunks, cached, preempted, and as choices.

    Not where products round their inputs to int8: there the last bit of a change, which the size of a batch decides,
    may become a whole code. What packed weights and an adapter give together is held to its merged weights above.
    """
    if built.config.quantization != "none":
        return
    before = compile_counter.compiled
    kinds = [None, *adapters]
    requests = [(PROMPTS[number % 6], kinds[number % 4]) for number in range(12)]
    expected = [alone(built, *request, params=params) for request in requests]
    assert len({str(each) for each in expected}) == 12, "every adapter has an effect"
    assert run(built, requests, params=params)[1] == expected, "mixed"
    assert run(built, requests, params=params, chunk=16, budget=32)[1] == expected, "in chunks"
    bench, outputs = run(built, requests, params=params, num_pages=1 + 9)
    assert outputs == expected, "with few pages"
    bench, outputs = run(built, requests + requests, params=params)
    assert outputs == expected + expected and bench.counter("prefix_cache_hits") > 0, "cached"
    both = [alone(built, prompt, adapter, n=2, params=params) for prompt, adapter in requests[:4]]
    assert run(built, requests[:4], n=2, params=params)[1] == both, "choices"
    assert compile_counter.compiled == before


def test_beams_and_scores_of_prompts_have_the_adapter(built, adapters):
    requests = [(PROMPTS[1], adapters[0]), (PROMPTS[1], None), (PROMPTS[1], adapters[1])]
    expected = [alone(built, *request, beams=2) for request in requests]
    assert len({str(each) for each in expected}) == 3
    assert run(built, requests, beams=2)[1] == expected


def test_an_engine_without_adapters_has_the_same_programs_as_one_whose_batch_has_none(built, fewest_programs):
    """And allocates nothing for them."""
    executor = built.engine.runner.executor
    table = executor.table
    plain = replace(table, model=replace(table.model, adapters=None))
    assert not any(key.has_adapters for key in plain.forwards)

    def lower(table, key):
        return key.lower(table, executor.weights, executor.state).as_text()

    for key in plain.forwards:
        assert lower(table, key) == lower(plain, key), key
    assert len(lower(table, Forward(2, None, has_adapters=True))) > len(lower(plain, Forward(2)))


def test_slots_hold_what_was_written_last(built, adapters):
    """The arrays of the device are those of the adapters in their slots, filled up with zeros."""
    run(built, [(PROMPTS[1], adapters[0])])
    executor = built.engine.runner.executor
    layout, rank = executor.table.adapters, executor.table.adapters.rank
    for stacks, factors in zip(executor.adapters, layout.fill_up(adapters[0]), strict=True):
        np.testing.assert_array_equal(np.asarray(stacks.down_IX)[:, :rank], factors.down_IX)
        np.testing.assert_array_equal(np.asarray(stacks.up_XO)[:rank], factors.up_XO)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(executor.adapters)) == layout.num_bytes
