"""Size of the key-value cache and the longest request that it can serve. Pure arithmetic over given facts.

On an accelerator the cache takes what weights and scratch memory leave of the configured share. On a CPU, whose memory
other programs use, too, it takes 2 % of the RAM, or more if one request of maximum length needs more, up to limits.
Page 0 is for padding, so num_pages pages hold (num_pages - 1) * page_size tokens.
"""

from dataclasses import dataclass

from jaxserve.config import GIB, MIB
from jaxserve.errors import BadConfig, OutOfMemory
from jaxserve.parallel.placement import MemoryFacts

CPU_MEMORY_SHARE = 0.02  # of all RAM
CPU_MAX_BYTES = 4 * GIB
CPU_MAX_SHARE_OF_AVAILABLE = 0.25
LONGEST_THAT_FITS = -1  # value of max_model_len


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """The chosen size of the cache.

    num_pages      with page 0
    page_bytes     of one page in all layers
    max_model_len  longest request, in tokens
    reason         the setting or limit that decided the size, in words
    """

    num_pages: int
    page_bytes: int
    max_model_len: int
    reason: str

    @property
    def total_bytes(self) -> int:
        """Memory of all pages."""
        return self.num_pages * self.page_bytes


def num_pages_for(num_tokens: int, page_size: int) -> int:
    """Return how many pages num_tokens tokens occupy."""
    return -(-num_tokens // page_size)


def num_pages_within(budget_bytes: int, page_bytes: int) -> int:
    """Return how many whole pages a budget holds, page 0 included."""
    return max(0, budget_bytes) // page_bytes


def choose_cache_size(
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
    """Choose the number of pages and the longest request that they serve.

    model_max_len is the model's own limit; max_model_len is the setting: None for the model's own, -1 for the longest
    that fits. Raises OutOfMemory if no page fits, or if one request of maximum length does not; the text names the
    setting that helps. Raises BadConfig if kv_cache_memory_bytes and num_gpu_blocks_override are both given.
    """
    if kv_cache_memory_bytes is not None and num_gpu_blocks_override is not None:
        raise BadConfig("kv_cache_memory_bytes and num_gpu_blocks_override both say how large the cache is; give one.")
    resolved_len = model_max_len if max_model_len in (None, LONGEST_THAT_FITS) else max_model_len
    if num_gpu_blocks_override is not None:
        num_pages, reason = num_gpu_blocks_override, "num_gpu_blocks_override"
    else:
        if kv_cache_memory_bytes is not None:
            budget, reason = kv_cache_memory_bytes, "kv_cache_memory_bytes"
        elif memory.platform == "cpu":
            budget, reason = _cpu_budget(memory, (num_pages_for(resolved_len, page_size) + 1) * page_bytes)
        else:
            budget, reason = _device_budget(memory, gpu_memory_utilization)
        num_pages = num_pages_within(budget, page_bytes)
        if num_pages < 2:
            raise OutOfMemory(_describe_no_page_fits(budget, page_bytes, reason, memory))
    max_fitting_len = (num_pages - 1) * page_size
    if max_model_len == LONGEST_THAT_FITS:
        resolved_len = min(model_max_len, max_fitting_len)
    if resolved_len > max_fitting_len or resolved_len < 1:
        raise OutOfMemory(
            _describe_request_does_not_fit(resolved_len, max_fitting_len, page_bytes, page_size, num_pages, reason)
        )
    return CacheSize(num_pages=num_pages, page_bytes=page_bytes, max_model_len=resolved_len, reason=reason)


def _cpu_budget(memory: MemoryFacts, one_request_bytes: int) -> tuple[int, str]:
    """Return 2 % of RAM or one longest request, whichever is more; at most 4 GiB and a quarter of available RAM."""
    wanted_bytes = max(int(memory.total_bytes * CPU_MEMORY_SHARE), one_request_bytes)
    limits = {
        f"{CPU_MEMORY_SHARE:.0%} of {_format_bytes(memory.total_bytes)} of RAM, or one longest request": wanted_bytes,
        f"at most {_format_bytes(CPU_MAX_BYTES)} on a CPU": CPU_MAX_BYTES,
        f"a quarter of {_format_bytes(memory.free_bytes)} of available RAM": int(
            memory.free_bytes * CPU_MAX_SHARE_OF_AVAILABLE
        ),
    }
    reason = min(limits, key=lambda name: limits[name])
    return limits[reason], reason


def _device_budget(memory: MemoryFacts, utilization: float) -> tuple[int, str]:
    """Return the configured share of the device's memory, less what is in use, less the scratch memory of one step."""
    used = memory.total_bytes - memory.free_bytes
    budget = int(memory.total_bytes * utilization) - used - memory.scratch_bytes
    reason = (
        f"{utilization:.0%} of {_format_bytes(memory.total_bytes)}, less {_format_bytes(used)} in use"
        f" and {_format_bytes(memory.scratch_bytes)} of scratch"
    )
    return budget, reason


def _describe_no_page_fits(budget: int, page_bytes: int, reason: str, memory: MemoryFacts) -> str:
    is_by_share = memory.platform != "cpu" and reason != "kv_cache_memory_bytes"
    flag = "--gpu-memory-utilization" if is_by_share else "--kv-cache-memory-bytes"
    return (
        f"The key-value cache needs at least {_format_bytes(2 * page_bytes)} (2 pages) and has"
        f" {_format_bytes(max(0, budget))} ({reason}). Raise {flag}."
    )


def _describe_request_does_not_fit(
    max_model_len: int, max_fitting_len: int, page_bytes: int, page_size: int, num_pages: int, reason: str
) -> str:
    needed = num_pages_for(max_model_len, page_size)
    if max_fitting_len < 1:
        return f"num_gpu_blocks_override={num_pages} leaves no page for tokens: page 0 is for padding. Raise it."
    return (
        f"One request of max_model_len={max_model_len} tokens needs {needed} pages"
        f" ({_format_bytes(needed * page_bytes)}), and the key-value cache holds {num_pages - 1}"
        f" ({_format_bytes((num_pages - 1) * page_bytes)}; {reason})."
        f" Try --max-model-len {max_fitting_len}, the largest that fits; -1 takes that by itself."
    )


def _format_bytes(num_bytes: int) -> str:
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.1f} MiB"
