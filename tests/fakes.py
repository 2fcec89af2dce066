"""Stand-ins that behave: FakeRunner computes answers from nothing but what it can reach through the page tables.

Its network is arithmetic. What it writes into a slot depends on the token and on everything before it; what it
draws depends on everything reachable. So one misplaced page, one stale slot or one wrong position changes the
answer, and `answer` says without any pages what the answer must be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch, Mask, SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request, StopStringCursor, make_guide, make_mask
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.sampling.lines import Line, line
from jaxserve.sampling.rows import REPETITION, pack
from jaxserve.sampling.sampler import NOTHING_ALLOWED, SampleMode
from jaxserve.sampling_params import RepetitionDetection

VOCAB = 40
NUM_TOP = 5
EMPTY = 1  # the digest of no tokens at all


def _mix(*numbers: int) -> int:
    """A digest of integers: the same in every process, since Python salts only the hashes of text."""
    return hash(numbers)


def repeats(tokens: Sequence[int], wanted: RepetitionDetection) -> bool:
    """The plain definition: the last p * min_count tokens are min_count copies of p tokens, for some p."""
    for size in range(max(wanted.min_pattern_size, 1), wanted.max_pattern_size + 1):
        if size * wanted.min_count > len(tokens):
            return False
        end = list(tokens[len(tokens) - size * wanted.min_count :])
        if end == end[:size] * wanted.min_count:
            return True
    return False


def _value(digest: int, token: int) -> int:
    """What stands in the slot of `token` when the tokens before it have this digest."""
    return _mix(digest, token, 7)


def _allowed(mask: Mask | None) -> Sequence[int]:
    return [id for id in range(VOCAB) if mask is None or mask.allowed_M[id // 32] >> (id % 32) & 1]


def _sample(digest: int, sampling_S: np.ndarray, position: int, mask: Mask | None, history: int) -> int:
    """The token for `position`: of what is allowed, the one that scores best; history is what penalties know."""
    dice = _mix(digest, position, history, *sampling_S.tolist())
    return max(_allowed(mask), key=lambda id: _mix(dice, id), default=NOTHING_ALLOWED)


def _continuations(
    digest: int, sampling_S: np.ndarray, position: int, mask: Mask | None, history: int
) -> list[tuple[float, int]]:
    """(log-probability, token) for `position`, best first: coarse numbers, so that there are ties."""
    dice = _mix(digest, position, history, *sampling_S.tolist())
    return sorted(((-(_mix(dice, id, 3) % 64) / 8, id) for id in _allowed(mask)), key=lambda one: (-one[0], one[1]))


def _history(new: Line | None) -> int:
    """A digest of a row's line; 0 for a row that has none."""
    return 0 if new is None else _mix(*new.count_V.tolist(), *new.seen_M.tolist(), *map(int, new.bias_V * 8))


def _logprob(digest: int, token: int) -> float:
    return -(_mix(digest, token) % 4096) / 256  # exact in float32


def _rows(
    tokens: Sequence[int], digests: Sequence[int], mode: SampleMode, nexts: Sequence[list[tuple[float, int]]] = ()
) -> SampledTokens:
    """nexts: the continuations of every row in mode BEAM; what is forbidden comes last, as -inf."""
    token_B = np.array(tokens, np.int32)
    if mode < SampleMode.FULL:
        return SampledTokens(token_B)
    top_id_BK = np.tile(np.arange(NUM_TOP, dtype=np.int32), (len(tokens), 1))
    beams: dict[str, np.ndarray] = {}
    if mode == SampleMode.BEAM:
        padded = [[*one, *((-np.inf, id) for id in range(VOCAB))][:VOCAB] for one in nexts]
        beams["next_logprob_BC"] = np.array([[logprob for logprob, _ in one] for one in padded], np.float32)
        beams["next_id_BC"] = np.array([[id for _, id in one] for one in padded], np.int32)
        beams["next_raw_BC"] = np.array(
            [[_logprob(digest, id) for _, id in one] for digest, one in zip(digests, padded, strict=True)], np.float32
        )
    return SampledTokens(
        token_B,
        logprob_B=np.array([_logprob(d, t) for d, t in zip(digests, tokens, strict=True)], np.float32),
        rank_B=np.array([_mix(d) % VOCAB + 1 for d in digests], np.int32),
        top_id_BK=top_id_BK,
        top_logprob_BK=np.array([[_logprob(d, t) for t in range(NUM_TOP)] for d in digests], np.float32),
        **beams,
    )


Work = tuple[StepPlan, list[int], list[list[int]], list[list[int]]]


