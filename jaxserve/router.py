"""The choice of a replica for each request: where its prompt's beginning was served before, unless others are idle.

Replicas have names, which are numbers inside of one process (EngineClient) and ids under Ray Serve (server/ray). What a
router knows is what it has routed itself. Routers that know nothing of a prompt yet choose alike, so that several in
front of the same replicas, or one that was started anew, send a beginning to the same place.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

from jaxserve.cache.prefix import NO_CONTEXT, CacheContext, hash_pages

MAX_PAGES = 64  # of a prompt, which are compared; longer beginnings are rarely shared by requests that differ before
MAX_PREFIXES = 1 << 16  # of each replica, least recently served out first: 9 MB, for 1M tokens of pages of 16
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PromptPages:
    """A prompt as a router sees it.

    num_tokens   The number of its tokens.
    page_size    The number of tokens of a page: only whole pages are found in a prefix cache.
    hashes       The hashes of its first whole pages, at most MAX_PAGES, as the prefix cache has them.
    """

    num_tokens: int = 0
    page_size: int = 1
    hashes: tuple[bytes, ...] = ()


def hash_prompt(prompt_ids: Sequence[int], page_size: int, context: CacheContext = NO_CONTEXT) -> PromptPages:
    """Return the pages of a prompt. context: pages are shared only between equal ones."""
    hashes = hash_pages(prompt_ids[: MAX_PAGES * page_size], page_size, context)
    return PromptPages(len(prompt_ids), page_size, tuple(hashes))


class PrefixRouter(Generic[Name]):
    """The beginnings of prompts that each replica has served. For one thread at a time."""

    def __init__(self) -> None:
        self._served: dict[Name, OrderedDict[bytes, None]] = {}
        self._num_routed: Counter[Name] = Counter()

    def rank(self, prompt: PromptPages, loads: Mapping[Name, int]) -> list[Name]:
        """Return the replicas that can serve a request, and first the one that does so soonest.

        A request waits for the load of its replica, and for its prompt's tokens that were not served there before. Of
        equals the first page chooses, and for a prompt without one it is the replica that got the fewest requests.

        loads   The tokens that the unfinished requests of each replica still need.
        """

        def cost(name: Name) -> tuple[int, bytes, int]:
            new = prompt.num_tokens - prompt.page_size * self._count_served(prompt, name)
            if prompt.hashes:
                return loads[name] + new, _score(prompt.hashes[0], name), 0
            return loads[name] + new, b"", self._num_routed[name]

        return sorted(loads, key=cost)

    def record(self, prompt: PromptPages, name: Name) -> None:
        """Take note that a replica serves a prompt."""
        served = self._served.setdefault(name, OrderedDict())
        for page_hash in prompt.hashes:
            served[page_hash] = None
            served.move_to_end(page_hash)
        while len(served) > MAX_PREFIXES:
            served.popitem(last=False)
        self._num_routed[name] += 1

    def retain(self, names: Collection[Name]) -> None:
        """Forget all replicas but these: caches of the others are gone."""
        for name in self._num_routed.keys() - set(names):
            del self._num_routed[name], self._served[name]

    def _count_served(self, prompt: PromptPages, name: Name) -> int:
        """Return the number of pages at the beginning of a prompt that a replica has served."""
        served = self._served.get(name, {})
        return next((num for num, page in enumerate(prompt.hashes) if page not in served), len(prompt.hashes))


def _score(page_hash: bytes, name: Hashable) -> bytes:
    """Return a number that is random for each pair, and the same in every process (rendezvous hashing)."""
    return sha256(page_hash + str(name).encode()).digest()
