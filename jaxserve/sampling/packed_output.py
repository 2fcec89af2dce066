"""The sampler's output as one array, so that the host reads one array a call and not one a field."""

from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.sampling.sampler import LogprobsConfig, SampleMode, SamplerOutput
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

Columns: TypeAlias = tuple[tuple[str, int], ...]
"""Fields of SamplerOutput in their order, and how many numbers each has in a row."""

FLOAT_FIELDS = {field.name for field in fields(SamplerOutput) if "logprob" in field.name}


class PackedOutput(NamedTuple):
    """A SamplerOutput of B rows on the device.

    packed_BX        int32, all fields but one side by side; float32 by its bits.
    all_logprob_BV   float32, or None.
    """

    packed_BX: Array
    all_logprob_BV: Array | None


def list_columns(mode: SampleMode, config: LogprobsConfig, vocab_size: int) -> Columns:
    """Return the columns of a sampler's output.

    vocab_size   V, the number of logits of a row.
    """
    columns = [("token_B", 1)]
    if mode >= SampleMode.LOGPROBS:
        columns += list_prompt_columns(config, vocab_size)[1:]
        columns.append(("requested_logprob_BI", MAX_LOGPROB_TOKEN_IDS))
    if mode == SampleMode.BEAM:
        num = min(config.num_candidates, vocab_size)
        names = ("candidate_id_BC", "candidate_logprob_BC", "candidate_raw_logprob_BC")
        columns += [(name, num) for name in names]
    return tuple(columns)


def list_prompt_columns(config: LogprobsConfig, vocab_size: int) -> Columns:
    """Return the columns of the log-probabilities of prompt tokens."""
    num = min(config.max_logprobs, vocab_size)
    return ("token_B", 1), ("logprob_B", 1), ("rank_B", 1), ("top_id_BK", num), ("top_logprob_BK", num)


def pack_output(output: SamplerOutput, columns: Columns) -> PackedOutput:
    """Pack a sampler's output, which must have these columns; for use inside a program."""
    parts = []
    for field in fields(SamplerOutput):
        array = getattr(output, field.name)
        if array is None or field.name == "all_logprob_BV":
            continue
        matrix = array.reshape(len(array), -1)
        parts.append((field.name, lax.bitcast_convert_type(matrix, jnp.int32)))
    assert [(name, part.shape[1]) for name, part in parts] == list(columns), columns
    return PackedOutput(jnp.concatenate([part for _, part in parts], axis=1), output.all_logprob_BV)


def unpack_output(packed_BX: np.ndarray, columns: Columns) -> dict[str, Any]:
    """Return the fields of a packed output as matrices, int32 or float32 [B, columns]: views of the array."""
    unpacked, start = {}, 0
    for name, num in columns:
        part = packed_BX[:, start : start + num]
        unpacked[name] = part.view(np.float32) if name in FLOAT_FIELDS else part
        start += num
    return unpacked
