"""Recurrences over ragged rows: chunks = tokens one by one = transformers, whatever lies beside a row and before it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers.models.granitemoehybrid import modeling_granitemoehybrid as mamba2_reference
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.qwen3_next import modeling_qwen3_next as reference

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.delta_rule import delta_rule, delta_rule_step, invert_unit_lower, log_decay, unit_length
from jaxserve.layers.mamba2 import mamba2, mamba2_step
from jaxserve.models.recurrent_rows import convolve_rows, cut_rows, read_states, write_states

G, R, K, V, D, TAPS = 2, 2, 8, 4, 6, 4
TOKENS, ROWS, SLOTS = 160, 3, 6
SLOT_B = np.array([4, 2, 5], np.int32)


def batch(counts: list[int], past: list[int], num_tokens: int = TOKENS) -> AttentionInputs:
    """The inputs of rows with so many tokens, which go on behind so many earlier ones."""
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    position = np.concatenate([np.arange(n) + p for n, p in zip(counts, past, strict=True)])
    position = np.pad(position, (0, num_tokens - len(position))).astype(np.int32)
    length = np.where(np.array(counts) > 0, np.array(past) + counts, 0).astype(np.int32)
    slots = np.where(length > 0, SLOT_B, 0)[:, None]
    columns = 1 if num_tokens == ROWS else num_tokens
    return AttentionInputs(position, np.zeros(num_tokens, np.int32), slots, length, start, columns)


@partial(jax.jit, static_argnames="function")
def run(function, tokens, states, inputs):
    out, new = function(*tokens, state=read_states(states, inputs), inputs=inputs)
    return out, write_states(states, new, inputs)


def run_delta(query, key, value, decay, rate, *, state, inputs):
    query, key = (jnp.repeat(unit_length(each), R, axis=1) for each in (query, key))
    values = (query * K**-0.5, key, value, decay[..., None], rate)
    if inputs.max_queries_per_row == 1:
        return delta_rule_step(*values, state)
    return delta_rule(*values, state, cut_rows(inputs))


def run_kimi_delta(query, key, value, decay, rate, *, state, inputs):
    values = (unit_length(query) * K**-0.5, unit_length(key), value, decay, rate)
    if inputs.max_queries_per_row == 1:
        return delta_rule_step(*values, state)
    return delta_rule(*values, state, cut_rows(inputs))


def run_mamba2(query, key, value, step, rate, *, state, inputs):
    values = (query, key, value, step, rate[0])
    if inputs.max_queries_per_row == 1:
        return mamba2_step(*values, state)
    return mamba2(*values, state, cut_rows(inputs))


def run_conv(x, kernel, *, state, inputs):
    return convolve_rows(x, kernel[0], state, inputs)


def in_calls(function, rows: list[tuple[np.ndarray, ...]], state_shape, seed: int, largest: int = 70):
    """The outputs of each row, computed in calls of random chunks of all rows, and at last token by token."""
    rng = np.random.default_rng(seed)
    states = jnp.asarray(rng.standard_normal((SLOTS, *state_shape)), jnp.float32)  # slots are never cleared
    done, lengths = [0] * ROWS, [len(row[0]) for row in rows]
    outs: list[list[np.ndarray]] = [[] for _ in rows]
    while done != lengths:
        left = [total - before for total, before in zip(lengths, done, strict=True)]
        is_decode = max(left) <= 3 and all(left)
        counts = [1] * ROWS if is_decode else [min(n, int(rng.integers(1, largest)), TOKENS // ROWS) for n in left]
        inputs = batch(counts, done, ROWS if is_decode else TOKENS)
        size = len(inputs.position_T)
        parts = [np.concatenate([row[i][at : at + n] for row, at, n in zip(rows, done, counts, strict=True)])
                 for i in range(len(rows[0]))]  # fmt: skip
        tokens = [
            np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1), constant_values=9) for part in parts
        ]
        out, new = run(function, tokens, states, inputs)
        unused = [slot for slot in range(1, SLOTS) if slot not in inputs.page_table_BW]
        np.testing.assert_array_equal(new[np.array(unused)], states[np.array(unused)])
        states = new
        for row, part in enumerate(np.split(np.asarray(out)[: sum(counts)], np.cumsum(counts)[:-1])):
            outs[row].append(part)
            done[row] += counts[row]
    return [np.concatenate(out) for out in outs], states


def random_row(rng: np.random.Generator, length: int) -> tuple[np.ndarray, ...]:
    query, key, value = (rng.standard_normal((length, *shape), np.float32) for shape in ((G, K), (G, K), (G * R, V)))
    rate, a = rng.random((length, G * R), np.float32), rng.random(G * R, np.float32) * 3
    decay = log_decay(rng.standard_normal((length, G * R), np.float32) * 2, a, rng.standard_normal(G * R))
    return query, key, value, np.asarray(decay), rate


@pytest.mark.parametrize("lengths", [(1, 2, 3), (64, 63, 65), (150, 17, 129), (40, 90, 1)])
def test_the_delta_rule_in_chunks_is_that_of_transformers_token_by_token(lengths):
    rng = np.random.default_rng(sum(lengths))
    rows = [random_row(rng, length) for length in lengths]
    outs, states = in_calls(run_delta, rows, (G * R, K, V), seed=3)
    for index, (row, out) in enumerate(zip(rows, outs, strict=True)):
        query, key, value, decay, rate = (torch.tensor(each)[None] for each in row)
        for function in (reference.torch_recurrent_gated_delta_rule, reference.torch_chunk_gated_delta_rule):
            expected, state = function(
                query, key, value, g=decay, beta=rate, output_final_state=True, use_qk_l2norm_in_kernel=True
            )
            assert np.abs(out.reshape(expected[0].shape) - expected[0].numpy()).max() < 2e-5
            assert np.abs(states[SLOT_B[index]].reshape(state[0].shape) - state[0].numpy()).max() < 2e-5


@pytest.mark.parametrize("lengths", [(1, 2, 3), (64, 63, 65), (150, 17, 129)])
@pytest.mark.parametrize("strength", [0.3, 30.0])
def test_a_decay_for_every_number_of_a_key_is_that_of_transformers_token_by_token(lengths, strength):
    """A strong one lets a chunk's sum overflow, were it taken out of the products at once."""
    rng, rows = np.random.default_rng(sum(lengths)), []
    for length in lengths:
        query, key, value, _, rate = random_row(rng, length)
        query, key = (np.repeat(each, R, axis=1) for each in (query, key))
        decay = -strength * np.logaddexp(0, rng.standard_normal((length, G * R, K), np.float32))
        rows.append((query, key, value, decay.astype(np.float32), rate))
    outs, states = in_calls(run_kimi_delta, rows, (G * R, K, V), seed=5)
    for index, (row, out) in enumerate(zip(rows, outs, strict=True)):
        query, key, value, decay, rate = (torch.tensor(each)[None] for each in row)
        expected, state = kimi.recurrent_kimi_delta_attention(
            query, key, value, decay, rate, None, True, use_qk_l2norm_in_kernel=True
        )
        assert np.abs(out.reshape(expected[0].shape) - expected[0].numpy()).max() < 2e-5
        assert np.abs(states[SLOT_B[index]].reshape(state[0].shape) - state[0].numpy()).max() < 2e-5


