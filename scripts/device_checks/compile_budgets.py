"""The recorded sizes of compiled programs, and what has grown since. `scripts/device compile --record` writes them."""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.device_checks.report import Record

FILE = Path(__file__).with_name("compiled.json")
GROWTH = 0.05
SLACK_BYTES = 2**18  # by which small programs may grow
SIZES = ("code_bytes", "temporary_bytes", "result_bytes")
KERNEL_SIZES = ("registers", "spill_bytes", "shared_bytes")
COMPILERS = {"cpu": (), "tpu": ("libtpu",), "gpu": ("jax-cuda13-plugin", "nvidia-cuda-nvcc", "nvidia-nvvm")}


def key_of(record: Record) -> str:
    """Return the name of a program in the file."""
    words = [record["target"], record["model"], f"{record['layers']} layers", record["program"]]
    words += [record[name] for name in ("kv_cache_dtype", "quantization") if record[name] not in ("auto", "none")]
    return ", ".join(words)


def list_versions(backend: str) -> dict[str, str]:
    """Return the versions of what compiles for such devices."""
    versions = {}
    for package in ("jax", *COMPILERS[backend]):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def load() -> dict[str, Any]:
    """Return what is recorded: the versions by backend, and the programs by name."""
    return json.loads(FILE.read_text()) if FILE.exists() else {"versions": {}, "programs": {}}


def save(records: Sequence[Record], backend: str) -> None:
    """Record programs, beside those that are recorded already, if the same compiler has compiled these."""
    known, versions = load(), list_versions(backend)
    known["versions"][backend] = versions
    for record in records:
        known["programs"][key_of(record)] = _essence(record)
    known["programs"] = dict(sorted(known["programs"].items()))
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in known["programs"].items()]
    versions_text = json.dumps(known["versions"])
    FILE.write_text(f'{{"versions": {versions_text},\n "programs": {{\n' + ",\n".join(lines) + "\n}}\n")


def _essence(record: Record) -> Record:
    if record["outcome"] == "refused":
        return {"refused": record["why"]}
    names = (*SIZES, "collectives", "kernels", "known_moves")
    return {name: record[name] for name in names if record.get(name) not in (None, {}, [])}


def judge(record: Record, recorded: Record | None) -> Record:
    """Return a record with what is worse than recorded among its faults; one that failed already stays as it is."""
    if record["outcome"] == "failed" or not (worse := compare(record, recorded)):
        return record
    return record | {"outcome": "failed", "faults": [*record.get("faults", ()), *worse]}


def compare(record: Record, recorded: Record | None) -> list[str]:
    """Return in words what is worse than recorded: larger by a twentieth, more collectives or spills, kernels gone."""
    if record["outcome"] == "refused":
        return [] if recorded and "refused" in recorded else [f"refused: {record['why']}"]
    if recorded is None:
        return ["nothing is recorded of it: --record"]
    if "refused" in recorded:
        return []
    faults = [
        f"{name} {record[name]}, recorded {recorded.get(name, 0)}"
        for name in SIZES
        if _has_grown(record[name], recorded.get(name, 0), SLACK_BYTES)
    ]
    faults += [
        f"{count} {move}"
        for move, count in record.get("known_moves", {}).items()
        if count > recorded.get("known_moves", {}).get(move, 0)
    ]
    for kind, (count, num_bytes) in record["collectives"].items():
        most, most_bytes = recorded.get("collectives", {}).get(kind, (0, 0))
        if count > most or _has_grown(num_bytes, most_bytes, 0):
            faults.append(f"{count} {kind} of {num_bytes} bytes, recorded {most} of {most_bytes}")
    return faults + _compare_kernels(record.get("kernels", {}), recorded.get("kernels", {}))


def _compare_kernels(kernels: Record, recorded: Record) -> list[str]:
    faults = [f"the kernel {name} is recorded and gone" for name in recorded if name not in kernels]
    for name, kernel in kernels.items():
        before = recorded.get(name, {})
        faults += [
            f"{name}: {fact} {kernel[fact]}, recorded {before[fact]}"
            for fact in KERNEL_SIZES
            if fact in before and _has_grown(kernel[fact], before[fact], 0)
        ]
    return faults


def _has_grown(value: int, before: int, slack: int) -> bool:
    return value > before * (1 + GROWTH) + slack
