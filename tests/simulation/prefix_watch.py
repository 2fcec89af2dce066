"""Watches the prefix cache: cached tokens are those of somebody with the same salt, and never the whole prompt (I6)."""

from collections.abc import Sequence

from jaxserve.engine.request import Request
from tests.simulation.model import PAGE


class WrongHit(AssertionError):
    """A request has found pages in the prefix cache that it must not find."""


class PrefixWatch:
    """The prefixes of all requests of one engine, by salt."""

    def __init__(self) -> None:
        self._groups: dict[str | None, dict[tuple[int, ...], set[int]]] = {}

    def add_tokens(self, request: Request, tokens: Sequence[int]) -> None:
        """Take note of the tokens of a request."""
        known = self._groups.setdefault(request.cache_salt, {})
        for end in range(PAGE, len(tokens) + 1, PAGE):
            known.setdefault(tuple(tokens[:end]), set()).add(_group_of(request))

    def check_hit(self, request: Request, num_cached_tokens: int) -> None:
        """Check that cached tokens are those of another request."""
        if not num_cached_tokens:
            return
        if num_cached_tokens >= len(request.prompt_ids):
            raise WrongHit(f"I6: all {num_cached_tokens} tokens of request {request.request_id} were cached")
        groups = self._groups.get(request.cache_salt, {}).get(request.prompt_ids[:num_cached_tokens], set())
        has_siblings = bool(request.num_siblings) or request.parent_id is not None
        if not has_siblings and not groups - {_group_of(request)}:
            raise WrongHit(f"I6: nobody with its salt has the {num_cached_tokens} cached tokens of {request}")


def _group_of(request: Request) -> int:
    """Return the id of the first choice of a request's prompt."""
    return request.parent_id or request.request_id
