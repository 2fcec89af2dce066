"""Log-probabilities in the three forms clients know: chat's entries, the completions' parallel arrays, and the
prompt's tables by token id."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxserve import Logprob, TokenLogprob

MIN_LOGPROB = -9999.0  # JSON has no infinity


def clamp_logprob(logprob: float) -> float:
    """Finite, whatever came out of the model."""
    return logprob if logprob > MIN_LOGPROB else MIN_LOGPROB


def select_top(entry: TokenLogprob, k: int) -> list[Logprob]:
    """The standing token, then others, best first: the best k, and the standing token if it is not among them."""
    others = [one for one in entry.top if one.token_id != entry.token_id]
    is_among = entry.rank is not None and entry.rank <= k
    return [entry, *others[: max(0, k - 1 if is_among else k)]]


def render_chat_logprobs(entries: Iterable[TokenLogprob], k: int, as_ids: bool) -> list[dict[str, Any]]:
    """One object per token; its list of alternatives has exactly k members, the token itself first. Where ids were
    asked for, it has the token itself in any case, then the best k, then those ids that are not there yet."""
    return [
        {
            **_render_chat_token(entry, as_ids),
            "top_logprobs": [_render_chat_token(one, as_ids) for one in _select_alternatives(entry, k)],
        }
        for entry in entries
    ]


def _select_alternatives(entry: TokenLogprob, k: int) -> list[Logprob]:
    listed = select_top(entry, k)
    return _add_requested_ids(listed, entry) if entry.wanted else listed[:k]


def _add_requested_ids(listed: list[Logprob], entry: TokenLogprob) -> list[Logprob]:
    known = {one.token_id for one in listed}
    return [*listed, *(one for one in entry.wanted if one.token_id not in known)]


def _render_chat_token(one: Logprob, as_ids: bool) -> dict[str, Any]:
    return {"token": format_token(one, as_ids), "logprob": clamp_logprob(one.logprob), "bytes": list(one.bytes)}


def format_token(one: Logprob, as_ids: bool) -> str:
    return f"token_id:{one.token_id}" if as_ids else one.token


class CompletionLogprobsBuilder:
    """The four parallel arrays of /v1/completions. Offsets run on from one chunk to the next, so there is one of
    these per choice."""

    def __init__(self, k: int, as_ids: bool) -> None:
        self._k = k
        self._as_ids = as_ids
        self._offset = 0

    def build(self, entries: Sequence[TokenLogprob | Logprob | None]) -> dict[str, list[Any]]:
        """An entry that is a plain Logprob is a token without a value: the first one of a prompt."""
        table: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for entry in entries:
            if entry is None:
                continue
            token = format_token(entry, self._as_ids)
            has_value = isinstance(entry, TokenLogprob)
            table["text_offset"].append(self._offset)
            table["token_logprobs"].append(clamp_logprob(entry.logprob) if has_value else None)
            table["tokens"].append(token)
            table["top_logprobs"].append(self._render_top(entry) if has_value else None)
            self._offset += len(token)
        return table

    def _render_top(self, entry: TokenLogprob) -> dict[str, float]:
        """Two tokens with the same text share a key; the better one keeps it."""
        table: dict[str, float] = {}
        for one in _add_requested_ids(select_top(entry, self._k), entry):
            token = format_token(one, self._as_ids)
            table[token] = max(table.get(token, MIN_LOGPROB), clamp_logprob(one.logprob))
        return table


def render_prompt_table(entries: Sequence[TokenLogprob | None], k: int) -> list[dict[str, Any] | None]:
    """prompt_logprobs: for each prompt token the token itself first, then the best k, by decimal id; null for the
    first one."""
    return [None if entry is None else _render_prompt_position(entry, k) for entry in entries]


def _render_prompt_position(entry: TokenLogprob, k: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    place = 0
    for one in select_top(entry, k):
        rank = one.rank
        if one is not entry:
            place += 1
            if place == entry.rank:
                place += 1  # the standing token's own place
            rank = place if rank is None else rank
        table[str(one.token_id)] = {"logprob": clamp_logprob(one.logprob), "rank": rank, "decoded_token": one.token}
    return table
