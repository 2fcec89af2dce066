"""What the benchmarks measured, summed up under the result keys of `vllm bench serve`, and a table of it."""

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Timeline:
    """One request: when it was asked, and when each of its output tokens came. Times in seconds on one clock.

    Tokens that came together share the gap before them evenly, so that a chunk of three is no stall and two miracles.
    """

    num_input_tokens: int
    asked: float
    came: tuple[float, ...]
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        return self.came[0] - self.asked

    @property
    def tpot_s(self) -> float:
        """Mean seconds per output token after the first."""
        return (self.came[-1] - self.came[0]) / (len(self.came) - 1)

    @property
    def e2el_s(self) -> float:
        return self.came[-1] - self.asked


@dataclass(slots=True)
class Arrivals:
    """The arrival times of one request's tokens; `deliveries` are the moments at which at least one arrived."""

    asked: float
    came: list[float] = field(default_factory=list)
    deliveries: list[float] = field(default_factory=list)

    def add(self, now: float, num_tokens: int) -> None:
        """`num_tokens` more have come by `now`."""
        before = self.came[-1] if self.came else None
        if num_tokens:
            self.deliveries.append(now)
        for position in range(1, num_tokens + 1):
            self.came.append(now if before is None else before + (now - before) * position / num_tokens)


def inter_token_s(timeline: Timeline) -> list[float]:
    return [later - earlier for earlier, later in zip(timeline.came, timeline.came[1:], strict=False)]


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the neighbours, as numpy does it. share in [0, 100]; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summary(timelines: Iterable[Timeline], duration_s: float, **about: Any) -> dict[str, Any]:
    """One run's result under vLLM's keys; `about` says what ran and goes in front."""
    all_of_them = list(timelines)
    good = [one for one in all_of_them if one.error is None and one.came]
    num_output = sum(len(one.came) for one in good)
    num_input = sum(one.num_input_tokens for one in good)
    result = {
        **about,
        "duration": duration_s,
        "completed": len(good),
        "failed": len(all_of_them) - len(good),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": len(good) / duration_s,
        "output_throughput": num_output / duration_s,
        "total_token_throughput": (num_input + num_output) / duration_s,
    }
    several = [one for one in good if len(one.came) > 1]
    for name, seconds in {
        "ttft": [one.ttft_s for one in good],
        "tpot": [one.tpot_s for one in several],
        "itl": [gap for one in several for gap in inter_token_s(one)],
        "e2el": [one.e2el_s for one in good],
    }.items():
        ms = [1000 * value for value in seconds]
        result[f"mean_{name}_ms"] = statistics.fmean(ms) if ms else 0.0
        result[f"median_{name}_ms"] = percentile(ms, 50)
        result[f"std_{name}_ms"] = statistics.pstdev(ms) if ms else 0.0
        result[f"p99_{name}_ms"] = percentile(ms, 99)
    return result


COLUMNS = {  # heading → how to show a result under it
    "concurrency": "{max_concurrency}",
    "done": "{completed}",
    "failed": "{failed}",
    "in": "{total_input_tokens}",
    "out": "{total_output_tokens}",
    "req/s": "{request_throughput:.2f}",
    "out tok/s": "{output_throughput:.1f}",
    "TTFT p50": "{median_ttft_ms:.1f}",
    "p99": "{p99_ttft_ms:.1f}",
    "TPOT p50": "{median_tpot_ms:.2f}",
    "p99 ": "{p99_tpot_ms:.2f}",
    "ITL p50": "{median_itl_ms:.2f}",
    "p99  ": "{p99_itl_ms:.2f}",
}


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line per result; times in milliseconds."""
    rows = [list(COLUMNS), *([shown.format(**result) for shown in COLUMNS.values()] for result in results)]
    widths = [max(len(row[column].strip()) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.strip().rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def publish(results: Sequence[dict[str, Any]], json_path: str | None) -> None:
    """Print the table and write the results as JSON to `json_path`; '-' prints JSON, and the table goes to stderr."""
    print(table(results) + "\n(times in ms)", file=sys.stderr if json_path == "-" else sys.stdout)
    text = json.dumps(results, indent=2)
    if json_path == "-":
        print(text)
    elif json_path:
        Path(json_path).write_text(text + "\n", encoding="utf-8")
