"""The engine with packed weights: every contract of plain ones, small errors, bits that no crowd changes, refusals."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from jaxserve.engine.roofline import PeakRates, Roofline
from jaxserve.errors import BadConfig
from jaxserve.native import library
from tests.engine.conftest import MAX_LEN, PAGES, ROWS, Bench
from tests.engine.test_contracts import TestPrograms, TestTransfers, test_nothing_compiles_whatever_comes  # noqa: F401
from tests.engine.test_roofline import HEAD, WEIGHTS, cost, decode
from tests.models.tiny import random_weights, tiny_config

pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
SHARED = [int(n) for n in np.random.default_rng(5).integers(0, 256, 90)]


def write_model(directory, width):
    wide = {"hidden_size": width, "intermediate_size": 200, "head_dim": 32, "num_hidden_layers": 2, "vocab_size": 300}
    config = tiny_config("llama") | wide
    (directory / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config, seed=3), directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Widths that are no whole blocks, and wide enough that a product takes several."""
    return write_model(tmp_path_factory.mktemp("packed"), 144)


def make(model, **how):
    settings = {"max_model_len": MAX_LEN, "max_num_seqs": ROWS, "max_num_batched_tokens": 64, "max_logprobs": 5}
    return build(EngineConfig(model=str(model), num_gpu_blocks_override=PAGES, **(settings | how)))


@pytest.fixture(scope="module", params=["int8", "int4"])
def built(model, request):
    return make(model, quantization=request.param)


@pytest.fixture(scope="module")
def plain(model):
    return make(model)


def scores(built, prompt):
    """Log-probabilities of a prompt's own tokens."""
    bench = Bench(built, prefix_caching=False)
    bench.add(0, prompt, tokens=1, prompt_logprobs=0)
    bench.run()
    return np.array([entry.logprob for entry in bench.outputs[0][0].prompt_logprobs[1:]])


def test_log_probabilities_stay_near_those_of_float32(built, plain):
    """A random model is unsure of everything, so its errors are large: seen were 0.09 and 0.70 nats. What a weight
    misread would cost is shown by the same scores in another order."""
    exact = scores(plain, SHARED)
    error = np.abs(scores(built, SHARED) - exact).mean()
    assert 0 < error < {"int8": 0.2, "int4": 1.4}[built.config.quantization] < np.abs(exact - np.roll(exact, 1)).mean()


def answers(built, requests, **how):
    bench = Bench(built, **how)
    for i, (prompt, tokens) in enumerate(requests):
        bench.add(i, prompt, tokens=tokens, logprobs=3)
    bench.run()
    return [(bench.tokens(i), bench.logprobs(i)) for i in range(len(requests))]


def test_tokens_do_not_depend_on_the_crowd_nor_on_how_a_prompt_is_cut(built):
    requests = [(SHARED[:n], 10) for n in (1, 9, 33, 64, 90, 17, 5)]
    alone = [answers(built, [request], prefix_caching=False)[0][0] for request in requests]
    for chunk in (16, 64):
        assert [tokens for tokens, _ in answers(built, requests, chunk=chunk)] == alone


def test_no_bit_depends_on_the_crowd_where_it_has_thousands_of_activations(tmp_path):
    """XLA's library adds arrays of 4,096 numbers and more in another order; see CPU_OPTIONS."""
    built = make(write_model(tmp_path, 1024), quantization="int8")
    requests = [(SHARED[:n], 10) for n in (30, 9, 33, 64, 50, 17, 5, 40)]
    assert answers(built, requests[:1], prefix_caching=False) == answers(built, requests, prefix_caching=False)[:1]


def test_the_table_at_the_start_tells_size_and_kind(built, plain):
    kind = built.config.quantization
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(built.engine.runner.executor.weights))
    assert built.description["weights"].startswith(f"{num_bytes / 2**20:.0f} MiB, {kind}")
    assert "native" in built.description["weights"]
    assert "not packed" in plain.description["weights"]


def test_programs_of_packed_and_plain_weights_are_told_apart(built, plain):
    executors = [each.engine.runner.executor for each in (built, plain)]
    packed, unpacked = (str(each.table.fingerprint(each.weights, each.state)) for each in executors)
    assert packed != unpacked


def test_norms_stay_float32_and_tables_int8(built):
    executor = built.engine.runner.executor
    for path, weight in executor.table.model.weights.unpack(executor.weights).items():
        if path[-1] in ("kernel", "table"):
            assert weight.kind == ("int8" if path[-1] == "table" else built.config.quantization), path
        else:
            assert weight.dtype == np.float32, path


@pytest.mark.parametrize(("kind", "size"), [("int8", 1.0625), ("int4", 0.625)])
def test_the_roofline_counts_packed_bytes(kind, size):
    one = PeakRates(1.0, 1.0)
    plain, ours = Roofline(cost(), 4, one).estimate(decode(9)), Roofline(cost(), 4, one, kind).estimate(decode(9))
    assert plain.num_bytes - ours.num_bytes == (4 - size) * WEIGHTS + (4 - 1.0625) * HEAD
    assert ours.flops == plain.flops


def test_without_a_compiler_the_plain_product_serves(model, monkeypatch, built):
    monkeypatch.setattr(library, "is_usable", lambda: False)
    kind = built.config.quantization
    slow = make(model, quantization=kind, max_num_seqs=1, max_num_batched_tokens=16, compilation_cache_dir="none")
    assert "want of a C compiler" in slow.description["weights"]
    np.testing.assert_allclose(scores(slow, SHARED[:16]), scores(built, SHARED[:16]), atol=2e-3)


class TestRefusals:
    def test_bfloat16_is_refused(self, model):
        with pytest.raises(BadConfig, match="'int8' computes in float32, not bfloat16, on a cpu; try --dtype float32"):
            make(model, quantization="int8", dtype="bfloat16")

    def test_what_has_no_product_is_refused_with_what_has(self, model):
        with pytest.raises(BadConfig, match="quantization='fp8' has no products on a cpu; try int8 or int4"):
            make(model, quantization="fp8")
