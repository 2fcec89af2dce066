"""What FakeRunner's network must give a request: computed without pages, batches, chunks or a scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jaxserve.engine.plan import SampledTokens
from jaxserve.engine.request import Request, StopStringCursor, make_guide, make_mask, make_stop_cursor
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.sampling.columns import pack_params
from jaxserve.sampling.penalties import build_row
from jaxserve.sampling.sampler import NOTHING_ALLOWED, SampleMode
from tests.fake_runner import (
    EMPTY,
    VOCAB,
    digest_of,
    is_repetition,
    list_continuations,
    logprob_of,
    make_sampled_tokens,
    mix,
    penalty_digest,
    sample_token,
    value_of,
)
from tests.grammars import TRACKERS


@dataclass(frozen=True)
class ExpectedOutput:
    """The output that a request must have, whatever shares the batch with it."""

    tokens: tuple[int, ...]
    reason: str
    logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]


@lru_cache(maxsize=1000)
def expected_output(request: Request) -> ExpectedOutput:
    """Compute an output with FakeRunner's network, without pages, batches, chunks or a scheduler."""
    digests, change = [EMPTY], digest_of(request.adapter)
    for token in request.prompt_ids:
        digests.append(mix(digests[-1], value_of(digests[-1], token, change)))
    prompt_logprobs = [logprob_of(d, t) for d, t in zip(digests[1:-1], request.prompt_ids[1:], strict=True)]
    digest, tokens, logprobs, reason = digests[-1], [], [], "length"
    sampling_S, params = pack_params(request.params, request.seed), request.params
    restrictions, guide = (
        TokenRestrictions.from_ids(params.allowed_token_ids, request.bad_sequences, VOCAB),
        make_guide(request, VOCAB, TRACKERS),
    )
    while len(request.prompt_ids) + len(tokens) < request.max_total_tokens:
        suppressed = request.stop_ids_until_min_tokens if len(tokens) < params.min_tokens else ()
        penalties = (
            build_row(request.prompt_ids, tokens, params.logit_bias, VOCAB) if request.needs_penalty_state else None
        )
        mask = make_mask(restrictions, guide, tokens, 0, suppressed)
        token = sample_token(digest, sampling_S, len(request.prompt_ids) + len(tokens), mask, penalty_digest(penalties))
        if token < 0:
            return ExpectedOutput(tuple(tokens), "error", tuple(logprobs), tuple(prompt_logprobs))
        tokens.append(token)
        logprobs.append(logprob_of(digest, token))
        if token == request.eos_id or token in request.stop_ids:
            reason = "stop"
            break
        is_last = len(request.prompt_ids) + len(tokens) == request.max_total_tokens
        detection = request.params.repetition_detection
        if detection and not is_last and len(tokens) >= request.params.min_tokens and is_repetition(tokens, detection):
            reason = "repetition"
            break
        if guide is not None:
            guide.accept(token)
        digest = mix(digest, value_of(digest, token, change))
    return ExpectedOutput(tuple(tokens), reason, tuple(logprobs), tuple(prompt_logprobs))


class NoTokens(Exception):
    """The constraints of a beam search allow fewer outputs than were requested."""


@lru_cache(maxsize=1000)
def expected_beams(request: Request) -> tuple[ExpectedOutput, ...]:
    """Compute a beam search from the tokens of every beam alone, without pruning or stopping early.

    Raises NoTokens if there are fewer outputs than beams.
    """
    params, width = request.params, request.params.n
    prompt = request.prompt_ids
    ends = request.stop_ids | ({request.eos_id} if request.eos_id is not None else set())
    change = digest_of(request.adapter)
    root, cursor = _extend_digest(EMPTY, prompt, change), make_stop_cursor(request, TRACKERS)
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...], str]] = []
    max_tokens = request.max_total_tokens - len(prompt)
    for length in range(1, max_tokens + 1):
        candidates = []
        for at, (score, tokens) in enumerate(live):
            nexts = _beam_candidates(request, _extend_digest(root, tokens, change), tokens)
            candidates += [(-(score + logprob), at, token) for logprob, token in nexts[: 2 * width]]
        new = []
        for cost, at, token in sorted(candidates):
            tokens = (*live[at][1], token)
            stop = None
            if token not in ends and cursor is not None:
                stop = advance_all(cursor, tokens)
            if token in ends or stop is not None:
                finished.append((-cost, tokens, "stop"))
            else:
                new.append((-cost, tokens))
        live = []
        for score, tokens in new[:width]:
            detection = params.repetition_detection
            if detection and length < max_tokens and length >= params.min_tokens and is_repetition(tokens, detection):
                finished.append((score, tokens, "repetition"))
            else:
                live.append((score, tokens))
    finished += [(score, tokens, "length") for score, tokens in live]
    finished.sort(key=lambda one: -one[0] / len(one[1]) ** params.length_penalty)
    if len(finished) < width:
        raise NoTokens(len(finished))
    return tuple(_make_expected_output(root, tokens, reason, change) for _, tokens, reason in finished[:width])


def _beam_candidates(request: Request, digest: int, tokens: Sequence[int]) -> list[tuple[float, int]]:
    """Return the continuations of the first tokens of an output."""
    params, prompt = request.params, request.prompt_ids
    restrictions = TokenRestrictions.from_ids(params.allowed_token_ids, request.bad_sequences, VOCAB)
    penalties = build_row(prompt, tokens, params.logit_bias, VOCAB) if request.needs_penalty_state else None
    suppressed = request.stop_ids_until_min_tokens if len(tokens) < params.min_tokens else ()
    guide = make_guide(request, VOCAB, TRACKERS)
    if guide is not None:
        for token in tokens:
            guide.accept(token)
    mask = make_mask(restrictions, guide, tokens, 0, suppressed)
    sampling_S = pack_params(params, request.seed)
    return list_continuations(digest, sampling_S, len(prompt) + len(tokens), mask, penalty_digest(penalties))


def beam_continuations(request: Request, beams: Sequence[Sequence[int]]) -> SampledTokens:
    """Return the sampler's output for these beams."""
    change = digest_of(request.adapter)
    digests = [_extend_digest(EMPTY, [*request.prompt_ids, *tokens], change) for tokens in beams]
    nexts = [_beam_candidates(request, digest, tokens) for digest, tokens in zip(digests, beams, strict=True)]
    return make_sampled_tokens(
        [one[0][1] if one else NOTHING_ALLOWED for one in nexts], digests, SampleMode.BEAM, nexts
    )


def advance_all(cursor: StopStringCursor, tokens: Sequence[int]) -> str | None:
    """Advance a cursor over tokens and return the stop string that the last one completes."""
    stop = None
    for token in tokens:
        cursor, stop = cursor.advance(token)
    return stop


def _extend_digest(digest: int, tokens: Sequence[int], change: int) -> int:
    for token in tokens:
        digest = mix(digest, value_of(digest, token, change))
    return digest


def _make_expected_output(root: int, tokens: tuple[int, ...], reason: str, change: int) -> ExpectedOutput:
    logprobs = tuple(logprob_of(_extend_digest(root, tokens[:at], change), token) for at, token in enumerate(tokens))
    return ExpectedOutput(tokens, reason, logprobs, ())
