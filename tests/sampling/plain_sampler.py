"""A plain sampler in numpy float64, one row at a time, with sorts and loops: the oracle of the tests here."""

from dataclasses import dataclass

import numpy as np

GOLDEN = 0x1BD11BDA
ROTATIONS = ([13, 15, 26, 6], [17, 29, 16, 24])


@dataclass(frozen=True)
class Settings:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True)
class History:
    """Token ids of prompt and output, and biases as (token id, bias)."""

    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()


def apply_penalties(
    logits: np.ndarray, history: History, *, repetition: float = 1.0, frequency: float = 0.0, presence: float = 0.0
) -> np.ndarray:
    """Return the logits after biases and penalties, computed token by token."""
    z = logits.astype(np.float64)
    for token, bias in history.bias:
        z[token] += min(max(bias, -100.0), 100.0)
    for token in {*history.prompt, *history.output}:
        z[token] = z[token] / repetition if z[token] > 0 else z[token] * repetition
    for token in set(history.output):
        z[token] -= frequency * history.output.count(token)
        z[token] -= presence
    return z


def kept(logits: np.ndarray, settings: Settings) -> np.ndarray:
    """Return which tokens the filters keep, bool [V]: min_p, then top_k, then top_p."""
    scaled = logits.astype(np.float64) / float(np.float32(settings.temperature))
    left = np.isfinite(scaled)
    share = np.where(left, np.exp(scaled - scaled.max()), 0.0)
    if settings.min_p > 0:
        left &= scaled - scaled.max() >= np.log(
            settings.min_p
        )  # as logarithms, so that neighbours of the best do not round to 1
    if 0 < settings.top_k < left.sum():
        left &= scaled >= np.sort(scaled[left])[-settings.top_k]
    if settings.top_p < 1:
        mass = np.where(left, share, 0.0) / share[left].sum()
        order = np.argsort(-scaled, kind="stable")
        before = np.concatenate([[0.0], np.cumsum(mass[order])])
        first = np.searchsorted(-scaled[order], -scaled[order], side="left")  # ties share what lies above them all
        above = np.empty_like(mass)
        above[order] = before[first]
        left &= (above < settings.top_p) | (scaled == scaled.max())
    return left


def scores(logits: np.ndarray, settings: Settings, seed: int, position: int) -> np.ndarray:
    """Return the scaled logits plus noise, float64 [V]; filters are not applied."""
    scaled = (logits.astype(np.float64) - logits.max()) / float(np.float32(settings.temperature))
    return scaled - np.log(exponentials(seed, position, len(logits)))


def exponentials(seed: int, position: int, vocab: int) -> np.ndarray:
    words = threefry(seed % 2**32, seed % 2**64 >> 32, position, np.arange(vocab, dtype=np.uint64))
    return -np.log1p(-np.minimum((words.astype(np.float64) + 0.5) / 2**32, 1 - 2.0**-24))


def threefry(key_low: int, key_high: int, counter_low: int, counter_high: np.ndarray) -> np.ndarray:
    """First output words of Threefry-2x32 with 20 rounds, in 64-bit arithmetic cut back to 32."""
    word = np.uint64(2**32 - 1)
    keys = [np.uint64(key) for key in (key_low, key_high, key_low ^ key_high ^ GOLDEN)]
    x, y = (np.uint64(counter_low) + keys[0]) & word, (counter_high + keys[1]) & word
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            x = (x + y) & word
            y = ((y << np.uint64(rotation)) | (y >> np.uint64(32 - rotation))) & word ^ x
        x = (x + keys[(group + 1) % 3]) & word
        y = (y + keys[(group + 2) % 3] + np.uint64(group + 1)) & word
    return x


def hostile_row(kind: int, vocab: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 logits of one of several extreme kinds; every row has a finite logit and no NaN or +inf."""
    match kind % 8:
        case 0:
            row = rng.normal(0, 5, vocab)
        case 1:
            row = np.full(vocab, rng.normal())
        case 2:
            row = rng.integers(-3, 4, vocab).astype(float)  # many ties
        case 3:
            row = rng.choice([-3e38, -1e30, 0.0, 1e30, 3e38], vocab)
        case 4:
            row = np.where(rng.random(vocab) < 0.9, -np.inf, rng.normal(0, 3, vocab))
        case 5:
            row = np.full(vocab, -np.inf)
        case 6:
            row = 17 + rng.integers(0, 9, vocab) * 2.0**-19  # neighbours among the floats
        case _:
            row = rng.choice([-0.0, 0.0, 1e-30, -1e-30], vocab)
    row = row.astype(np.float32)
    if not np.isfinite(row).any():
        row[rng.integers(vocab)] = rng.normal()
    return row
