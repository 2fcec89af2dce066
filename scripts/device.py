#!/usr/bin/env python3
"""One command that says what jaxserve does on the accelerator at hand: is it right, and how near is it to the limit?

    python3 scripts/device.py [--json FILE] [--only contract,machine,...] [--minutes 8] [--attention NAME] [--tiny]

Needs Python 3.11 or later, jax, numpy and flax (with what flax imports: optax, msgpack, rich, pygments, treescope,
PyYAML, absl-py, etils, typing_extensions), and no network; the repository need not be installed. Wheels that are
missing can lie unpacked in a directory named by PYTHONPATH. Without flax, contract, machine and sampler still run.
Parts, in order; each is a process of its own, so that a kernel that crashes or hangs costs only its part:

    contract     every attention backend for this device, compiled, against the reference in float32 and bfloat16
    machine      bytes and products per second of this very device
    llama8b      decode and prefill steps at Llama-3.1-8B's shape, random weights, in percent of the floor
    sampler      a token from 128k logits
    end_to_end   the engine offline, 1000 tokens in, 1000 out, 256 rows
    peer         the same decode step through torch and transformers, where they are installed
    qwen06b      steps at Qwen3-0.6B's shape
    llama1b      steps at Llama-3.2-1B's shape

The floor of a step: weights read once or its products made, whichever takes longer, and the live context read once.
It ends with a short table; --json keeps every record, rewritten after each. --tiny runs everything in toy shapes in
one process, for a machine without an accelerator.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

Record = dict[str, Any]
# The most seconds of each part; what one leaves over, later ones may use if the whole time is not over.
SECONDS = {
    "contract": 90,
    "machine": 30,
    "llama8b": 150,
    "sampler": 45,
    "end_to_end": 130,
    "peer": 75,
    "qwen06b": 75,
    "llama1b": 60,
}
MODELS = {"llama8b": "Llama-3.1-8B", "qwen06b": "Qwen3-0.6B", "llama1b": "Llama-3.2-1B"}
GRACE_S = 15.0  # between asking a part to begin nothing new and killing it
LEAST_S = 12.0  # no part is begun with less
# What one part has compiled, another need not; jax reads this when it is imported, in the parts.
PROGRAM_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def run_part(name: str, deadline: float, tiny: bool, attention: str) -> Iterator[Record]:
    """One part, in this process."""
    from device_shapes import CONFIGS, config_of

    if name == "peer":
        from device_peer import peer

        return peer({model: config_of(model, tiny=tiny) for model in CONFIGS}, tiny=tiny, deadline=deadline)
    import device_parts

    setting = device_parts.Setting(deadline, tiny, attention)
    if name in ("contract", "machine", "sampler"):
        return getattr(device_parts, name)(setting)
    import device_steps

    return device_steps.steps(MODELS[name], setting) if name in MODELS else device_steps.end_to_end(setting)


def run_apart(name: str, seconds: float, arguments: argparse.Namespace) -> Iterator[Record]:
    """One part, in a process of its own, killed if it goes on after its time."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--seconds", str(seconds)]
    command += ["--attention", arguments.attention, *(["--tiny"] if arguments.tiny else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(seconds + GRACE_S, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                print(line, end="")
        status = process.wait()
    finally:
        killer.cancel()
        process.kill()
    if status:
        late = f" (killed after {seconds + GRACE_S:.0f} s)" if status == -signal.SIGKILL else ""
        yield {"kind": "broken", "why": f"ended with status {status}{late}"}


class Report:
    """Every record so far; the file is whole after each."""

    def __init__(self, file: Path | None) -> None:
        self.about: Record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        }
        self.records: list[Record] = []
        self._file = file

    def add(self, part: str, record: Record) -> None:
        record = {"part": part, **record}
        if record["kind"] == "machine":
            self.about |= {key: value for key, value in record.items() if key not in ("part", "kind")}
        self.records.append(record)
        print("  " + line_of(self.judged(record)), flush=True)
        if self._file:
            whole = {"about": self.about, "records": [self.judged(each) for each in self.records]}
            partial = self._file.with_name(self._file.name + ".part")
            partial.write_text(json.dumps(whole, indent=1))
            partial.replace(self._file)

    def judged(self, record: Record) -> Record:
        """Add the shortest possible time and its share of the measured one, once the machine is measured."""
        if "weight_bytes" not in record or "seconds" not in record or "flops_per_s" not in self.about:
            return record
        bytes_per_s = max(self.about["copy_bytes_per_s"], self.about["read_bytes_per_s"])
        floor = max(record["weight_bytes"] / bytes_per_s, record["flops"] / self.about["flops_per_s"])
        floor += record["context_bytes"] / bytes_per_s
        tokens = record["tokens"] if record["kind"] == "prefill" else record["rows"]
        return record | {
            "floor_s": floor,
            "percent_of_floor": 100 * floor / record["seconds"],
            "tokens_per_s": tokens / record["seconds"],
        }


def line_of(record: Record) -> str:
    """One record for people."""
    what = [str(record[key]) for key in ("model", "backend", "dtype", "case", "sampler") if key in record]
    what += [f"{record[key]} {key}" for key in ("rows", "tokens") if key in record]
    if "seconds" in record:
        what.append(f"{record['seconds'] * 1e3:.3f} ms")
    if "percent_of_floor" in record:
        what.append(f"{record['percent_of_floor']:.0f} % of the floor")
    if "host_s" in record:
        what.append(f"host {record['host_s'] * 1e6:.0f} us")
    if record["kind"] == "machine":
        rates = (record["copy_bytes_per_s"] / 1e9, record["read_bytes_per_s"] / 1e9, record["flops_per_s"] / 1e12)
        what.append("copies {:.0f} GB/s, reads {:.0f} GB/s, multiplies {:.1f} TFLOP/s".format(*rates))
    what += [f"{record[key]:.0f} {key}" for key in ("output_tokens_per_s",) if key in record]
    what += [f"error {record['error']:.1e}"] if "error" in record else []
    what += [str(record[key]) for key in ("outcome", "why") if record.get(key)]
    return f"{record['kind']}: " + ", ".join(what)


def summary(report: Report) -> str:
    """The short table: what the goals are about."""
    records = [report.judged(record) for record in report.records]
    lines = [f"{report.about.get('device', 'unmeasured device')}, {report.about['date']}", ""]
    outcomes: dict[tuple[str, str], int] = {}
    for record in records:
        if record["kind"] == "contract":
            key = (record["backend"], record["outcome"])
            outcomes[key] = outcomes.get(key, 0) + 1
    lines += [f"contract   {backend:<12}{outcome:<10}{n:>4}" for (backend, outcome), n in outcomes.items()]
    lines.append(
        f"{'':<11}{'model':<15}{'rows':>5}{'tokens':>8}{'ms':>10}{'floor':>9}{'%':>5}{'tok/s':>10}{'host us':>9}"
    )
    for record in records:
        if record["kind"] in ("decode", "prefill", "sampler", "peer") and "seconds" in record:
            lines.append(row_of(record) + beside(record, records))
    for record in records:
        if record["kind"] == "end to end":
            lines.append(
                f"end to end {record['model']:<15}{record['rows']:>5} rows, {record['input']} in, {record['output']}"
                f" out: {record['output_tokens_per_s']:.0f} tok/s out, {record['tokens_per_s']:.0f} in all,"
                f" {record['seconds']:.1f} s"
            )
    lines += [f"{each['part']}: {each['kind']}, {each['why']}" for each in records if each["kind"] in ODD]
    return "\n".join(lines)


ODD = ("skipped", "stopped", "broken")


def beside(record: Record, records: list[Record]) -> str:
    """Return the remark behind a peer's row: how many times faster the same step is here."""
    if record["kind"] == "peer":
        same = ("model", "rows", "tokens")
        for ours in records:
            if ours["kind"] == "decode" and "seconds" in ours and all(ours[key] == record[key] for key in same):
                return f"  ours {record['seconds'] / ours['seconds']:.2f} times as fast"
    return ""


def row_of(record: Record) -> str:
    def number(key: str, factor: float, form: str) -> str:
        return format(record[key] * factor, form) if key in record else format("", form.split(".")[0])

    tokens = record.get("tokens", "")
    name = record.get("model") or record.get("sampler", "")
    return (
        f"{record['kind']:<11}{name:<15}{record['rows']:>5}{tokens:>8}{number('seconds', 1e3, '10.3f')}"
        f"{number('floor_s', 1e3, '9.3f')}{number('percent_of_floor', 1, '5.0f')}{number('tokens_per_s', 1, '10.0f')}"
        f"{number('host_s', 1e6, '9.0f')}"
    )


def run_all(arguments: argparse.Namespace) -> Report:
    """Every part that was asked for, as long as there is time."""
    report, ends = Report(arguments.json), time.monotonic() + 60 * arguments.minutes
    for setting, value in PROGRAM_CACHE.items():
        os.environ.setdefault(setting, value)
    for name in arguments.only:
        seconds = min(SECONDS[name], ends - GRACE_S - time.monotonic())
        print(f"{name}, at most {max(0.0, seconds):.0f} s", flush=True)
        if seconds < LEAST_S:
            report.add(name, {"kind": "skipped", "why": "no time is left"})
            continue
        in_here = arguments.tiny and not arguments.apart
        deadline = time.monotonic() + seconds
        records = (
            run_part(name, deadline, arguments.tiny, arguments.attention)
            if in_here
            else run_apart(name, seconds, arguments)
        )
        for record in records:
            report.add(name, record)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every record here")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SECONDS), help="parts, with commas")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--attention", default="auto", help="attention backend of the steps")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, one process, for any machine")
    parser.add_argument("--apart", action="store_true", help="with --tiny: each part in its own process all the same")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        deadline = time.monotonic() + arguments.seconds
        for record in run_part(arguments.part, deadline, arguments.tiny, arguments.attention):
            print(json.dumps(record), flush=True)
        return
    if unknown := set(arguments.only) - set(SECONDS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(SECONDS)}")
    with tempfile.TemporaryDirectory(prefix="jaxserve-device-") as programs:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
        report = run_all(arguments)
    print("\n" + summary(report))
    broken = [record for record in report.records if record["kind"] == "broken" or record.get("outcome") == "failed"]
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
