"""The predicted time of a step, put together from its parts, beside the least time that the data sheets allow.

    matmuls       products, and weights that are fetched while memory is busy (step_costs.py)
    attention     kernels of all layers: on TPUs from their final bundles (tpu_kernels.py), on GPUs from their machine
                  code (gpu_prediction.py), with the write of pages on TPUs
    collectives   bytes over the links, and an assumed latency
    operations    norms, rotations and everything else, by their bytes
    launches      on GPUs LAUNCH_S for each kernel but those of attention, which have theirs

The roofline is the engine's (jaxserve/engine/roofline.py). The sampler, and the host's time, are in neither.
"""

from dataclasses import dataclass
from typing import Any

from scripts.device_checks.gpu_prediction import LAUNCH_S
from scripts.device_checks.report import Record
from scripts.device_checks.step_costs import Costs

PARTS = ("matmuls", "attention", "collectives", "operations", "launches")


@dataclass(frozen=True)
class Attention:
    """The attention of all layers in a step.

    seconds        Of its kernels.
    is_computing   Whether products bound it, so that memory has time for other things.
    """

    seconds: float
    is_computing: bool


def predict_step(costs: Costs, attention: Attention, target: Any) -> dict[str, float]:
    """Return the seconds of each part of a step. target: the machine, as in parallel.targets."""
    idle_s = costs.idle_s + (attention.seconds if attention.is_computing else 0.0)
    prefetch_s = max(0.0, costs.prefetch_bytes / target.bytes_per_s - idle_s)
    return {
        "matmuls": costs.matmul_s + prefetch_s,
        "attention": attention.seconds,
        "collectives": costs.collective_s,
        "operations": costs.operation_bytes / target.bytes_per_s,
        "launches": costs.num_operations * LAUNCH_S if target.platform == "gpu" else 0.0,
    }


def judge_step(parts: dict[str, float], roofline_s: float) -> Record:
    """Return the parts of a step, their sum, and the roofline's share of it."""
    seconds = sum(parts.values())
    return {"roofline_s": roofline_s, "predicted_s": seconds, "share": roofline_s / seconds, "parts": parts}


def merge(known: list[Record], new: list[Record]) -> list[Record]:
    """Return the records in order, new ones instead of those of the same target, model and step."""

    def key_of(record: Record) -> tuple[str, ...]:
        return record["model"], record["target"], record["step"]

    pairs = {(record["model"], record["target"]) for record in new}
    kept = [record for record in known if (record["model"], record["target"]) not in pairs]
    return sorted([*kept, *new], key=key_of)


def show_steps(records: list[Record]) -> str:
    """Return the records as tables in Markdown, milliseconds."""
    steps = [record for record in records if "parts" in record]
    lines = [f"| model | target | step | roofline | predicted | share | {' | '.join(PARTS)} |", "|" + "---|" * 11]
    for record in steps:
        parts = " | ".join(f"{1e3 * record['parts'][part]:.2f}" for part in PARTS)
        lines.append(
            f"| {record['model']} | {record['target']} | {record['step']} | {1e3 * record['roofline_s']:.2f} |"
            f" {1e3 * record['predicted_s']:.2f} | {record['share']:.0%} | {parts} |"
        )
    refused = [record for record in records if "parts" not in record]
    if refused:
        lines += ["", "| not on | why |", "|---|---|"]
        lines += [
            f"| {record['model']} on {record['target']}: {record['step']} | {record['why']} |" for record in refused
        ]
    return "\n".join(lines)
