"""FakeRunner: computes tokens from nothing but what it can reach through the page tables.

Its network is arithmetic. The value that it writes into a slot depends on the token and on everything before it; a
sampled token depends on everything reachable. So one misplaced page, one stale slot or one wrong position changes the
output, and tests/expected_output.py computes without any pages what the output must be.
"""

from collections.abc import Sequence

import numpy as np

from jaxserve.cache.groups import GroupSize, PageCopy
from jaxserve.engine.plan import Chunk, DecodeBatch, Mask, SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.layers.adapter import Adapter
from jaxserve.sampling.columns import REPETITION_PENALTY
from jaxserve.sampling.penalties import PenaltyRow
from jaxserve.sampling.sampler import NOTHING_ALLOWED, SampleMode
from jaxserve.sampling_params import RepetitionDetection

VOCAB = 40
NUM_TOP = 5
EMPTY = 1  # the digest of no tokens at all


def mix(*numbers: int) -> int:
    """Return a digest of integers, the same in every process: Python salts only the hashes of text."""
    return hash(numbers)


def is_repetition(tokens: Sequence[int], wanted: RepetitionDetection) -> bool:
    """Whether the last p * min_count tokens are min_count copies of p tokens, for some p."""
    for size in range(max(wanted.min_pattern_size, 1), wanted.max_pattern_size + 1):
        if size * wanted.min_count > len(tokens):
            return False
        end = list(tokens[len(tokens) - size * wanted.min_count :])
        if end == end[:size] * wanted.min_count:
            return True
    return False


def value_of(digest: int, token: int, change: int = 0) -> int:
    """Return the value in the slot of `token` if the tokens before it have this digest.

    change   the digest of the request's adapter
    """
    return mix(digest, token, 7, change) if change else mix(digest, token, 7)


def digest_of(adapter: Adapter | None) -> int:
    """Return a digest of an adapter; 0 for none."""
    return 0 if adapter is None else mix(*adapter.key.encode())


