"""Draws tokens per second against concurrency from the JSON of scripts/bench peers."""

import statistics
from pathlib import Path
from typing import Any

from scripts.benchmarks.peers.report import OUTPUT, names, serving, values

# Ours in one colour, peers in others; the same name always has the same colour. Solid: float32, dashed: fewer bits.
COLOURS = {"jaxserve": "#c2410c", "llama.cpp": "#1d4ed8", "vLLM": "#047857", "transformers": "#6b7280"}
LEAST_GAP = 0.045  # of the axis' height, between two labels


def draw(found: dict[str, Any], path: Path) -> None:
    """Medians as lines, least and most of the rounds as bars, each line named at its end. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    turns, concurrency = found["turns"], found["loads"]["concurrency"]
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    ends = []
    for name in names(turns):
        by_load = [list(values(turns, name, serving(OUTPUT, number)).values()) for number in concurrency]
        middles = [statistics.median(one) for one in by_load]
        below = [middle - min(one) for middle, one in zip(middles, by_load, strict=True)]
        above = [max(one) - middle for middle, one in zip(middles, by_load, strict=True)]
        ours, packed = name.startswith("jaxserve"), not name.endswith(("float32", "f32"))
        colour = COLOURS.get(name.split()[0], "#111827")
        axes.errorbar(
            range(len(concurrency)),
            middles,
            yerr=[below, above],
            color=colour,
            linewidth=2.2 if ours else 1.4,
            linestyle="--" if packed else "-",
            marker="o",
            markersize=5 if ours else 3.5,
            capsize=2,
        )
        ends.append((middles[-1], name, colour, ours))
    axes.set_xticks(range(len(concurrency)), [str(number) for number in concurrency])
    axes.set_xlim(-0.15, len(concurrency) - 1 + 0.95)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests at a time")
    axes.set_ylabel("output tokens per second")
    load = found["loads"]
    axes.set_title(
        f"{found['model']}, {found['machine']['cores']} CPU cores: {load['input_len']} tokens in, "
        f"{load['output_len']} out, streamed",
        fontsize=10,
        loc="left",
    )
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _label(axes, ends, len(concurrency) - 1 + 0.06)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _label(axes: Any, ends: list[tuple[float, str, str, bool]], x: float) -> None:
    """Names beside the lines' ends, pushed up where they would touch."""
    gap, lowest = LEAST_GAP * axes.get_ylim()[1], 0.0
    for y, name, colour, ours in sorted(ends):
        lowest = max(y, lowest)
        weight = "bold" if ours else "normal"
        axes.text(x, lowest, name, color=colour, fontsize=8.5, va="center", fontweight=weight)
        lowest += gap
