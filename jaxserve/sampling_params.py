"""What a caller may ask of the sampler and of the stopping rules. Checks itself when built."""

import math
from dataclasses import dataclass

from jaxserve.errors import InvalidParameter

GREEDY_BELOW = 1e-5  # temperatures under this mean argmax (vLLM's threshold)
MIN_TEMPERATURE = 0.01  # positive temperatures under this are raised to it
MAX_STOP_STRINGS = 4
MAX_STOP_TOKEN_IDS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """One request's wishes, in vLLM's names and ranges.

    max_tokens      most tokens to generate, None: as many as fit
    min_tokens      no end token and no stop string before this many
    temperature     0 (below 1e-5) is greedy; (1e-5, 0.01) is raised to 0.01
    top_k           0 or -1: off; ties at the border are kept
    seed            the draw depends on (seed + choice index, position, token id) alone; None: fresh
    n               number of choices; choice j draws with seed + j
    stop            strings that end the text; cut off unless include_stop_str_in_output
    logprobs        None: none; k: the chosen token and the k best others
    prompt_logprobs None: none; k: the same for every prompt token (no prefix-cache reads)
    echo_only       score the prompt and generate nothing (completions with max_tokens 0)
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo_only: bool = False

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_stops()
        if self.n > 1 and self.is_greedy:
            raise InvalidParameter(f"n must be 1 when using greedy sampling, got {self.n}.", "n")
        if 0 < self.temperature < MIN_TEMPERATURE and not self.is_greedy:
            object.__setattr__(self, "temperature", MIN_TEMPERATURE)

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def _check_ranges(self) -> None:
        _require(0 <= self.temperature <= 2, "temperature", "in [0, 2]", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(self.top_k >= -1, "top_k", "0 or -1 (off), or at least 1", self.top_k)
        _require(0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        _require(self.n >= 1, "n", "at least 1", self.n)
        if self.max_tokens is not None:
            _require(self.max_tokens >= (0 if self.echo_only else 1), "max_tokens", "at least 1", self.max_tokens)
        _require(self.min_tokens >= 0, "min_tokens", "at least 0", self.min_tokens)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens and not self.echo_only:
            raise InvalidParameter(
                f"min_tokens must be less than or equal to max_tokens={self.max_tokens}, got {self.min_tokens}.",
                "min_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _require(value is None or value >= 0, name, "at least 0", value)
        if self.seed is not None:
            _require(-(2**63) <= self.seed < 2**63, "seed", "a signed 64-bit integer", self.seed)

    def _check_stops(self) -> None:
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidParameter(
                f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.", "stop"
            )
        if "" in self.stop:
            raise InvalidParameter("stop cannot contain an empty string.", "stop")
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidParameter(
                f"stop_token_ids has {len(self.stop_token_ids)} ids; at most {MAX_STOP_TOKEN_IDS} are allowed.",
                "stop_token_ids",
            )


def _require(holds: bool, name: str, allowed: str, value: object) -> None:
    if not holds or (isinstance(value, float) and math.isnan(value)):
        raise InvalidParameter(f"{name} must be {allowed}, got {value}.", name)
