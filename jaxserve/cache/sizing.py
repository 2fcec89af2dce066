"""Size of the key-value cache and the longest request that it can serve. Pure arithmetic over given facts.

On an accelerator the cache takes what weights and scratch memory leave of the configured share. On a CPU, whose memory
other programs use, too, it takes 2 % of the RAM, or more if one request of maximum length needs more, up to limits.
Page 0 is for padding, so num_pages pages hold (num_pages - 1) * page_size tokens.

Cache groups share this memory by one rule. The main group is the one with full attention, or else with the largest
window. Every window group beside it gets the pages that all rows can use at once, and as many again for the prefix
cache; but never more pages than the main group, nor, all of them together, more than half of the memory, nor what the
main group needs for one longest request. The main group gets the rest.

A page of a recurrent group is a slot for the state of one sequence. Each row has a slot, and with a prefix cache a
second one for the newest snapshot of its own output; as many slots again are for snapshots that the prefix cache keeps.
All recurrent groups together have no more than half of the memory, nor what the others leave that one longest request
needs, but always a slot for each row and two for snapshots. Host memory for snapshots is given, and holds further ones.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxserve.cache.groups import GroupSize, max_window_pages, num_main_pages, num_pages_for
from jaxserve.config import GIB, MIB
from jaxserve.errors import BadConfig, OutOfMemory
from jaxserve.parallel.placement import MemoryFacts

CPU_MEMORY_SHARE = 0.02  # of all RAM
CPU_MAX_BYTES = 4 * GIB
CPU_MAX_SHARE_OF_AVAILABLE = 0.25
MIN_SNAPSHOTS = 4  # of a cache whose size is given in pages
LONGEST_THAT_FITS = -1  # value of max_model_len
LEAST_DEFAULT_LEN = 2048  # tokens; a cache that holds no longer request is refused unless a length is given


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNeeds:
    """The facts about one cache group that sizing needs.

    name             of the group
    window           the number of positions that a query sees, its own included; None: all
    page_bytes       the bytes of one page in all its layers
    is_recurrent     a page is the state of one sequence
    max_pages        the most pages that can be addressed; None: any number
    is_latent        a page holds latent vectors in place of keys and values
    """

    name: str = "full attention"
    window: int | None = None
    page_bytes: int
    is_recurrent: bool = False
    max_pages: int | None = None
    is_latent: bool = False

    def request_pages(self, num_tokens: int, chunk_tokens: int, page_size: int) -> int:
        """Return the most pages that a request of num_tokens tokens holds at a time.

        In a window group: those that a query sees, and those of two chunks, of which one is computed while the other is
        planned.
        """
        num_pages = num_pages_for(num_tokens, page_size)
        if self.window is None:
            return num_pages
        return min(num_pages, max_window_pages(self.window, page_size) + 2 * num_pages_for(chunk_tokens, page_size) + 1)

    def wanted_pages(self, num_rows: int, step_tokens: int, page_size: int) -> int | None:
        """Return the number of pages, page 0 included, above which more would hardly be used; None: there is none.

        In a window group: what all rows hold at a time while two steps are computed and planned, and as many again for
        the prefix cache.
        """
        if self.window is None:
            return None
        rows = num_rows * (max_window_pages(self.window, page_size) + 2)
        return 1 + 2 * (rows + 2 * num_pages_for(step_tokens, page_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """The chosen size of the cache.

    groups         the size of each cache group
    max_model_len  longest request, in tokens
    reason         the setting or limit that decided the size, in words
    is_shortened   the longest request is shorter than the model's own limit because the cache holds no longer one
    """

    groups: tuple[GroupSize, ...]
    max_model_len: int
    reason: str
    is_shortened: bool = False

    @property
    def total_bytes(self) -> int:
        """Memory of all pages."""
        return sum(group.total_bytes for group in self.groups)

    @property
    def num_pages(self) -> int:
        """The number of pages of the main group, page 0 included."""
        return num_main_pages(self.groups)


def choose_cache_size(
    *,
    memory: MemoryFacts,
    groups: Sequence[GroupNeeds],
    page_size: int,
    model_max_len: int,
    num_rows: int,
    step_tokens: int,
    max_model_len: int | None = None,
    gpu_memory_utilization: float = 0.92,
    kv_cache_memory_bytes: int | None = None,
    num_gpu_blocks_override: int | None = None,
    has_prefix_cache: bool = True,
    host_bytes: int = 0,
) -> CacheSize:
    """Choose the number of pages of every group and the longest request that they serve.

    model_max_len is the model's own limit; max_model_len is the setting: -1 for the longest that fits, None for the
    same if that is at least LEAST_DEFAULT_LEN, so that a default starts wherever it is of use. num_rows is the number
    of sequences that run at once, step_tokens the largest number of prompt tokens of a step. num_gpu_blocks_override is
    the number of pages of the main group. host_bytes is the host memory for snapshots of recurrent states.

    Raises OutOfMemory if no page fits, or if one request of maximum length does not; the text names the setting that
    helps. Raises BadConfig if kv_cache_memory_bytes and num_gpu_blocks_override are both given, or if all groups are
    recurrent.
    """
    if kv_cache_memory_bytes is not None and num_gpu_blocks_override is not None:
        raise BadConfig("kv_cache_memory_bytes and num_gpu_blocks_override both say how large the cache is; give one.")
    if all(group.is_recurrent for group in groups):
        raise BadConfig(
            "Every layer of this model is recurrent; models without any attention layer are not served yet."
        )
    resolved_len = model_max_len if max_model_len in (None, LONGEST_THAT_FITS) else max_model_len
    division = _Division(groups, page_size, num_rows, step_tokens, 4 * num_rows if has_prefix_cache else num_rows)
    if num_gpu_blocks_override is not None:
        num_pages, reason = num_gpu_blocks_override, "num_gpu_blocks_override"
        most = num_rows + max(MIN_SNAPSHOTS, num_rows)  # how much memory there is for snapshots nobody has said
        division = replace(division, num_slots=min(division.num_slots, most))
    else:
        budget, reason = _find_budget(memory, division, resolved_len, gpu_memory_utilization, kv_cache_memory_bytes)
        division = division.limit_slots(budget, resolved_len).limit(budget, resolved_len)
        num_pages = division.num_pages_within(budget)
        if num_pages == division.main.max_pages:
            reason = f"as many pages as attention can address, within {reason}"
        if num_pages < 2:
            raise OutOfMemory(_describe_no_page_fits(budget, division, reason, memory))
    max_fitting_len = division.max_fitting_len(num_pages, resolved_len)
    is_free = max_model_len is None and max_fitting_len >= LEAST_DEFAULT_LEN
    is_shortened = (is_free or max_model_len == LONGEST_THAT_FITS) and max_fitting_len < resolved_len
    if is_shortened:
        resolved_len = max_fitting_len
    if resolved_len > max_fitting_len or resolved_len < 1:
        raise OutOfMemory(_describe_request_does_not_fit(resolved_len, max_fitting_len, division, num_pages, reason))
    return CacheSize(
        groups=division.divide(num_pages, host_bytes),
        max_model_len=resolved_len,
        reason=reason,
        is_shortened=is_shortened,
    )


def _find_budget(
    memory: MemoryFacts, division: "_Division", request_len: int, utilization: float, given: int | None
) -> tuple[int, str]:
    """Return the bytes for the cache, and the setting or limit that decided them.

    utilization   The part of a device's own memory that may be used.
    given         The bytes that the settings say; None: they do not.
    """
    if given is not None:
        return given, "kv_cache_memory_bytes"
    if memory.platform == "cpu":
        least = replace(division, num_slots=division.least_slots)
        return _cpu_budget(memory, least.request_bytes(request_len))
    return _device_budget(memory, utilization)


@dataclass(frozen=True, slots=True)
class _Division:
    """The division of the memory between groups, as a function of the number of pages of the main group.

    num_slots        the number of slots of every recurrent group, slot 0 not included
    max_side_pages   the largest number of pages of a group beside the main group; None: there is no such limit
    """

    groups: Sequence[GroupNeeds]
    page_size: int
    num_rows: int
    step_tokens: int
    num_slots: int
    max_side_pages: int | None = None

    @property
    def main(self) -> GroupNeeds:
        """The group that gets what the others leave."""
        paged = (group for group in self.groups if not group.is_recurrent)
        return max(paged, key=lambda group: float("inf") if group.window is None else group.window)

    @property
    def least_slots(self) -> int:
        """The number of slots without which rows could not all run, or no snapshot be used."""
        return min(self.num_slots, self.num_rows + 2)  # one is restored while another is taken

    @property
    def slot_bytes(self) -> int:
        """The memory of one slot of each recurrent group."""
        return sum(group.page_bytes for group in self.groups if group.is_recurrent)

    @property
    def state_bytes(self) -> int:
        """The memory of all recurrent groups."""
        return (self.num_slots + 1) * self.slot_bytes

    def count_pages(self, group: GroupNeeds, num_pages: int) -> int:
        """Return the number of pages of a group if the main group has num_pages."""
        if group.is_recurrent:
            return self.num_slots + 1
        wanted = group.wanted_pages(self.num_rows, self.step_tokens, self.page_size)
        if wanted is None or group.window == self.main.window:
            return num_pages
        limits = (wanted, self.max_side_pages, group.max_pages)
        return min(num_pages, *(limit for limit in limits if limit is not None))

    def limit_slots(self, budget_bytes: int, num_tokens: int) -> "_Division":
        """Return the division in which recurrent groups have half of a budget at most.

        Less if the others need more for a request of num_tokens tokens, but never less than the rows need.
        """
        if not self.slot_bytes:
            return self
        rest = budget_bytes - (self.request_bytes(num_tokens) - self.state_bytes)
        most = min(budget_bytes // 2, rest) // self.slot_bytes - 1
        return replace(self, num_slots=max(self.least_slots, min(self.num_slots, most)))

    def limit(self, budget_bytes: int, num_tokens: int) -> "_Division":
        """Return the division in which the window groups have half of a budget at most.

        Less if the main group needs more for a request of num_tokens tokens, but what that needs of their pages, too.
        """
        side = [group for group in self.groups if group.window != self.main.window and not group.is_recurrent]
        if not side:
            return self
        main_bytes = self.request_bytes(num_tokens) - sum(self._request_bytes(group, num_tokens) for group in side)
        most = max(0, min(budget_bytes // 2, budget_bytes - main_bytes)) // sum(group.page_bytes for group in side)
        needed = max(group.request_pages(num_tokens, self.step_tokens, self.page_size) for group in side)
        return replace(self, max_side_pages=max(most, needed + 1))

    def total_bytes(self, num_pages: int) -> int:
        """Return the memory of all groups if the main group has num_pages."""
        return sum(self.count_pages(group, num_pages) * group.page_bytes for group in self.groups)

    def num_pages_within(self, budget_bytes: int) -> int:
        """Return the largest number of pages of the main group with which all groups fit a budget."""
        low, high = 0, min(max(0, budget_bytes) // self.main.page_bytes, self.main.max_pages or sys.maxsize)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total_bytes(middle) <= budget_bytes else (low, middle - 1)
        return low

    def fits(self, num_tokens: int, num_pages: int) -> bool:
        """Return whether one request of num_tokens tokens fits if the main group has num_pages."""
        return all(
            group.request_pages(num_tokens, self.step_tokens, self.page_size) < self.count_pages(group, num_pages)
            for group in self.groups
            if not group.is_recurrent
        )

    def max_fitting_len(self, num_pages: int, longest: int) -> int:
        """Return the length of the longest request that fits, `longest` at most."""
        low, high = 0, longest
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle, num_pages) else (low, middle - 1)
        return low

    def request_bytes(self, num_tokens: int) -> int:
        """Return the memory that one request of num_tokens tokens needs, page 0 included."""
        return sum(self._request_bytes(group, num_tokens) for group in self.groups)

    def _request_bytes(self, group: GroupNeeds, num_tokens: int) -> int:
        if group.is_recurrent:
            return (self.num_slots + 1) * group.page_bytes
        return (group.request_pages(num_tokens, self.step_tokens, self.page_size) + 1) * group.page_bytes

    def divide(self, num_pages: int, host_bytes: int) -> tuple[GroupSize, ...]:
        """Return the size of every group if the main group has num_pages. host_bytes: as in choose_cache_size."""
        num_host_pages = host_bytes // self.slot_bytes if self.slot_bytes else 0
        return tuple(
            GroupSize(
                num_pages=self.count_pages(group, num_pages),
                window=group.window,
                name=group.name,
                page_bytes=group.page_bytes,
                num_rows=self.num_rows if group.is_recurrent else 0,
                num_host_pages=num_host_pages if group.is_recurrent else 0,
                is_latent=group.is_latent,
            )
            for group in self.groups
        )


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


def _describe_no_page_fits(budget: int, division: _Division, reason: str, memory: MemoryFacts) -> str:
    is_by_share = memory.platform != "cpu" and reason != "kv_cache_memory_bytes"
    flag = "--gpu-memory-utilization" if is_by_share else "--kv-cache-memory-bytes"
    states, remedy = "", f"Raise {flag}."
    if division.state_bytes:
        states = f" and the states of {division.num_slots} sequences"
        remedy = f"Raise {flag}, or lower --max-num-seqs {division.num_rows}."
    return (
        f"The key-value cache needs at least {_format_bytes(division.total_bytes(2))} (2 pages{states}) and has"
        f" {_format_bytes(max(0, budget))} ({reason}). {remedy}"
    )


def _describe_request_does_not_fit(
    max_model_len: int, max_fitting_len: int, division: _Division, num_pages: int, reason: str
) -> str:
    if num_pages < 2:
        return f"num_gpu_blocks_override={num_pages} leaves no page for tokens: page 0 is for padding. Raise it."
    needed = division.main.request_pages(max_model_len, division.step_tokens, division.page_size)
    needed_bytes = division.request_bytes(max_model_len) - division.state_bytes
    text = (
        f"One request of max_model_len={max_model_len} tokens needs {needed} pages"
        f" ({_format_bytes(needed_bytes)}), and the key-value cache holds {num_pages - 1}"
        f" ({_format_bytes(division.total_bytes(num_pages) - division.state_bytes)}; {reason})."
    )
    return f"{text} Try --max-model-len {max_fitting_len}, the largest that fits; -1 takes that by itself."


def _format_bytes(num_bytes: int) -> str:
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.1f} MiB"
