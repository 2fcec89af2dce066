"""The field routed_experts of a choice: the experts of its tokens as an .npy file in base64, as in vLLM."""

import asyncio
import io
from base64 import b64encode
from typing import Any

import numpy as np

LARGE_BYTES = 1 << 20  # of experts, whose text takes a millisecond to make


async def encode_experts(experts: Any) -> str | None:
    """Return the text of an array of experts, made in a thread if it is large; None: there is none."""
    if experts is None:
        return None
    return _encode(experts) if experts.nbytes <= LARGE_BYTES else await asyncio.to_thread(_encode, experts)


def _encode(experts: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, experts, allow_pickle=False)
    return b64encode(file.getbuffer()).decode("ascii")
