"""Defaults of batch and page sizes by kind of device, in one table, each with its reason.

What a kind of device needs follows from two rates: a batch of fewer rows than the ridge (products a second for each
number read a second, in bfloat16) is bound by reading weights, and a prompt chunk of more tokens than it only makes the
step longer, in which nobody gets a token. Rates are those of `parallel.gpus` and `parallel.targets`; no accelerator was
at hand.
"""

import re
from dataclasses import dataclass

from jaxserve.parallel.gpus import GPUS

_LARGE_GPUS = ("h100", "h200", "b200")
MAX_PAGE_SIZE = 256  # tokens; half of a page is unused by each sequence, and the prefix cache reuses whole ones


@dataclass(frozen=True, slots=True)
class DeviceDefaults:
    """Default sizes for a kind of device.

    max_num_seqs   The most rows of a decode batch.
    chunk_tokens   The most prompt tokens of a step.
    page_bytes     The least bytes of a page in one layer, both keys and values: what is copied at once. Pages are
                   as small as that and the attention backend allow.
    reason         Why.
    """

    max_num_seqs: int
    chunk_tokens: int
    page_bytes: int = 0
    reason: str = ""


# Platform, whole words of the kind of device, and its defaults; the first line that fits counts.
DEFAULTS: tuple[tuple[str, str, DeviceDefaults], ...] = (
    (
        "cpu",
        "",
        DeviceDefaults(
            32,
            256,
            reason="a CPU computes a prompt token about as fast in a small chunk as in a large one, so steps are short",
        ),
    ),
    (
        "tpu",
        "v5 lite",
        DeviceDefaults(
            128,
            1024,
            page_bytes=2**15,
            reason="ridge 241: 1,024 tokens of an 8B model take 83 ms, 2,048 twice as long and no less each; 32 KiB are"
            " read in 40 ns, which is about what it takes to start a copy",
        ),
    ),
    (
        "tpu",
        "v6",
        DeviceDefaults(
            128,
            2048,
            page_bytes=2**16,
            reason="ridge 560: 2,048 tokens of an 8B model take 36 ms; more rows would need pages twice as large for"
            " their table to fit into scalar memory; 64 KiB are read in 40 ns",
        ),
    ),
    (
        "tpu",
        "",
        DeviceDefaults(
            128,
            2048,
            page_bytes=2**16,
            reason="v5p has a ridge of 166: 2,048 tokens of an 8B model take 71 ms; 64 KiB are read in 24 ns",
        ),
    ),
    (
        "gpu",
        "L4",
        DeviceDefaults(
            64,
            512,
            reason=f"ridge {GPUS['l4'].ridge:.0f}, and 24 GB: 512 tokens of an 8B model take 68 ms, and beside it 6 GB"
            " are left for pages, of 64 rows of 750 tokens",
        ),
    ),
    (
        "gpu",
        "A100",
        DeviceDefaults(
            256,
            1024,
            reason=f"ridge {GPUS['a100'].ridge:.0f}: 1,024 tokens of an 8B model take 53 ms, 2,048 twice as long and no"
            " less each",
        ),
    ),
    (
        "gpu",
        "",
        DeviceDefaults(
            256,
            2048,
            reason=f"ridges of {', '.join(f'{GPUS[name].ridge:.0f} ({name.upper()})' for name in _LARGE_GPUS)}: 2,048"
            " tokens of an 8B model take 33 ms or less",
        ),
    ),
    ("", "", DeviceDefaults(256, 2048, reason="an unknown device is taken for a large GPU")),
)


def find_defaults(platform: str, device_kind: str) -> DeviceDefaults:
    """Return the defaults of a device, by JAX's names for its platform and its kind."""
    return next(
        defaults
        for name, words, defaults in DEFAULTS
        if name in ("", platform) and (not words or re.search(rf"\b{words}\b", device_kind, re.IGNORECASE))
    )


def choose_page_size(defaults: DeviceDefaults, least: int, bytes_per_token: int, most: int = MAX_PAGE_SIZE) -> int:
    """Return the tokens of a page, a power of two.

    least             What the attention backend asks for.
    bytes_per_token   In one layer on one device, keys and values: more of them, fewer tokens in a page.
    most              The tokens of a prompt chunk, which has at least a page.
    """
    size = least
    while 2 * size <= min(most, MAX_PAGE_SIZE) and size * bytes_per_token < defaults.page_bytes:
        size *= 2
    return size