def _allowed(mask: Mask | None) -> Sequence[int]:
    return [id for id in range(VOCAB) if mask is None or mask.allowed_M[id // 32] >> (id % 32) & 1]


def sample_token(digest: int, sampling_S: np.ndarray, position: int, mask: Mask | None, history: int) -> int:
    """Return the allowed token with the best score for `position`; history is the digest of the penalties."""
    seed = mix(digest, position, history, *sampling_S.tolist())
    return max(_allowed(mask), key=lambda id: mix(seed, id), default=NOTHING_ALLOWED)


def list_continuations(
    digest: int, sampling_S: np.ndarray, position: int, mask: Mask | None, history: int
) -> list[tuple[float, int]]:
    """Return (log-probability, token) for `position`, best first; coarse numbers, so that there are ties."""
    seed = mix(digest, position, history, *sampling_S.tolist())
    return sorted(((-(mix(seed, id, 3) % 64) / 8, id) for id in _allowed(mask)), key=lambda one: (-one[0], one[1]))


def penalty_digest(new: PenaltyRow | None) -> int:
    """Return a digest of a row's penalties; 0 for a row that has none."""
    return 0 if new is None else mix(*new.count_V.tolist(), *new.prompt_mask_M.tolist(), *map(int, new.bias_V * 8))


def logprob_of(digest: int, token: int) -> float:
    return -(mix(digest, token) % 4096) / 256  # exact in float32


def make_sampled_tokens(
    tokens: Sequence[int], digests: Sequence[int], mode: SampleMode, nexts: Sequence[list[tuple[float, int]]] = ()
) -> SampledTokens:
    """Build the sampler's output. nexts: continuations of each row in mode BEAM; forbidden ones come last, as -inf."""
    token_B = np.array(tokens, np.int32)
    token_BK, count_B = token_B[:, None], np.ones(len(tokens), np.int32)
    if mode < SampleMode.LOGPROBS:
        return SampledTokens(token_BK, count_B)
    top_id_BK = np.tile(np.arange(NUM_TOP, dtype=np.int32), (len(tokens), 1))
    beams: dict[str, np.ndarray] = {}
    if mode == SampleMode.BEAM:
        padded = [[*one, *((-np.inf, id) for id in range(VOCAB))][:VOCAB] for one in nexts]
        beams["candidate_logprob_BC"] = np.array([[logprob for logprob, _ in one] for one in padded], np.float32)
        beams["candidate_id_BC"] = np.array([[id for _, id in one] for one in padded], np.int32)
        beams["candidate_raw_logprob_BC"] = np.array(
            [[logprob_of(digest, id) for _, id in one] for digest, one in zip(digests, padded, strict=True)], np.float32
        )
    return SampledTokens(
        token_BK,
        count_B,
        logprob_BK=np.array([[logprob_of(d, t)] for d, t in zip(digests, tokens, strict=True)], np.float32),
        rank_BK=np.array([[mix(d) % VOCAB + 1] for d in digests], np.int32),
        top_id_BKX=top_id_BK[:, None],
        top_logprob_BKX=np.array([[[logprob_of(d, t) for t in range(NUM_TOP)]] for d in digests], np.float32),
        **beams,
    )


FakeLogits = tuple[StepPlan, list[int], list[list[int]], list[list[int]]]


class FakeRunner:
    """Executes plans in the order given, like a device. Logits of the requests in `nan_request_ids` are NaN.

    A slot of each cache group holds a token's value and the digest up to it. A full group gives the digest of all
    values, a window group that of the last slot, if its window holds one chain of digests; a page of a recurrent group
    holds the digest and the number of the tokens so far. The groups must agree.
    A decode step brings a row up to max_tokens_per_row tokens.
    """

    def __init__(
        self, sizes: Sequence[GroupSize], *, page_size: int, max_num_seqs: int, max_tokens_per_row: int = 1
    ) -> None:
        self.max_tokens_per_row = max_tokens_per_row
        self.page_size = page_size
        self.sizes = tuple(sizes)
        self.slots: dict[tuple[int, int, int], tuple[int, int]] = {}
        self.states: dict[tuple[int, int], tuple[int, int]] = {}
        self.last_token_R: list[int | None] = [None] * max_num_seqs
        self.length_R = [0] * max_num_seqs
        self.lines: dict[int, PenaltyRow] = {}
        self.adapters: dict[int, int] = {}
        self.nan_request_ids: set[int] = set()

    def reset(self) -> None:
        """Lose everything."""
        self.slots.clear()
        self.states.clear()
        self.lines.clear()
        self.adapters.clear()
        self.last_token_R = [None] * len(self.last_token_R)

    def forward(self, plan: StepPlan) -> FakeLogits:
        """Return the plan with digests in place of logits; the work that a device does later is done at once."""
        self._copy_pages(plan.page_copies)
        for row, new in plan.penalty_rows:
            self.lines[row] = PenaltyRow(*(array.copy() for array in new))
        self.adapters |= {slot: digest_of(adapter) for slot, adapter in plan.adapters}
        for row, token, length in plan.row_updates:
            self.last_token_R[row], self.length_R[row] = token, length
        decode = self._decode(plan.decode) if plan.decode is not None else []
        beams = [self._decode(batch) for batch in plan.beams]
        return plan, decode, beams, [self._chunk(chunk) for chunk in plan.chunks]

    def _copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Copy pages at once, which is the same as one by one where none can be exchanged."""
        written: set[tuple[int, int]] = set()
        for group, source, target in copies:
            places = {(group, target)} if self.sizes[group].num_host_pages else {(group, source), (group, target)}
            assert not written & places, "the order of these copies matters"
            written.add((group, target))
        states, offsets = self.states, range(self.page_size)
        states |= {(group, to): states[group, page] for group, page, to in copies if (group, page) in states}
        cells = [(group, page, to, offset) for group, page, to in copies for offset in offsets]
        self.slots |= {
            (group, to, offset): self.slots[group, page, offset]
            for group, page, to, offset in cells
            if (group, page, offset) in self.slots
        }

    def sample(self, handle: FakeLogits, masks: StepMasks) -> StepResult:
        """Sample at once: the handle of a step is its result."""
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
        return None if ids is None else make_sampled_tokens(ids, digests[: len(ids)], SampleMode.LOGPROBS)

    def fetch(self, handle: StepResult) -> StepResult:
        return handle

    def _decode(self, batch: DecodeBatch) -> list[int]:
        page_tables = zip(*batch.page_tables_BW, strict=True)
        changes = self._changes(batch)
        rows = list(zip(batch.row_B.tolist(), batch.positions, page_tables, changes, strict=True))
        assert len({row for row, *_ in rows}) == len(rows), "two requests in one row"
        digests = []
        for row, host_position, tables_W, change in rows:
            token, position = self.last_token_R[row], self.length_R[row]
            assert token is not None, f"row {row} decodes before its prompt is computed"
            is_right = position == host_position if self.max_tokens_per_row == 1 else position <= host_position
            assert is_right, f"the host believes row {row} to be at {host_position}, not {position}"
            digests.append(self._append(self._read(tables_W, position), tables_W, position, [token], change)[-1])
        return digests

    def _changes(self, batch: DecodeBatch) -> list[int]:
        slots = [0] * len(batch) if batch.adapter_slot_B is None else batch.adapter_slot_B.tolist()
        return [self.adapters[slot] if slot else 0 for slot in slots]

    def _sample_rows(self, batch: DecodeBatch, digests: list[int], masks: dict[int, Mask]) -> SampledTokens:
        drawn = []
        for at, row in enumerate(batch.row_B.tolist()):
            one = (batch.request_ids[at], row, batch.sampling_BS[at], self.length_R[row] + 1)
            drawn.append(self._sample_row(*one, digests[at], masks.get(at), batch.mode))
        tokens = [token for token, _ in drawn]
        sampled = make_sampled_tokens(tokens, digests, batch.mode, [nexts for _, nexts in drawn])
        return sampled if batch.max_tokens == 1 else self._sample_more(batch, digests, sampled)

    def _sample_more(self, batch: DecodeBatch, digests: list[int], first: SampledTokens) -> SampledTokens:
        """Sample further tokens for the rows that have pages for them; some rows get fewer than they could."""
        assert batch.mode < SampleMode.LOGPROBS and batch.stops_BX is not None
        tokens_by_row: list[list[int]] = first.token_BK.tolist()
        changes = self._changes(batch)
        for at, (row, tokens) in enumerate(zip(batch.row_B.tolist(), tokens_by_row, strict=True)):
            tables_W, digest = [table_BW[at] for table_BW in batch.page_tables_BW], digests[at]
            while len(tokens) < batch.max_tokens and tokens[-1] >= 0 and digest % 3:
                position = self.length_R[row]
                if not self._has_page(tables_W, position):
                    break
                digest = self._append(digest, tables_W, position, tokens[-1:], changes[at])[-1]
                one = (batch.request_ids[at], row, batch.sampling_BS[at], position + 1, digest)
                tokens.append(self._sample_row(*one, None, batch.mode)[0])
        count_B = np.array(list(map(len, tokens_by_row)), np.int32)
        token_BK = np.full((len(batch), batch.max_tokens), VOCAB, np.int32)  # behind its tokens a row has anything
        for at, tokens in enumerate(tokens_by_row):
            token_BK[at, : len(tokens)] = tokens
        return SampledTokens(token_BK, count_B)

    def _has_page(self, tables_W: Sequence[np.ndarray], position: int) -> bool:
        page = position // self.page_size
        paged = (table_W for table_W, size in zip(tables_W, self.sizes, strict=True) if not size.is_recurrent)
        return all(page < len(table_W) and table_W[page] for table_W in paged)

    def _chunk(self, chunk: Chunk) -> list[int]:
        before = self._read(chunk.page_tables_W, chunk.start)
        change = self.adapters[chunk.adapter_slot] if chunk.adapter_slot else 0
        return self._append(before, chunk.page_tables_W, chunk.start, chunk.token_ids.tolist(), change)

    def _sample_chunk(self, chunk: Chunk, digest: int, masks: Sequence[Mask | None]) -> tuple[SampledTokens, ...]:
        if not chunk.is_last:
            self.last_token_R[chunk.row] = None
            return (make_sampled_tokens([-1 if chunk.request_id in self.nan_request_ids else 0], [digest], chunk.mode),)
        drawn = []
        for at, one in enumerate((chunk, *chunk.forks)):
            token, nexts = self._sample_row(
                one.request_id, one.row, one.sampling_S, chunk.end, digest, masks[at] if masks else None, one.mode
            )
            drawn.append(make_sampled_tokens([token], [digest], one.mode, [nexts]))
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
        known = self.lines.get(row) if sampling_S[REPETITION_PENALTY:].any() else None
        penalties = penalty_digest(known)
        token = sample_token(digest, sampling_S, position, mask, penalties)
        nexts = list_continuations(digest, sampling_S, position, mask, penalties) if mode == SampleMode.BEAM else []
        if nexts:
            token = nexts[0][1]
        token = -1 if request_id in self.nan_request_ids else token
        if known is not None:
            known.count_V[max(token, 0)] += 1
        self.last_token_R[row], self.length_R[row] = max(token, 0), position
        return token, nexts

    def _read(self, tables_W: Sequence[np.ndarray], end: int) -> int:
        """Return the digest of the tokens at positions 0 .. end-1, read through the page table of each group."""
        digests = {self._read_group(group, table_W, end) for group, table_W in enumerate(tables_W)}
        return digests.pop() if len(digests) == 1 else mix(*sorted(digests))

    def _read_group(self, group: int, table_W: np.ndarray, end: int) -> int:
        """Return the digest by one group, another one if what the query at `end` sees is not one chain."""
        if self.sizes[group].is_recurrent:
            digest, length = self.states[group, self._state_slot(group, table_W)] if end else (EMPTY, 0)
            return digest if length == end else mix(digest, length)
        window = self.sizes[group].window
        first = 0 if window is None else max(0, end - window + 1)
        assert first < end or not end, "a window of 1 reads nothing"
        digest = EMPTY
        for position in range(first, end):
            value, after = self.slots[self._slot(group, table_W, position)]
            digest = after if position == first > 0 else mix(digest, value)
        return digest

    def _append(
        self, digest: int, tables_W: Sequence[np.ndarray], start: int, tokens: list[int], change: int
    ) -> list[int]:
        """Write tokens from position start on into every group, and return the digest after each."""
        digests = []
        for position, token in enumerate(tokens, start):
            value = value_of(digest, token, change)
            digest = mix(digest, value)
            digests.append(digest)
            for group, table_W in enumerate(tables_W):
                if self.sizes[group].is_recurrent:
                    self.states[group, self._state_slot(group, table_W)] = (digest, position + 1)
                else:
                    self.slots[self._slot(group, table_W, position)] = (value, digest)
        return digests

    def _state_slot(self, group: int, table_W: np.ndarray) -> int:
        [slot] = table_W.tolist()
        assert 0 < slot < self.sizes[group].num_pages, f"a row has slot {slot} in group {group}"
        return slot

    def _slot(self, group: int, table_W: np.ndarray, position: int) -> tuple[int, int, int]:
        page = int(table_W[position // self.page_size])
        assert 0 < page < self.sizes[group].num_pages, f"position {position} has page {page} in group {group}"
        return group, page, position % self.page_size
