"""Stand-ins that behave: FakeRunner computes answers from nothing but what it can reach through the page tables.

Its network is arithmetic. What it writes into a slot depends on the token and on everything before it; what it
draws depends on everything reachable. So one misplaced page, one stale slot or one wrong position changes the
answer, and `answer` says without any pages what the answer must be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch, DrawnRows, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.sampling.rows import pack
from jaxserve.sampling.sampler import SampleMode

VOCAB = 40
NUM_TOP = 5
EMPTY = 1  # the digest of no tokens at all


def _mix(*numbers: int) -> int:
    """A digest of integers: the same in every process, since Python salts only the hashes of text."""
    return hash(numbers)


def _value(digest: int, token: int) -> int:
    """What stands in the slot of `token` when the tokens before it have this digest."""
    return _mix(digest, token, 7)


def _draw(digest: int, sampling_S: np.ndarray, position: int, held_back: Iterable[int]) -> int:
    """The token for `position`: of what is allowed, the one that scores best."""
    dice = _mix(digest, position, *sampling_S.tolist())
    forbidden = set(held_back)
    return max((id for id in range(VOCAB) if id not in forbidden), key=lambda id: _mix(dice, id), default=-1)


def _logprob(digest: int, token: int) -> float:
    return -(_mix(digest, token) % 4096) / 256  # exact in float32


def _rows(tokens: Sequence[int], digests: Sequence[int], full: bool) -> DrawnRows:
    token_B = np.array(tokens, np.int32)
    if not full:
        return DrawnRows(token_B)
    top_id_BK = np.tile(np.arange(NUM_TOP, dtype=np.int32), (len(tokens), 1))
    return DrawnRows(
        token_B,
        logprob_B=np.array([_logprob(d, t) for d, t in zip(digests, tokens, strict=True)], np.float32),
        rank_B=np.array([_mix(d) % VOCAB + 1 for d in digests], np.int32),
        top_id_BK=top_id_BK,
        top_logprob_BK=np.array([[_logprob(d, t) for t in range(NUM_TOP)] for d in digests], np.float32),
    )


class FakeRunner:
    """Executes plans in the order given, like a device; `sick` holds ids of requests whose logits turn NaN."""

    def __init__(self, *, num_pages: int, page_size: int, max_num_seqs: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.slots: dict[tuple[int, int], int] = {}
        self.last_token_R: list[int | None] = [None] * max_num_seqs
        self.sick: set[int] = set()

    def execute(self, plan: StepPlan) -> StepResult:
        """The ticket is the result: what a device does later in this order is done now in this order."""
        decode = self._decode(plan.decode) if plan.decode is not None else None
        pairs = [self._chunk(chunk) for chunk in plan.chunks]
        return StepResult(decode, tuple(drawn for drawn, _ in pairs), tuple(scores for _, scores in pairs))

    def fetch(self, ticket: StepResult) -> StepResult:
        return ticket

    def _decode(self, batch: DecodeBatch) -> DrawnRows:
        rows = list(zip(batch.row_B.tolist(), batch.position_B.tolist(), batch.page_table_BW, strict=True))
        held_back = dict(batch.held_back)
        assert len({row for row, _, _ in rows}) == len(rows), "two requests in one row"
        digests = []
        for row, position, table_W in rows:
            token = self.last_token_R[row]
            assert token is not None, f"row {row} decodes before its prompt is computed"
            digests.append(self._append(self._read(table_W, position), table_W, position, [token])[-1])
        drawn = []
        for at, (row, position, _) in enumerate(rows):
            token = _draw(digests[at], batch.sampling_BS[at], position + 1, held_back.get(at, ()))
            token = -1 if batch.request_ids[at] in self.sick else token
            self.last_token_R[row] = max(token, 0)
            drawn.append(token)
        return _rows(drawn, digests, batch.mode == SampleMode.FULL)

    def _chunk(self, chunk: Chunk) -> tuple[DrawnRows, DrawnRows | None]:
        before = self._read(chunk.page_table_W, chunk.start)
        digests = self._append(before, chunk.page_table_W, chunk.start, chunk.token_ids.tolist())
        token = _draw(digests[-1], chunk.sampling_S, chunk.end, chunk.held_back_ids)
        token = -1 if chunk.request_id in self.sick else token
        self.last_token_R[chunk.row] = max(token, 0) if chunk.is_last else None
        scores = None
        if chunk.next_ids is not None:
            ids = chunk.next_ids.tolist()
            scores = _rows(ids, digests[: len(ids)], full=True)
        return _rows([token], digests[-1:], chunk.mode == SampleMode.FULL), scores

    def _read(self, table_W: np.ndarray, end: int) -> int:
        """The digest of everything at positions 0 .. end-1, as far as the page table leads there."""
        digest = EMPTY
        for position in range(end):
            digest = _mix(digest, self.slots[self._slot(table_W, position)])
        return digest

    def _append(self, digest: int, table_W: np.ndarray, start: int, tokens: list[int]) -> list[int]:
        """Writes tokens from position start on; the digest after each."""
        digests = []
        for position, token in enumerate(tokens, start):
            value = _value(digest, token)
            self.slots[self._slot(table_W, position)] = value
            digest = _mix(digest, value)
            digests.append(digest)
        return digests

    def _slot(self, table_W: np.ndarray, position: int) -> tuple[int, int]:
        page = int(table_W[position // self.page_size])
        assert 0 < page < self.num_pages, f"position {position} has page {page}"
        return page, position % self.page_size


@dataclass(frozen=True)
class Answer:
    """What one request must get, whatever shares the batch with it."""

    tokens: tuple[int, ...]
    reason: str
    logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


@lru_cache(maxsize=1000)
def answer(request: Request) -> Answer:
    """The truth: FakeRunner's network without pages, batches, chunks or a scheduler."""
    digests = [EMPTY]
    for token in request.prompt_ids:
        digests.append(_mix(digests[-1], _value(digests[-1], token)))
    prompt_logprobs = [_logprob(d, t) for d, t in zip(digests[1:-1], request.prompt_ids[1:], strict=True)]
    digest, tokens, logprobs, reason = digests[-1], [], [], "length"
    sampling_S = pack(request.params, request.seed)
    while len(request.prompt_ids) + len(tokens) < request.max_total_tokens:
        held_back = request.held_back_ids if len(tokens) < request.params.min_tokens else ()
        token = _draw(digest, sampling_S, len(request.prompt_ids) + len(tokens), held_back)
        tokens.append(token)
        logprobs.append(_logprob(digest, token))
        if token == request.eos_id or token in request.stop_ids:
            reason = "stop"
            break
        digest = _mix(digest, _value(digest, token))
    return Answer(tuple(tokens), reason, tuple(logprobs), tuple(prompt_logprobs))
