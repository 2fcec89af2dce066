"""What the loop promises about the machine: nothing compiles, nothing large is copied, nobody reads the device early.

All on CPU, all deterministic, nothing timed.
"""

import inspect
from dataclasses import fields
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.engine import executor as executor_module
from jaxserve.engine import runner as runner_module
from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.engine.compile import compile_counter
from jaxserve.engine.plan import SampledTokens
from jaxserve.engine.program_table import CopyPages, Forward, PromptLogprobs, Sample, SetPenaltyRow, SetRows
from jaxserve.engine.request import Request
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from tests.engine.conftest import PAGE, Bench
from tests.engine.hlo import instructions, large_moves, num_donated
from tests.grammars import regex

DRAWN = {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "min_p": 0.01, "seed": 11}
WISHES = (
    {},
    DRAWN,
    {"logprobs": 3},
    DRAWN | {"logprobs": 0},
    {"prompt_logprobs": 2},
    {"min_tokens": 3, "held_back": (1, 2, 3)},
    DRAWN | {"repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": ((5, 3.0), (9, -100.0))},
    {"frequency_penalty": 1.5, "logprobs": 5, "logprob_token_ids": (4, 200)},
    {"allowed_token_ids": tuple(range(50))},
    DRAWN | {"bad": ((7,), (8, 9), (10, 11, 12))},
    {"bad": tuple((i, j) for i in range(0, 256, 2) for j in range(0, 256, 5)), "repetition_penalty": 0.7},
    {"pattern": "(ab|ba|12)*"},
    DRAWN | {"pattern": "[ab12]{9,}", "logprobs": 3},
)


def prompt(rng, longest=200):
    return [int(n) for n in rng.integers(0, 256, rng.integers(1, longest))]


def add(bench, request_id, ids, *, tokens, held_back=(3,), bad=(), leader=None, followers=0, pattern=None, **params):
    params |= {"min_tokens": min(params.get("min_tokens", 0), tokens)}
    params = SamplingParams(**({"temperature": 0.0} | params), max_tokens=tokens)
    bench.engine.add(
        Request(
            request_id,
            tuple(ids),
            params,
            request_id,
            len(ids) + tokens,
            stop_ids_until_min_tokens=tuple(held_back),
            bad_sequences=tuple(bad),
            parent_id=leader,
            num_siblings=followers,
            grammar=pattern and regex(pattern, bench.vocab_size, (3,)),
        )
    )


def add_family(bench, request_id, ids, n, *, tokens, **params):
    """n choices of one prompt, under ids from request_id on."""
    for choice in range(n):
        leader = request_id if choice else None
        add(bench, request_id + choice, ids, tokens=tokens, leader=leader, followers=n - 1 - choice, **params)


def add_search(bench, request_id, ids, n, *, tokens, held_back=(3,), bad=(), pattern=None, **params):
    """A beam search of width n, whose answers have ids from request_id on; no longer than the pool allows."""
    tokens = max_beam_tokens(len(ids), n, tokens, bench.cache.sizes, PAGE)
    params |= {"min_tokens": min(params.get("min_tokens", 0), tokens)}
    params.pop("logprob_token_ids", None)
    bench.engine.add(
        Request(
            request_id,
            tuple(ids),
            SamplingParams(**params, n=n, use_beam_search=True, max_tokens=tokens),
            request_id,
            len(ids) + tokens,
            stop_ids=frozenset(range(250, 256)),
            stop_ids_until_min_tokens=tuple(held_back),
            bad_sequences=tuple(bad),
            choice_ids=tuple(range(request_id, request_id + n)),
            grammar=pattern and regex(pattern, bench.vocab_size, (3,)),
        )
    )


