"""Checks and measurements of the accelerator at hand: correctness, and the distance to the limits of the hardware.

    python3 scripts/device run [PART ...] [--json FILE] [--minutes 8] [--attention NAME] [--tiny]

Needs Python 3.11 or later, jax, numpy and flax (with what flax imports: optax, msgpack, rich, pygments, treescope,
PyYAML, absl-py, etils, typing_extensions), and no network; the repository need not be installed. Wheels that are
missing can lie unpacked in a directory named by PYTHONPATH. Without flax, contract, machine and sampler still run.
Parts, in order; all if none is named. Each is a process of its own, so that a kernel that crashes or hangs costs only
its part:

    contract     products of int4 weights and of experts, and every attention backend for this device, compiled, against
                 the reference in float32 and bfloat16
    machine      bytes and products per second of this device
    llama8b      decode and prefill steps at Llama-3.1-8B's shape, random weights, in percent of the floor
    sampler      a token from 128k logits
    end_to_end   the engine offline, 1000 tokens in, 1000 out, 256 rows
    peer         the same decode step through torch and transformers, where they are installed
    qwen06b      steps at Qwen3-0.6B's shape
    llama1b      steps at Llama-3.2-1B's shape

Other commands need no accelerator, and COMMAND --help describes them: `compile` compiles programs as an engine plans
them, `rehearse` those of the parts above; `kernels` predicts the time of attention on TPUs from compiled kernels, and
`gpu_kernels` how near those for GPUs come to the hardware's limits, `gpu_products` those of int4 weights, and
`gpu_experts` those of experts.

The floor of a step: the time to read the weights once or to compute its products, whichever is longer, plus the time
to read the live context once. A short table comes last; --json keeps every record, rewritten after each. --tiny runs
everything in toy shapes in one process, for a machine without an accelerator.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from scripts.device_checks.report import Record, Report, summary
from scripts.device_checks.shapes import CONFIGS, STEP_PARTS, config_of

PROGRAM = Path(__file__).resolve().parents[1] / "device"
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
# The modules of the other commands, which have a function `main`.
COMMANDS = {
    "compile": "compile",
    "rehearse": "rehearse",
    "kernels": "tpu_kernels",
    "gpu_kernels": "gpu_kernels",
    "gpu_products": "gpu_products",
    "gpu_experts": "gpu_experts",
}
GRACE_S = 15.0  # between asking a part to begin nothing new and killing it
LEAST_S = 12.0  # no part is begun with less
# What one part has compiled, another need not; jax reads this when it is imported, in the parts.
PROGRAM_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def run_part(name: str, deadline: float, tiny: bool, attention: str) -> Iterator[Record]:
    """Run one part in this process and yield its records."""
    if name == "peer":
        from scripts.device_checks.peer import peer

        return peer({model: config_of(model, tiny=tiny) for model in CONFIGS}, tiny=tiny, deadline=deadline)
    from scripts.device_checks import parts

    setting = parts.Setting(deadline, tiny, attention)
    if name in ("contract", "machine", "sampler"):
        return getattr(parts, name)(setting)
    from scripts.device_checks import steps

    return steps.steps(STEP_PARTS[name], setting) if name in STEP_PARTS else steps.end_to_end(setting)


def run_apart(name: str, seconds: float, arguments: argparse.Namespace) -> Iterator[Record]:
    """Run one part in a process of its own, killed if it goes on after its time, and yield its records."""
    command = [sys.executable, str(PROGRAM), "run", "--part", name, "--seconds", str(seconds)]
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


def run_all(arguments: argparse.Namespace) -> Report:
    """Run every part that was asked for, as long as there is time."""
    report, ends = Report(arguments.json), time.monotonic() + 60 * arguments.minutes
    for setting, value in PROGRAM_CACHE.items():
        os.environ.setdefault(setting, value)
    for name in arguments.parts or SECONDS:
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


def main(words: Sequence[str]) -> int:
    """Run the command that the first word names and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", *COMMANDS))
    command = parser.parse_args(words[:1]).command
    if command == "run":
        return run(words[1:])
    return import_module(f"scripts.device_checks.{COMMANDS[command]}").main(words[1:])


def run(words: Sequence[str]) -> int:
    """Run the parts that the words name, print a table, and return the exit code: 1 if a part broke or failed."""
    parser = argparse.ArgumentParser(
        prog="device run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(SECONDS))
    parser.add_argument("--json", type=Path, help="write every record here")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--attention", default="auto", help="attention backend of the steps")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, one process, for any machine")
    parser.add_argument("--apart", action="store_true", help="with --tiny: each part in its own process all the same")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.part:
        deadline = time.monotonic() + arguments.seconds
        for record in run_part(arguments.part, deadline, arguments.tiny, arguments.attention):
            print(json.dumps(record), flush=True)
        return 0
    if unknown := set(arguments.parts) - set(SECONDS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(SECONDS)}")
    with tempfile.TemporaryDirectory(prefix="jaxserve-device-") as programs:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs)
        report = run_all(arguments)
    print("\n" + summary(report))
    broken = [record for record in report.records if record["kind"] == "broken" or record.get("outcome") == "failed"]
    return 1 if broken else 0
