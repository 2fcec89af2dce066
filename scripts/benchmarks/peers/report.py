"""What the rounds of scripts/bench peers come to: a table in Markdown, and the goals as ratios with their spread.

A ratio is taken within a round, both sides measured minutes apart, then shown as median (least..most) of the rounds.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Turn: TypeAlias = dict[str, Any]
Metric: TypeAlias = Callable[[Turn], float | None]


def serving(key: str, concurrency: int) -> Metric:
    """A result of vLLM's keys at one concurrency; None where that was not measured."""

    def value(turn: Turn) -> float | None:
        return next((one[key] for one in turn["serving"] if one["max_concurrency"] == concurrency), None)

    return value


def prefill_rate(turn: Turn) -> float | None:
    return turn["prefill"]["tokens_per_s"] if "prefill" in turn else None


def long_prompt(when: str, key: str) -> Metric:
    return lambda turn: turn["long_prompt"][when][key] if turn.get("long_prompt") else None


def of_long_prompt(key: str, unit: float = 1.0) -> Metric:
    return lambda turn: turn["long_prompt"][key] / unit if turn.get("long_prompt") else None


def stretch_in_chunks(turn: Turn) -> float | None:
    """Return the growth of the p99 between deliveries while the long prompt is computed, in durations of a chunk."""
    if not (found := turn.get("long_prompt")):
        return None
    return (found["during"]["p99_itl_ms"] - found["before"]["p99_itl_ms"]) / found["chunk_ms"]


@dataclass(frozen=True, slots=True)
class Goal:
    """The best of `ours` by `peers`' best, each by its median; empty: all of them. Absolute: ours, without a ratio."""

    sentence: str
    metric: Metric
    target: float
    ours: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    less_is_better: bool = False
    is_absolute: bool = False


OUTPUT = "output_throughput"
GOALS = [
    Goal("1 stream, float32 ÷ llama.cpp f32", serving(OUTPUT, 1), 1.0, ("jaxserve float32",), ("llama.cpp f32",)),
    Goal("8 streams, float32 ÷ llama.cpp f32", serving(OUTPUT, 8), 1.0, ("jaxserve float32",), ("llama.cpp f32",)),
    Goal("1 stream, int8 ÷ llama.cpp q8_0", serving(OUTPUT, 1), 1.0, ("jaxserve int8",), ("llama.cpp q8_0",)),
    Goal("1 stream, best form ÷ llama.cpp on the file", serving(OUTPUT, 1), 1.0, (), ("llama.cpp file",)),
    Goal("1 stream ÷ best peer", serving(OUTPUT, 1), 1.3),
    Goal("8 streams ÷ best peer", serving(OUTPUT, 8), 1.3),
    Goal("32 streams ÷ best peer", serving(OUTPUT, 32), 1.3),
    Goal("prefill ÷ best peer", prefill_rate, 1.3),
    Goal("TTFT p50 at 8 streams ÷ best peer", serving("median_ttft_ms", 8), 0.7, less_is_better=True),
    Goal("peak memory, GB", lambda t: t["peak_rss_mib"] * 1.048576e-3, 1.3, less_is_better=True, is_absolute=True),
    Goal("ITL p99 grows under a long prompt, chunks", stretch_in_chunks, 1.0, less_is_better=True, is_absolute=True),
]

COLUMNS: dict[str, tuple[Metric, str]] = {  # heading → what it shows, and how
    **{f"{n} stream{'s' * (n > 1)}, tok/s": (serving(OUTPUT, n), ".0f") for n in (1, 8, 32)},
    "prefill, tok/s": (prefill_rate, ".0f"),
    "TTFT p50 / 8, ms": (serving("median_ttft_ms", 8), ".0f"),
    "p99": (serving("p99_ttft_ms", 8), ".0f"),
    "TPOT p50 / 1, ms": (serving("median_tpot_ms", 1), ".1f"),
    "p50 / 8": (serving("median_tpot_ms", 8), ".1f"),
    "p50 / 32": (serving("median_tpot_ms", 32), ".1f"),
    "peak MiB": (lambda turn: turn["peak_rss_mib"], ".0f"),
    "ready, s": (lambda turn: turn.get("ready_s"), ".1f"),
}
LONG_COLUMNS: dict[str, tuple[Metric, str]] = {
    "ITL p50 before, ms": (long_prompt("before", "median_itl_ms"), ".0f"),
    "p99 before": (long_prompt("before", "p99_itl_ms"), ".0f"),
    "p50 during": (long_prompt("during", "median_itl_ms"), ".0f"),
    "p99 during": (long_prompt("during", "p99_itl_ms"), ".0f"),
    "max during": (long_prompt("during", "max_itl_ms"), ".0f"),
    "last chunk, ms": (of_long_prompt("chunk_ms"), ".0f"),
    "its tokens": (of_long_prompt("chunk_tokens"), ".0f"),
    "first token of the prompt, s": (of_long_prompt("ttft_ms", 1000), ".1f"),
    "alone": (of_long_prompt("alone_ttft_ms", 1000), ".1f"),
}