def random_load(bench, seed, requests=40):
    """Every mode, shared prefixes, searches, aborts in every state, and less room than they all want."""
    rng, shared = np.random.default_rng(seed), prompt(np.random.default_rng(0), 100)
    for i in range(1, requests + 1):
        ids = [*shared, *prompt(rng, 60)] if i % 3 else prompt(rng)
        add(bench, i, ids[:200], tokens=int(rng.integers(1, 50)), **WISHES[i % len(WISHES)])
        if i % 9 == 0:
            add_family(bench, 1000 * i, ids[:200], 3, tokens=9, **(WISHES[(i // 9) % len(WISHES)] | DRAWN))
        if i % 6 == 0:
            wish = {name: value for name, value in WISHES[(i // 6) % len(WISHES)].items() if name != "prompt_logprobs"}
            add_search(bench, 5000 * i, ids[:120], 1 + i // 6 % 5, tokens=12, **wish)
        if i % 4 == 0:
            bench.step()
        if i % 11 == 0:
            bench.engine.finish(5000 * (i - i % 6) + 1)
        if i % 7 == 0:
            bench.engine.finish(i - int(rng.integers(0, 4)))
    bench.run()


def page_elements(built):
    return min(leaf.size for leaf in jax.tree.leaves(built.engine.runner.executor.state.pages))


def test_nothing_compiles_whatever_comes(built):
    before, tight = compile_counter.compiled, Bench(built, num_pages=1 + 20)
    random_load(tight, seed=2)
    assert compile_counter.compiled == before
    assert tight.counter("num_preemptions") > 0
    assert tight.counter("prefix_cache_hits") > 0
    assert tight.engine.stats().finished["abort"] > 0


class TestPrograms:
    def test_no_step_copies_or_transposes_a_page_array(self, built):
        for key, program in built.engine.runner.executor.programs.items():
            text = program.as_text()
            assert sum(1 for _ in instructions(text)) > 3, f"{key}: the text was not understood"
            assert large_moves(text, page_elements(built)) == [], key

    def test_every_page_array_and_every_line_is_donated(self, built):
        executor = built.engine.runner.executor
        pages = len(jax.tree.leaves(executor.state.pages))
        donated = {Forward: pages, CopyPages: pages, SetPenaltyRow: 3, SetRows: 2, Sample: 2}
        for key, program in executor.programs.items():
            wanted = donated.get(type(key), 0)
            if isinstance(key, Sample) and key.mode >= SampleMode.PROCESSORS:
                wanted += 3
            assert num_donated(program.as_text()) == wanted, key

    def test_no_draw_copies_the_lines(self, built):
        executor = built.engine.runner.executor
        lines = min(leaf.size for leaf in (executor.state.penalties.count_RV, executor.state.penalties.bias_RV))
        for key, program in executor.programs.items():
            if isinstance(key, Sample | SetPenaltyRow):
                assert large_moves(program.as_text(), lines) == [], key

    def test_the_number_of_arguments_is_stated(self, built):
        """One per weight and page array, and three: newest tokens, lengths, and everything that the host has to say."""
        executor = built.engine.runner.executor
        weights, pages = len(executor.weights), len(jax.tree.leaves(executor.state.pages))
        counts = {Forward: weights + pages + 3, PromptLogprobs: weights + 2}
        for key, program in executor.programs.items():
            arguments = len(jax.tree.leaves(program.args_info))
            assert arguments == counts.get(type(key), arguments), key
            if isinstance(key, Sample):
                assert arguments in (6, 11, 12), "rows, logits, three columns; penalties, masks, and ids asked for"
        model = executor.table.model
        assert pages == 2 * (len(model.groups) if model.backend.stacks_layers else built.spec.num_layers)
        assert weights <= 12 * built.spec.num_layers + 3


@pytest.mark.parametrize("how", ["kept", "turned"])
def test_a_step_that_copies_its_pages_would_be_found(how):
    """The same write, once without donation and once through a turned array."""
    pages = jnp.zeros((64, 2, 16, 8))

    def kept(pages, at):
        return pages.at[at].set(1.0)

    def turned(pages, at):
        return jnp.swapaxes(pages, 1, 3).at[at].set(1.0) * 2

    work = jax.jit({"kept": kept, "turned": turned}[how])
    text = work.lower(pages, jnp.int32(3)).compile().as_text()
    assert large_moves(text, pages.size), text
    assert num_donated(text) == 0
    donated = jax.jit(kept, donate_argnums=0).lower(pages, jnp.int32(3)).compile().as_text()
    assert (large_moves(donated, pages.size), num_donated(donated)) == ([], 1)


class TestTransfers:
    def test_the_loop_moves_nothing_unasked(self, built, monkeypatch):
        """What goes up is one array for logits, a few for a draw with wishes, and one array comes home."""
        most = {Sample: 6, SetPenaltyRow: 4, CopyPages: 2, SetRows: 3}

        def counted(key, program):
            def call(*args):
                assert sum(not isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(args)) <= most.get(type(key), 1)
                with jax.transfer_guard_host_to_device("allow"):
                    return program(*args)

            return call

        executor = built.engine.runner.executor
        monkeypatch.setattr(executor, "programs", {key: counted(key, one) for key, one in executor.programs.items()})
        with jax.transfer_guard_host_to_device("disallow"), jax.transfer_guard_device_to_host("disallow"):
            random_load(Bench(built, num_pages=1 + 20), seed=3, requests=20)

    def test_the_device_is_read_in_fetch_alone(self, built, monkeypatch):
        """On CPU memory is shared, and JAX's guard lets every read pass: so reading itself is made to tell."""
        kind, reading = type(jnp.zeros(1)), []
        value, fetch = kind._value, built.engine.runner.fetch

        def read(array):
            assert reading, "an array was read outside of fetch"
            return value.fget(array)

        def watched(ticket):
            reading.append(ticket)
            result = fetch(ticket)
            reading.clear()
            for rows in (result.decode, *result.beams, *chain(*result.chunks), *result.prompt_logprobs):
                assert rows is None or all(_is_plain(rows, one.name) for one in fields(SampledTokens))
            return result

        monkeypatch.setattr(kind, "_value", property(read))
        monkeypatch.setattr(built.engine.runner, "fetch", watched)
        with pytest.raises(AssertionError, match="outside"):
            int(jax.device_put(np.int32(3)))
        random_load(Bench(built), seed=4, requests=20)

    def test_nothing_reads_the_device_by_another_way(self):
        """numpy reads a CPU's arrays behind JAX's back, so the test above would not see it."""
        source = inspect.getsource(runner_module) + inspect.getsource(executor_module)
        assert source.count("np.asarray(") == 1
        assert "jax.device_get(" not in source and "np.array(" not in source


def _is_plain(rows, name):
    value = getattr(rows, name)
    return value is None or type(value) is np.ndarray


EVENTS = st.lists(
    st.tuples(
        st.integers(1, 90),  # prompt tokens
        st.integers(1, 20),  # tokens wanted
        st.integers(0, len(WISHES) - 1),
        st.integers(0, 4),  # steps before the next event
        st.one_of(st.none(), st.integers(0, 9)),  # which request to abort then
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(events=EVENTS, num_pages=st.sampled_from([1 + 16, 160]))
def test_overlap_changes_no_token_of_any_trace(built, events, num_pages):
    heard, aborted = [], {event[4] for event in events}
    for overlap in (True, False):
        bench = Bench(built, overlap=overlap, num_pages=num_pages)
        for i, (length, tokens, wish, steps, abort) in enumerate(events):
            add(bench, i, [(7 * i * (wish % 2) + n) % 256 for n in range(length)], tokens=tokens, **WISHES[wish])
            for _ in range(steps):
                bench.step()
            if abort is not None:
                bench.engine.finish(abort)
        bench.run()
        heard.append(bench)
    with_overlap, without = heard
    for i in with_overlap.outputs | without.outputs:
        ours, theirs = ([*one.tokens(i)] if i in one.outputs else [] for one in (with_overlap, without))
        if i in aborted:  # one of them may have been a step further
            assert ours == theirs[: len(ours)] or theirs == ours[: len(theirs)]
        else:
            assert ours == theirs
