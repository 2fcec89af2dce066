"""Compiles the programs of a model for accelerators that are not there, and says what the compiler predicts.

    python3 scripts/device compile [TARGET ...] [--model NAME ...] [--programs WORD ...] [--layers 2] [--short]
        [--quantization int8] [--kv-cache-dtype TYPE] [--record] [--json FILE]

Targets are the machines of `jaxserve build`, such as v5e-4 or h200x8; none: those of them that stand below, as far as
their compilers are installed. For TPUs that is libtpu, for GPUs JAX's CUDA plugin with ptxas, each in a virtual
environment of its own, which scripts/test makes: .venv-tpu and .venv-cuda. cpu needs nothing. For each model, as an
engine with default settings plans them: a decode step of every batch size, prefill calls with eight chunks, the sampler
in every mode, the copy of pages and the log-probabilities of prompts, at the model's full length and width.

Every number is a prediction of the compiler about compiled code; nothing runs. A program fails

    if it does not compile, is refused and was not when it was recorded, or its state is not updated in place;
    if an array as large as a layer's pages, or all logits, is copied, converted, transposed or gathered;
    with a quantization, if a weight is stored in bfloat16 or float32 anywhere;
    if weights and pages take more than 3 % more or less than the engine's own sizing says;
    if one of our GPU kernels spills registers in bfloat16, or has no tensor-core products or wide asynchronous copies;
    if its code, temporaries, results, collectives or registers are 5 % more than recorded in compiled.json;
    if a kernel that is recorded there is not in it.

A word of --programs with which no program of a model begins fails, too, and so does a run that compiles nothing.

--record writes that file anew for what is compiled. Few layers are enough for all this; --layers 0 is all of them.
--short compiles few but telling programs; scripts/test runs it.
--steps predicts the time of steps by part instead, against the roofline; --json then adds to what the file has.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxserve.parallel.targets import TARGETS, Target
from scripts.device_checks import compile_budgets as budgets
from scripts.device_checks.compile_cases import DEFAULT_TARGETS, SHORT, STEP_MODELS, STEP_TARGETS, Case, cases_of
from scripts.device_checks.report import Record
from scripts.device_checks.shapes import COMPILED, tiny_config

PROGRAM = Path(__file__).resolve().parents[1] / "device"


@dataclass(frozen=True)
class Options:
    """What is compiled, beside targets and models.

    programs   Beginnings of the names of programs; none: all.
    """

    programs: tuple[str, ...] = ()
    layers: int = 2
    kv_cache_dtype: str = "auto"
    quantization: str = "none"
    tiny: bool = False


def compile_model(target: Target, model: str, options: Options) -> Iterator[Record]:
    """Compile the programs of a model one after the other and yield what is predicted of each."""
    from jaxserve.errors import StartupError
    from scripts.device_checks import compile_plan

    config = choose_config(model, options)
    about: Record = {"kind": "compiled", "target": target.name, "model": model, "layers": config["num_hidden_layers"]}
    about |= {"kv_cache_dtype": options.kv_cache_dtype, "quantization": options.quantization}
    settings = {"kv_cache_dtype": options.kv_cache_dtype, "kv_cache_memory_bytes": compile_plan.PAGE_BYTES}
    placement = compile_plan.describe_placement(target)
    try:
        opened = compile_plan.open_described(placement, model, config, options.quantization)
        programs = compile_plan.plan_described(opened, settings)
    except StartupError as error:
        yield about | {"program": "plan", "outcome": "refused", "why": str(error)}
        return
    about["page_size"] = programs.table.model.page_size
    labelled = list(compile_plan.label_programs(programs.table))
    for word in list_unmatched(options.programs, [label for label, _, _ in labelled]):
        yield about | {"program": word, "outcome": "failed", "faults": ["no program's name begins so"]}
    for label, table, key in labelled:
        if not options.programs or label.startswith(options.programs):
            yield about | {"program": label} | _compile(target, programs, table, key)


def list_unmatched(words: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the words with which none of the labels begins."""
    return [word for word in words if not any(label.startswith(word) for label in labels)]


def choose_config(model: str, options: Options) -> dict[str, Any]:
    """Return the config.json of a model with as many layers as are compiled."""
    config = tiny_config(COMPILED[model]) if options.tiny else dict(COMPILED[model])
    if options.layers:
        # A model with two kinds of layers has one of the second kind among its first six, or among its first two.
        kinds = config.get("layer_types")
        is_default_pattern = "sliding_window" in config and not kinds
        config["num_hidden_layers"] = max(6, options.layers) if is_default_pattern else options.layers
        if kinds:
            config["layer_types"] = kinds[: options.layers]
    return config


def _compile(target: Target, programs: Any, table: Any, key: Any) -> Record:
    """Compile one program and return what is predicted of it."""
    from jaxserve.errors import StartupError
    from scripts.device_checks.compile_checks import check
    from scripts.device_checks.compile_kernels import list_kernel_faults, read_kernels
    from scripts.device_checks.gpu_code import dump_options

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jaxserve-compile-") as dump:
        compiler_options = dump_options(dump) if target.platform == "gpu" else None
        try:
            with table.placement.as_default():
                lowered = key.lower(table, programs.weights, programs.state)
            compiled = lowered.compile(compiler_options)
        except StartupError as error:
            return {"outcome": "refused", "why": str(error)}
        except Exception as error:  # what a compiler refuses is what is looked for
            return {"outcome": "failed", "faults": [f"{type(error).__name__}: {error}"[:500]]}
        record: Record = {"compile_s": time.perf_counter() - started} | check(compiled, programs, key, target.platform)
        if target.platform == "gpu":
            record["kernels"] = read_kernels(Path(dump), target.architecture)
            record["faults"] = [*record["faults"], *list_kernel_faults(record["kernels"], table.model.dtype)]
    return record | {"outcome": "failed" if record["faults"] else "passed"}