class FakeRunner:
    """Executes plans in the order given, like a device; `sick` holds ids of requests whose logits turn NaN."""

    def __init__(self, *, num_pages: int, page_size: int, max_num_seqs: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self.slots: dict[tuple[int, int], int] = {}
        self.last_token_R: list[int | None] = [None] * max_num_seqs
        self.lines: dict[int, Line] = {}
        self.sick: set[int] = set()

    def forward(self, plan: StepPlan) -> Work:
        """The plan, and digests in place of logits: what a device does later in this order is done now."""
        for source, target in plan.page_copies:
            for offset in range(self.page_size):
                if (source, offset) in self.slots:
                    self.slots[target, offset] = self.slots[source, offset]
        for row, new in plan.penalty_rows:
            self.lines[row] = Line(*(array.copy() for array in new))
        for row, token in plan.last_tokens:
            self.last_token_R[row] = token
        decode = self._decode(plan.decode) if plan.decode is not None else []
        beams = [self._decode(batch) for batch in plan.beams]
        return plan, decode, beams, [self._chunk(chunk) for chunk in plan.chunks]

    def sample(self, handle: Work, masks: StepMasks) -> StepResult:
        """The ticket is the result."""
        plan, decode, beams, chunks = handle
        drawn = None
        if plan.decode is not None:
            drawn = self._sample_rows(plan.decode, decode, dict(masks.decode))
        return StepResult(
            drawn,
            tuple(
                self._sample_chunk(chunk, digests[-1], masks.chunks[at] if masks.chunks else ())
                for at, (chunk, digests) in enumerate(zip(plan.chunks, chunks, strict=True))
            ),
            tuple(self._scores(chunk, digests) for chunk, digests in zip(plan.chunks, chunks, strict=True)),
            tuple(
                self._sample_rows(batch, digests, dict(masks.beams[at] if masks.beams else ()))
                for at, (batch, digests) in enumerate(zip(plan.beams, beams, strict=True))
            ),
        )

    @staticmethod
    def _scores(chunk: Chunk, digests: list[int]) -> SampledTokens | None:
        ids = None if chunk.prompt_targets is None else chunk.prompt_targets.tolist()
        return None if ids is None else _rows(ids, digests[: len(ids)], SampleMode.FULL)

    def fetch(self, handle: StepResult) -> StepResult:
        return handle

    def _decode(self, batch: DecodeBatch) -> list[int]:
        rows = list(zip(batch.row_B.tolist(), batch.position_B.tolist(), batch.page_table_BW, strict=True))
        assert len({row for row, _, _ in rows}) == len(rows), "two requests in one row"
        digests = []
        for row, position, table_W in rows:
            token = self.last_token_R[row]
            assert token is not None, f"row {row} decodes before its prompt is computed"
            digests.append(self._append(self._read(table_W, position), table_W, position, [token])[-1])
        return digests

    def _sample_rows(self, batch: DecodeBatch, digests: list[int], masks: dict[int, Mask]) -> SampledTokens:
        drawn = []
        for at, (row, position) in enumerate(zip(batch.row_B.tolist(), batch.position_B.tolist(), strict=True)):
            one = (batch.request_ids[at], row, batch.sampling_BS[at], position + 1)
            drawn.append(self._sample_row(*one, digests[at], masks.get(at), batch.mode))
        return _rows([token for token, _ in drawn], digests, batch.mode, [nexts for _, nexts in drawn])

    def _chunk(self, chunk: Chunk) -> list[int]:
        before = self._read(chunk.page_table_W, chunk.start)
        return self._append(before, chunk.page_table_W, chunk.start, chunk.token_ids.tolist())

    def _sample_chunk(self, chunk: Chunk, digest: int, masks: Sequence[Mask | None]) -> tuple[SampledTokens, ...]:
        if not chunk.is_last:
            self.last_token_R[chunk.row] = None
            return (_rows([-1 if chunk.request_id in self.sick else 0], [digest], chunk.mode),)
        drawn = []
        for at, one in enumerate((chunk, *chunk.forks)):
            token, nexts = self._sample_row(
                one.request_id, one.row, one.sampling_S, chunk.end, digest, masks[at] if masks else None, one.mode
            )
            drawn.append(_rows([token], [digest], one.mode, [nexts]))
        return tuple(drawn)

    def _sample_row(
        self,
        request_id: int,
        row: int,
        sampling_S: np.ndarray,
        position: int,
        digest: int,
        mask: Mask | None,
        mode: SampleMode,
    ) -> tuple[int, list[tuple[float, int]]]:
        known = self.lines.get(row) if sampling_S[REPETITION:].any() else None
        nexts = _continuations(digest, sampling_S, position, mask, _history(known))
        token = _sample(digest, sampling_S, position, mask, _history(known))
        if mode == SampleMode.BEAM and nexts:
            token = nexts[0][1]
        token = -1 if request_id in self.sick else token
        if known is not None:
            known.count_V[max(token, 0)] += 1
        self.last_token_R[row] = max(token, 0)
        return token, nexts

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
    sampling_S, params = pack(request.params, request.seed), request.params
    bans, guide = (
        TokenRestrictions.from_ids(params.allowed_token_ids, request.bad_sequences, VOCAB),
        make_guide(request, VOCAB),
    )
    while len(request.prompt_ids) + len(tokens) < request.max_total_tokens:
        held_back = request.stop_ids_until_min_tokens if len(tokens) < params.min_tokens else ()
        known = line(request.prompt_ids, tokens, params.logit_bias, VOCAB) if request.needs_penalty_state else None
        mask = make_mask(bans, guide, tokens, 0, held_back)
        token = _sample(digest, sampling_S, len(request.prompt_ids) + len(tokens), mask, _history(known))
        if token < 0:
            return Answer(tuple(tokens), "error", tuple(logprobs), tuple(prompt_logprobs))
        tokens.append(token)
        logprobs.append(_logprob(digest, token))
        if token == request.eos_id or token in request.stop_ids:
            reason = "stop"
            break
        is_last = len(request.prompt_ids) + len(tokens) == request.max_total_tokens
        wanted = request.params.repetition_detection
        if wanted and not is_last and len(tokens) >= request.params.min_tokens and repeats(tokens, wanted):
            reason = "repetition"
            break
        if guide is not None:
            guide.accept(token)
        digest = _mix(digest, _value(digest, token))
    return Answer(tuple(tokens), reason, tuple(logprobs), tuple(prompt_logprobs))


class NoTokens(Exception):
    """A search's constraints leave fewer answers than were asked for."""


@lru_cache(maxsize=1000)
def search(request: Request) -> tuple[Answer, ...]:
    """The truth about a beam search: every beam from its tokens alone, nothing pruned, nothing stopped early."""
    params, width = request.params, request.params.n
    prompt = request.prompt_ids
    ends = request.stop_ids | ({request.eos_id} if request.eos_id is not None else set())
    root = _follow(EMPTY, prompt)
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    found: list[tuple[float, tuple[int, ...], str]] = []
    max_tokens = request.max_total_tokens - len(prompt)
    for length in range(1, max_tokens + 1):
        candidates = []
        for at, (score, tokens) in enumerate(live):
            nexts = _nexts(request, _follow(root, tokens), tokens)
            candidates += [(-(score + logprob), at, token) for logprob, token in nexts[: 2 * width]]
        new = []
        for cost, at, token in sorted(candidates):
            tokens = (*live[at][1], token)
            stop = None
            if token not in ends and request.stop_cursor is not None:
                stop = after(request.stop_cursor, tokens)
            if token in ends or stop is not None:
                found.append((-cost, tokens, "stop"))
            else:
                new.append((-cost, tokens))
        live = []
        for score, tokens in new[:width]:
            wanted = params.repetition_detection
            if wanted and length < max_tokens and length >= params.min_tokens and repeats(tokens, wanted):
                found.append((score, tokens, "repetition"))
            else:
                live.append((score, tokens))
    found += [(score, tokens, "length") for score, tokens in live]
    found.sort(key=lambda one: -one[0] / len(one[1]) ** params.length_penalty)
    if len(found) < width:
        raise NoTokens(len(found))
    return tuple(_answer(root, tokens, reason) for _, tokens, reason in found[:width])


def _nexts(request: Request, digest: int, tokens: Sequence[int]) -> list[tuple[float, int]]:
    """What may follow this much of an answer."""
    params, prompt = request.params, request.prompt_ids
    bans = TokenRestrictions.from_ids(params.allowed_token_ids, request.bad_sequences, VOCAB)
    known = line(prompt, tokens, params.logit_bias, VOCAB) if request.needs_penalty_state else None
    held_back = request.stop_ids_until_min_tokens if len(tokens) < params.min_tokens else ()
    guide = make_guide(request, VOCAB)
    if guide is not None:
        for token in tokens:
            guide.accept(token)
    mask = make_mask(bans, guide, tokens, 0, held_back)
    sampling_S = pack(params, request.seed)
    return _continuations(digest, sampling_S, len(prompt) + len(tokens), mask, _history(known))


def continuations_of(request: Request, beams: Sequence[Sequence[int]]) -> SampledTokens:
    """What a device says of these beginnings of answers."""
    digests = [_follow(EMPTY, [*request.prompt_ids, *tokens]) for tokens in beams]
    nexts = [_nexts(request, digest, tokens) for digest, tokens in zip(digests, beams, strict=True)]
    return _rows([one[0][1] if one else NOTHING_ALLOWED for one in nexts], digests, SampleMode.BEAM, nexts)


def after(cursor: StopStringCursor, tokens: Sequence[int]) -> str | None:
    """What ends an answer with the last of these tokens; nothing has before."""
    stop = None
    for token in tokens:
        cursor, stop = cursor.advance(token)
    return stop


@dataclass(frozen=True)
class SumCursor:
    """Ends an answer when the sum of its tokens is a multiple of a number."""

    divisor: int
    total: int = 0

    def advance(self, token_id: int) -> "tuple[SumCursor, str | None]":
        total = self.total + token_id
        return SumCursor(self.divisor, total), None if total % self.divisor else f"={total}"


def _follow(digest: int, tokens: Sequence[int]) -> int:
    for token in tokens:
        digest = _mix(digest, _value(digest, token))
    return digest


def _answer(root: int, tokens: tuple[int, ...], reason: str) -> Answer:
    logprobs = tuple(_logprob(_follow(root, tokens[:at]), token) for at, token in enumerate(tokens))
    return Answer(tokens, reason, logprobs, ())