def test_keys_that_repeat_without_decay_lose_no_digits():
    length = 100
    key = np.tile(np.random.default_rng(0).standard_normal((1, G, K), np.float32), (length, 1, 1))
    _, _, value, _, _ = random_row(np.random.default_rng(1), length)
    ones, zeros = np.ones((length, G * R), np.float32), np.zeros((length, G * R), np.float32)
    outs, _ = in_calls(run_delta, [(key, key, value, zeros, ones)] * ROWS, (G * R, K, V), seed=0)
    for out in outs:  # the newest value replaces the one before
        np.testing.assert_allclose(out, value * K**-0.5, atol=1e-4)


@pytest.mark.parametrize("lengths", [(64, 63, 65), (150, 17, 1)])
def test_mamba2_in_chunks_is_that_of_transformers(lengths):
    rng = np.random.default_rng(sum(lengths))
    rate, rows = -np.exp(rng.standard_normal(G * R, np.float32)), []
    for length in lengths:
        query, key, value, _, _ = random_row(rng, length)
        step = np.logaddexp(0, rng.standard_normal((length, G * R), np.float32) * 2)
        rows.append((query, key, value, step, np.broadcast_to(rate, (length, G * R))))
    outs, states = in_calls(run_mamba2, rows, (G * R, K, V), seed=3)
    for index, (row, out) in enumerate(zip(rows, outs, strict=True)):
        query, key, value, step, _ = (torch.tensor(each)[None] for each in row)
        expected, state = mamba2_reference.mamba2_chunk_scan(
            value, step, torch.tensor(rate), key, query, chunk_size=32, return_final_states=True
        )
        assert np.abs(out - expected[0].numpy()).max() < 2e-5
        assert np.abs(states[SLOT_B[index]] - state[0].mT.numpy()).max() < 2e-5


@pytest.mark.parametrize("size", [2, 16, 32, 64])
def test_the_inverse_of_a_triangular_system_is_that_of_numpy(size):
    lower = np.tril(np.random.default_rng(size).standard_normal((2, size, size)) / 4, -1).astype(np.float32)
    expected = np.linalg.inv(np.eye(size) + lower)
    np.testing.assert_allclose(jax.jit(invert_unit_lower)(lower), expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(1, 2, 3), (10, 90, 1), (70, 3, 50)])
def test_a_convolution_in_chunks_is_that_of_torch_over_the_whole_row(lengths):
    rng = np.random.default_rng(len(lengths))
    kernel = rng.standard_normal((D, TAPS), np.float32)
    xs = [rng.standard_normal((length, D), np.float32) for length in lengths]
    kernels = [np.broadcast_to(kernel, (len(x), D, TAPS)) for x in xs]
    outs, states = in_calls(run_conv, list(zip(xs, kernels, strict=True)), (TAPS - 1, D), seed=1, largest=30)
    for index, (x, out) in enumerate(zip(xs, outs, strict=True)):
        padded = np.pad(x, ((TAPS - 1, 0), (0, 0)))
        expected = F.conv1d(torch.tensor(padded.T)[None], torch.tensor(kernel)[:, None], groups=D)[0].T.numpy()
        np.testing.assert_allclose(out, expected, atol=1e-5)
        np.testing.assert_array_equal(states[SLOT_B[index]], padded[-TAPS + 1 :])


def test_decoding_copies_no_states_but_those_of_its_rows():
    from tests.engine import hlo

    slots, inputs = 64, batch([1] * ROWS, [5] * ROWS, ROWS)
    states = jax.ShapeDtypeStruct((slots, G * R, K, V), jnp.float32)
    tokens = [jnp.asarray(each[:ROWS]) for each in random_row(np.random.default_rng(0), ROWS)]
    step = jax.jit(lambda states, tokens, inputs: run.__wrapped__(run_delta, tokens, states, inputs), donate_argnums=0)
    text = step.lower(states, tokens, inputs).compile().as_text()
    assert hlo.num_donated(text) == 1
    assert not hlo.large_moves(text, slots * G * R * K * V)
