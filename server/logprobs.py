"""Renders log-probabilities in the three forms of the API.

These are the entries of chat, the parallel arrays of completions, and the tables by token id of prompt_logprobs.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxserve import Logprob, TokenLogprob

MIN_LOGPROB = -9999.0  # JSON has no infinity


def clamp_logprob(logprob: float) -> float:
    """Return a finite value, whatever came out of the model: MIN_LOGPROB stands for minus infinity and NaN."""
    return logprob if logprob > MIN_LOGPROB else MIN_LOGPROB


def select_top(entry: TokenLogprob, k: int) -> list[Logprob]:
    """Select the token itself, then others, best first: the `k` best, and the token if it is not among them."""
    others = [token for token in entry.top if token.token_id != entry.token_id]
    is_among = entry.rank is not None and entry.rank <= k
    return [entry, *others[: max(0, k - 1 if is_among else k)]]


def render_chat_logprobs(entries: Iterable[TokenLogprob], k: int, as_ids: bool) -> list[dict[str, Any]]:
    """Render chat logprobs: one object for each token, whose list of alternatives has exactly `k`, the token first.

    Where logprob_token_ids were asked for, the list has the token in any case, then the `k` best, then those ids that
    are not in it yet. as_ids: tokens are written as token_id:N.
    """
    return [
        {
            **_render_chat_token(entry, as_ids),
            "top_logprobs": [_render_chat_token(token, as_ids) for token in _select_alternatives(entry, k)],
        }
        for entry in entries
    ]


def _select_alternatives(entry: TokenLogprob, k: int) -> list[Logprob]:
    tokens = select_top(entry, k)
    return _add_requested_ids(tokens, entry) if entry.requested else tokens[:k]


def _add_requested_ids(tokens: list[Logprob], entry: TokenLogprob) -> list[Logprob]:
    token_ids = {token.token_id for token in tokens}
    return [*tokens, *(token for token in entry.requested if token.token_id not in token_ids)]


def _render_chat_token(token: Logprob, as_ids: bool) -> dict[str, Any]:
    return {"token": format_token(token, as_ids), "logprob": clamp_logprob(token.logprob), "bytes": list(token.bytes)}


def format_token(token: Logprob, as_ids: bool) -> str:
    """Write a token as its text, or as token_id:N."""
    return f"token_id:{token.token_id}" if as_ids else token.token


class CompletionLogprobsBuilder:
    """A builder of the four parallel arrays of /v1/completions.

    Text offsets continue from one chunk to the next, so each choice has its own builder. k: alternatives at each token.
    as_ids: tokens are written as token_id:N.
    """

    def __init__(self, k: int, as_ids: bool) -> None:
        self._k = k
        self._as_ids = as_ids
        self._offset = 0

    def build(self, entries: Sequence[TokenLogprob | Logprob | None]) -> dict[str, list[Any]]:
        """Build the arrays of the next tokens. A plain Logprob is a token without a value: the first of a prompt."""
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
        """Render alternatives by their text; of two tokens with the same text the better one counts."""
        table: dict[str, float] = {}
        for token in _add_requested_ids(select_top(entry, self._k), entry):
            text = format_token(token, self._as_ids)
            table[text] = max(table.get(text, MIN_LOGPROB), clamp_logprob(token.logprob))
        return table


def render_prompt_table(entries: Sequence[TokenLogprob | None], k: int) -> list[dict[str, Any] | None]:
    """Render prompt_logprobs: a table by decimal token id for each prompt token, None for the first.

    Each table has the token itself first, then the `k` best.
    """
    return [None if entry is None else _render_prompt_position(entry, k) for entry in entries]


def _render_prompt_position(entry: TokenLogprob, k: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    position = 0
    for token in select_top(entry, k):
        rank = token.rank
        if token is not entry:
            position += 1
            if position == entry.rank:
                position += 1  # that rank is the prompt token's own
            rank = position if rank is None else rank
        logprob = clamp_logprob(token.logprob)
        table[str(token.token_id)] = {"logprob": logprob, "rank": rank, "decoded_token": token.token}
    return table