def line_of(record: Record) -> str:
    """Return one record as a line of the table."""
    start = f"{record['target']:7}{record['model']:15}{record['program']:24}"
    if record["outcome"] == "refused":
        return f"{start} refused {record['why'][:160]}"
    if "code_bytes" not in record:
        return f"{start} FAILED {record['faults'][0][:300]}"
    collectives = ", ".join(f"{count} {kind}" for kind, (count, _) in record["collectives"].items())
    sizes = f"{record['code_bytes'] / 2**20:6.1f} MiB code {record['temporary_bytes'] / 2**20:7.1f} MiB temporary"
    faults = "; ".join(record["faults"])
    outcome = record["outcome"] if record["outcome"] == "passed" else "FAILED"
    kernels = ", ".join(f"{name} {facts['registers']} registers" for name, facts in record.get("kernels", {}).items())
    return f"{start} {outcome} {sizes} {record['compile_s']:5.1f} s  " + "; ".join(
        filter(None, (collectives, kernels, faults))
    )


def run(cases: Sequence[Case], options: Options, *, has_budgets: bool, record: bool) -> list[Record]:
    """Compile for targets of one platform, in this process."""
    platform = TARGETS[cases[0].target].platform
    recorded, records = budgets.load(), []
    same_compiler = recorded["versions"].get(platform) == budgets.list_versions(platform)
    if has_budgets and not same_compiler:
        print(f"Sizes are not compared: they were recorded with {recorded['versions'].get(platform)}.", flush=True)
    for case in cases:
        for result in compile_model(TARGETS[case.target], case.model, case.refine(options)):
            # What the engine refuses does not depend on the compiler.
            if has_budgets and (same_compiler or result["outcome"] == "refused"):
                result = budgets.judge(result, recorded["programs"].get(budgets.key_of(result)))
            print(line_of(result), flush=True)
            records.append(result)
    if record:
        budgets.save([each for each in records if each["outcome"] != "failed"], platform)
    return records


def _installed_platforms() -> set[str]:
    compilers = {"tpu": "libtpu", "gpu": "jax_plugins.xla_cuda13"}
    return {"cpu"} | {platform for platform, module in compilers.items() if _is_importable(module)}


def _is_importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main(words: Sequence[str]) -> int:
    """Compile for the targets that the words name; return 1 if a program fails, else 0."""
    arguments = _parse(words)
    print("Predicted by compilers; nothing ran.", flush=True)
    installed = _installed_platforms()
    defaults = STEP_TARGETS if arguments.steps else DEFAULT_TARGETS
    targets = arguments.targets or [name for name in defaults if TARGETS[name].platform in installed]
    if arguments.short:
        targets = sorted({case.target for case in SHORT if case.target in targets})
    platforms = sorted({TARGETS[name].platform for name in targets})
    if len(platforms) > 1:  # the compilers do not share a process
        options = [word for word in words if word not in TARGETS]
        groups = ([name for name in targets if TARGETS[name].platform == platform] for platform in platforms)
        commands = ([sys.executable, str(PROGRAM), "compile", *group, *options] for group in groups)
        return max(subprocess.run(command, env=os.environ).returncode for command in commands)
    if arguments.steps:
        from scripts.device_checks import predict_steps

        return predict_steps.run(targets, [name for name in arguments.model if name in STEP_MODELS], arguments.json)
    names = ("programs", "layers", "kv_cache_dtype", "quantization", "tiny")
    options = Options(**{name: getattr(arguments, name) for name in names})
    cases = SHORT if arguments.short else cases_of(targets, arguments.model)
    cases = [case for case in cases if case.target in targets]
    is_plain = not arguments.tiny and not arguments.record
    records = run(cases, options, has_budgets=is_plain and arguments.compare, record=arguments.record) if cases else []
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    if not records:
        print(f"Nothing was compiled: there are compilers for {', '.join(sorted(installed))}.", flush=True)
        return 1
    failed = [record for record in records if record["outcome"] == "failed"]
    print(f"{len(records)} programs compiled for {', '.join(targets)}: {len(failed)} failed.", flush=True)
    return int(bool(failed))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="device compile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default {', '.join(DEFAULT_TARGETS)}")
    parser.add_argument("--model", nargs="+", default=list(COMPILED), choices=sorted(COMPILED))
    parser.add_argument("--programs", nargs="+", default=(), metavar="WORD", help="beginnings of names, such as decode")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="few programs, for all changes")
    parser.add_argument("--steps", action="store_true", help="predict the time of steps")
    parser.add_argument("--record", action="store_true", help="write sizes into compiled.json")
    parser.add_argument("--no-compare", dest="compare", action="store_false", help="with what is recorded")
    parser.add_argument("--kv-cache-dtype", default="auto", metavar="TYPE", help="as of jaxserve serve")
    parser.add_argument("--quantization", default="none", help="how weights are packed")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--json", type=Path, help="write every record here")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.targets if name not in TARGETS]:
        parser.error(f"unknown targets {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    arguments.programs = tuple(arguments.programs)
    return arguments
