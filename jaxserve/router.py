"""The choice of a replica for each request: where its prompt's beginning was served before, unless others are idle."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

MAX_PAGES = 64  # of a prompt, which are compared; longer beginnings are rarely shared by requests that differ before
MAX_PREFIXES = 1 << 16  # of each replica, least recently served out first: 64 bytes each, for 1M tokens of pages of 16


def choose_replica(num_new_tokens: Sequence[int | None], loads: Sequence[int], num_routed: Sequence[int]) -> int:
    """Return the replica on which a request is served soonest: it waits for the load, and computes its new tokens.

    num_new_tokens   for each replica the prompt tokens that it has not served before; None: it cannot serve any
    loads            for each replica the tokens that its unfinished requests still need
    num_routed       for each replica the requests that it got so far, which decides between equals

    If none of them can serve the request, it is the first.
    """
    costs = [
        (load + new, routed, rank)
        for rank, (new, load, routed) in enumerate(zip(num_new_tokens, loads, num_routed, strict=True))
        if new is not None
    ]
    return min(costs)[2] if costs else 0


class PrefixRouter:
    """The beginnings of prompts that each replica has served. For one thread at a time.

    num_replicas   The number of replicas.
    page_size      The number of tokens of a page: only whole pages are found in a prefix cache.
    """

    def __init__(self, num_replicas: int, page_size: int) -> None:
        self._page_size = page_size
        self._served: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._num_routed = [0] * num_replicas

    def route(
        self,
        prompt_ids: Sequence[int],
        loads: Sequence[int | None],
        *,
        cache_salt: str | None = None,
        adapter: str | None = None,
        rank: int | None = None,
    ) -> int:
        """Choose the replica of a request and remember the beginning of its prompt.

        loads        for each replica the tokens that its unfinished requests still need; None: it cannot serve any
        cache_salt   prompts with different salts share nothing
        adapter      nor do prompts with different adapters
        rank         the replica that the request asks for; None: any
        """
        prefixes = list(self._hash_prefixes(prompt_ids, (cache_salt, adapter)))
        if rank is None:
            new = [
                None if load is None else len(prompt_ids) - self._page_size * self._count_served(prefixes, replica)
                for replica, load in enumerate(loads)
            ]
            rank = choose_replica(new, [load or 0 for load in loads], self._num_routed)
        served = self._served[rank]
        for prefix in prefixes:
            served[prefix] = None
            served.move_to_end(prefix)
        while len(served) > MAX_PREFIXES:
            served.popitem(last=False)
        self._num_routed[rank] += 1
        return rank

    def _count_served(self, prefixes: Sequence[int], rank: int) -> int:
        """Return the number of pages at the beginning of a prompt that a replica has served."""
        served = self._served[rank]
        return next((num for num, prefix in enumerate(prefixes) if prefix not in served), len(prefixes))

    def _hash_prefixes(self, prompt_ids: Sequence[int], context: tuple[str | None, ...]) -> Iterator[int]:
        """Yield a hash of each beginning of whole pages. A collision costs time, never a wrong token."""
        size, prefix = self._page_size, hash(context)
        for end in range(size, min(len(prompt_ids), MAX_PAGES * size) + 1, size):
            prefix = hash((prefix, *prompt_ids[end - size : end]))
            yield prefix
