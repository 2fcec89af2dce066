"""Causal convolution along the tokens of each row, every channel by itself, over the last few tokens."""

import jax.numpy as jnp
from jax import Array


def causal_conv(
    x_TD: Array,
    kernel_DL: Array,
    state_BSD: Array,
    query_start_B1: Array,
    row_T: Array,
    bias_D: Array | None = None,
) -> tuple[Array, Array]:
    """Return sum over l of kernel[:, l] * x[t - L + 1 + l] for every token t [T, D], and the rows' new states.

    state_BSD               The S = L - 1 tokens before the first one of each row; the new states are its last ones.
    query_start_B1, row_T   The tokens of each row, and the row of each token (attention/inputs.py).

    Sums are float32.
    """
    num_tokens, (num_rows, num_states, width) = len(x_TD), state_BSD.shape
    # Behind the tokens lie the states of all rows, so that each tap is one look-up.
    past_PD = jnp.concatenate([x_TD, state_BSD.astype(x_TD.dtype).reshape(num_rows * num_states, width)])
    token_T = jnp.arange(num_tokens, dtype=jnp.int32)

    def locate(token: Array, row: Array) -> Array:
        """Return where a token of a row lies, which may be up to S tokens before its first one."""
        before = token - query_start_B1[row]
        state = num_tokens + (row + 1) * num_states + before
        return jnp.where(before >= 0, token, jnp.maximum(state, num_tokens))

    kernel_LD = kernel_DL.astype(jnp.float32).T
    y_TD = x_TD.astype(jnp.float32) * kernel_LD[-1]
    for distance in range(1, num_states + 1):
        y_TD += past_PD[locate(token_T - distance, row_T)].astype(jnp.float32) * kernel_LD[-1 - distance]
    last_BS = query_start_B1[1:, None] - num_states + jnp.arange(num_states, dtype=jnp.int32)
    row_B1 = jnp.arange(num_rows, dtype=jnp.int32)[:, None]
    return _add_bias(y_TD, bias_D).astype(x_TD.dtype), past_PD[locate(last_BS, row_B1)]


def causal_conv_step(
    x_BD: Array, kernel_DL: Array, state_BSD: Array, bias_D: Array | None = None
) -> tuple[Array, Array]:
    """Return what `causal_conv` does for one token of each row."""
    window_BLD = jnp.concatenate([state_BSD.astype(x_BD.dtype), x_BD[:, None]], axis=1)
    y_BD = (window_BLD.astype(jnp.float32) * kernel_DL.astype(jnp.float32).T).sum(1)
    return _add_bias(y_BD, bias_D).astype(x_BD.dtype), window_BLD[:, 1:]


def _add_bias(y_TD: Array, bias_D: Array | None) -> Array:
    return y_TD if bias_D is None else y_TD + bias_D.astype(jnp.float32)
