"""How many pages the key-value cache gets, and how long a request may be. Pure arithmetic over given facts.

On an accelerator the cache takes what weights and scratch leave of the agreed share of memory. On a CPU memory
belongs to everybody: the cache takes 2 % of it, more if one longest request needs more, and stays modest.
Page 0 is for padding, so num_pages pages hold (num_pages - 1) * page_size tokens.
"""

from dataclasses import dataclass

from jaxserve.config import GIB, MIB
from jaxserve.errors import BadConfig, OutOfMemory

CPU_SHARE = 0.02  # of all RAM
CPU_LIMIT_BYTES = 4 * GIB
CPU_LIMIT_OF_AVAILABLE = 0.25
WHAT_FITS = -1  # as max_model_len: the longest that fits


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """What there is, in bytes. On a CPU total and available RAM; elsewhere the device's memory.

    scratch_bytes is what one step needs beside weights and pages; weights count as used already.
    """

    platform: str
    total_bytes: int
    free_bytes: int
    scratch_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """The outcome: num_pages counts page 0; reason says in words where the number comes from."""

    num_pages: int
    page_bytes: int
    max_model_len: int
    reason: str

    @property
    def total_bytes(self) -> int:
        return self.num_pages * self.page_bytes


def pages_for(num_tokens: int, page_size: int) -> int:
    """Pages that num_tokens tokens occupy."""
    return -(-num_tokens // page_size)


def pages_that_fit(budget_bytes: int, page_bytes: int) -> int:
    """Whole pages within a budget, page 0 among them."""
    return max(0, budget_bytes) // page_bytes


def choose_num_pages(
    *,
    memory: MemoryFacts,
    page_bytes: int,
    page_size: int,
    model_max_len: int,
    max_model_len: int | None = None,
    gpu_memory_utilization: float = 0.92,
    kv_cache_memory_bytes: int | None = None,
    num_gpu_blocks_override: int | None = None,
) -> CacheSize:
    """Pages to make, page 0 included, and the longest request they serve.

    model_max_len is the model's own limit; max_model_len the operator's wish: None for the model's own, -1 for
    what fits. Raises OutOfMemory when no page fits or one longest request does not, with the flag that helps,
    and BadConfig for two settings that contradict each other.
    """
    if kv_cache_memory_bytes is not None and num_gpu_blocks_override is not None:
        raise BadConfig("kv_cache_memory_bytes and num_gpu_blocks_override both say how large the cache is; give one.")
    wanted_len = model_max_len if max_model_len in (None, WHAT_FITS) else max_model_len
    if num_gpu_blocks_override is not None:
        num_pages, reason = num_gpu_blocks_override, "num_gpu_blocks_override"
    else:
        if kv_cache_memory_bytes is not None:
            budget, reason = kv_cache_memory_bytes, "kv_cache_memory_bytes"
        elif memory.platform == "cpu":
            budget, reason = _cpu_budget(memory, (pages_for(wanted_len, page_size) + 1) * page_bytes)
        else:
            budget, reason = _device_budget(memory, gpu_memory_utilization)
        num_pages = pages_that_fit(budget, page_bytes)
        if num_pages < 2:
            raise OutOfMemory(_nothing_fits(budget, page_bytes, reason, memory))
    longest = (num_pages - 1) * page_size
    if max_model_len == WHAT_FITS:
        wanted_len = min(model_max_len, longest)
    if wanted_len > longest or wanted_len < 1:
        raise OutOfMemory(_request_does_not_fit(wanted_len, longest, page_bytes, page_size, num_pages, reason))
    return CacheSize(num_pages=num_pages, page_bytes=page_bytes, max_model_len=wanted_len, reason=reason)


def _cpu_budget(memory: MemoryFacts, one_request_bytes: int) -> tuple[int, str]:
    """2 % of RAM or one longest request, whichever is more; at most 4 GiB and a quarter of what is available."""
    wish = max(int(memory.total_bytes * CPU_SHARE), one_request_bytes)
    limits = {
        f"{CPU_SHARE:.0%} of {_size(memory.total_bytes)} of RAM, or one longest request": wish,
        f"at most {_size(CPU_LIMIT_BYTES)} on a CPU": CPU_LIMIT_BYTES,
        f"a quarter of {_size(memory.free_bytes)} of available RAM": int(memory.free_bytes * CPU_LIMIT_OF_AVAILABLE),
    }
    reason = min(limits, key=lambda name: limits[name])
    return limits[reason], reason


def _device_budget(memory: MemoryFacts, utilization: float) -> tuple[int, str]:
    """The agreed share of the device, less what is in use already, less the scratch of one step."""
    used = memory.total_bytes - memory.free_bytes
    budget = int(memory.total_bytes * utilization) - used - memory.scratch_bytes
    reason = (
        f"{utilization:.0%} of {_size(memory.total_bytes)}, less {_size(used)} in use"
        f" and {_size(memory.scratch_bytes)} of scratch"
    )
    return budget, reason


def _nothing_fits(budget: int, page_bytes: int, reason: str, memory: MemoryFacts) -> str:
    by_share = memory.platform != "cpu" and reason != "kv_cache_memory_bytes"
    flag = "--gpu-memory-utilization" if by_share else "--kv-cache-memory-bytes"
    return (
        f"The key-value cache needs at least {_size(2 * page_bytes)} (2 pages) and has {_size(max(0, budget))}"
        f" ({reason}). Raise {flag}."
    )


def _request_does_not_fit(
    wanted_len: int, longest: int, page_bytes: int, page_size: int, num_pages: int, reason: str
) -> str:
    needed = pages_for(wanted_len, page_size)
    if longest < 1:
        return f"num_gpu_blocks_override={num_pages} leaves no page for tokens: page 0 is for padding. Raise it."
    return (
        f"One request of max_model_len={wanted_len} tokens needs {needed} pages ({_size(needed * page_bytes)}), and"
        f" the key-value cache holds {num_pages - 1} ({_size((num_pages - 1) * page_bytes)}; {reason})."
        f" Try --max-model-len {longest}, the largest that fits; -1 takes that by itself."
    )


def _size(num_bytes: int) -> str:
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.1f} MiB"