def spread(values: Sequence[float], shown: str) -> str:
    """median (least..most), or the value alone where all look the same."""
    middle, least, most = (format(choose(values), shown) for choose in (statistics.median, min, max))
    return middle if least == most else f"{middle} ({least}..{most})"


def names(turns: Sequence[Turn]) -> list[str]:
    return list(dict.fromkeys(turn["contender"] for turn in turns))


def values(turns: Sequence[Turn], name: str, metric: Metric) -> dict[int, float]:
    """round → the metric of one contender, where it was measured."""
    found = {turn["round"]: metric(turn) for turn in turns if turn["contender"] == name}
    return {number: value for number, value in found.items() if value is not None}


def table(turns: Sequence[Turn], columns: dict[str, tuple[Metric, str]]) -> str:
    """One line per contender in Markdown; contenders without any of it are left out."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names(turns):
        cells = [(list(values(turns, name, metric).values()), shown) for metric, shown in columns.values()]
        if any(found for found, _ in cells):
            lines.append(f"| {name} | " + " | ".join(spread(*cell) if cell[0] else "" for cell in cells) + " |")
    return "\n".join(lines)


def best(turns: Sequence[Turn], among: Sequence[str], goal: Goal) -> tuple[str, dict[int, float]] | None:
    """Find the contender with the best median, with its values by round."""
    measured = [(name, values(turns, name, goal.metric)) for name in among]
    measured = [(name, found) for name, found in measured if found]
    choose = min if goal.less_is_better else max
    return choose(measured, key=lambda one: statistics.median(one[1].values())) if measured else None


def goal_lines(turns: Sequence[Turn], goal: Goal) -> list[str]:
    """Its lines in the table of goals: one, none where a side was not measured, one for each of ours if absolute."""
    everybody = names(turns)
    ours = goal.ours or [name for name in everybody if name.startswith("jaxserve")]
    if goal.is_absolute:
        measured = {name: values(turns, name, goal.metric) for name in ours}
        return [_line(goal, list(found.values()), name) for name, found in measured.items() if found]
    our_best = best(turns, ours, goal)
    peer = best(turns, goal.peers or [name for name in everybody if not name.startswith("jaxserve")], goal)
    if our_best is None or peer is None:
        return []
    ratios = [value / peer[1][number] for number, value in our_best[1].items() if number in peer[1]]
    return [_line(goal, ratios, f"{our_best[0]} ÷ {peer[0]}")] if ratios else []


def _line(goal: Goal, found: Sequence[float], who: str) -> str:
    middle = statistics.median(found)
    met = middle <= goal.target if goal.less_is_better else middle >= goal.target
    sign = "≤" if goal.less_is_better else "≥"
    return f"| {goal.sentence} | {spread(found, '.2f')} | {sign} {goal.target} | {'met' if met else 'missed'} | {who} |"


def report(found: dict[str, Any]) -> str:
    """All of it in Markdown."""
    turns, parts = found["turns"], []
    parts.append(f"Median (least..most) of the rounds, {len({turn['round'] for turn in turns})} in all.")
    parts.append(table(turns, COLUMNS))
    lines = [line for goal in GOALS for line in goal_lines(turns, goal)]
    parts.append("\n".join(["| goal | ratio | wanted | | who |", "|---|---|---|---|---|", *lines]))
    if any("long_prompt" in turn for turn in turns):
        streams = found["loads"]["streams"]
        parts.append(f"A prompt of {found['loads']['long_len']} tokens among {streams} streams, times in ms:")
        parts.append(table(turns, LONG_COLUMNS))
    for one in found["second_opinions"]:
        rates = f"prefill {one['prefill']:.0f} tok/s, decode {one['decode']:.0f} tok/s"
        parts.append(f"{one['program']} of {one['contender']}: {rates}")
    parts += [f"{name} not run: {reason}" for name, reason in found["not_run"].items()]
    return "\n\n".join(parts)
