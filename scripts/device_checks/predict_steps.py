"""Predicts the time of decode and prefill steps by compiling a few layers: `scripts/device compile --steps`.

For each model and target a decode step of 32 and 128 rows of 1,024 tokens, and a prompt of the largest chunk from its
beginning, as an engine with default settings plans them. The costs of the layers that are compiled are scaled to all.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.engine.roofline import PeakRates, Roofline
from jaxserve.errors import StartupError
from jaxserve.models.cost import AttentionCost, decoder_cost
from jaxserve.parallel.gpus import GPUS
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.targets import TARGETS, Target
from jaxserve.sampling.sampler import SampleMode
from scripts.device_checks import compile_budgets, compile_plan, gpu_kernels, gpu_prediction, tpu_kernels
from scripts.device_checks.report import Record
from scripts.device_checks.shapes import COMPILED
from scripts.device_checks.step_costs import read_costs
from scripts.device_checks.step_table import Attention, judge_step, merge, predict_step, show_steps

ROWS, CONTEXT = (32, 128), 1024
# Layers that are compiled of decode and of prefill: enough that what only the first and the last have weighs little,
# and few where a layer takes half a minute.
NUM_LAYERS = {"tpu": (2, 1), "gpu": (8, 8)}
Estimate = Callable[[AttentionCost, Any], float]


def predict_model(target: Target, model: str) -> Iterator[Record]:
    """Yield the predicted steps of a model on a machine, or why there are none."""
    about: Record = {"kind": "step", "target": target.name, "model": model}
    placement = compile_plan.describe_placement(target)
    try:
        whole = compile_plan.open_described(placement, model, COMPILED[model], "none")
        planned = compile_plan.plan_described(whole, {})
    except StartupError as error:
        yield about | {"step": "plan", "why": str(error).split("\n")[0][:200]}
        return
    rates = PeakRates(target.bytes_per_s, target.flops_per_s).times(target.num_devices)
    cost = decoder_cost(whole.spec)
    roofline = Roofline(cost, whole.dtype.itemsize, rates)
    table = planned.table
    about |= {"attention": table.model.backend.name, "page_size": table.model.page_size}
    estimate = make_estimate(target, COMPILED[model], table.model.backend.name)
    for key in (*(key for key in table.decodes if key.rows in ROWS), table.prefills[-1]):
        num_layers = NUM_LAYERS[target.platform][key.tokens is not None]
        step = f"decode {key.rows}" if key.tokens is None else f"prefill {key.tokens}"
        began = time.monotonic()
        try:
            text = compile_few(placement, model, cut_layers(COMPILED[model], num_layers), key)
            layers = [layers.num_layers * estimate(layers, key) for layers in cost.attention]
        except Exception as error:  # one program that does not compile must not hide what the others do
            yield about | {"step": step, "why": f"{type(error).__name__}: {error}".split("\n")[0][:200]}
            continue
        inside, outside = read_costs(text, target)
        costs = inside.times(whole.spec.num_layers / num_layers) + outside
        parts = predict_step(costs, Attention(sum(layers), is_computing=key.tokens is not None), target)
        plan = plan_decode(key.rows, CONTEXT) if key.tokens is None else plan_prefill(key.tokens)
        facts = {"step": step, "layers": num_layers, "num_operations": round(costs.num_operations)}
        facts["compile_s"] = round(time.monotonic() - began, 1)
        yield about | facts | judge_step(parts, roofline.estimate(plan).roofline_s)


def cut_layers(config: Record, num_layers: int) -> Record:
    """Return the config.json of the first layers of a model; in their costs but attention all are alike."""
    kinds = {"layer_types": config["layer_types"][:num_layers]} if "layer_types" in config else {}
    return config | kinds | {"num_hidden_layers": num_layers}


def compile_few(placement: Placement, model: str, config: Record, key: Any) -> str:
    """Compile a program of a model and return its text."""
    opened = compile_plan.open_described(placement, model, config, "none")
    programs = compile_plan.plan_described(opened, {"kv_cache_memory_bytes": compile_plan.PAGE_BYTES})
    with placement.as_default():
        compiled = key.lower(programs.table, programs.weights, programs.state).compile()
    return compiled.as_text() or ""


def plan_decode(rows: int, context: int) -> StepPlan:
    """Return a decode step of rows with the same context, as far as the roofline looks at it."""
    none = np.zeros(0, np.int32)
    batch = DecodeBatch(tuple(range(rows)), (0,) * rows, none, (context - 1,) * rows, (), none, SampleMode.GREEDY)
    return StepPlan(decode=batch)


def plan_prefill(tokens: int) -> StepPlan:
    """Return a step with a whole prompt, as far as the roofline looks at it."""
    ids = np.zeros(tokens, np.int32)
    return StepPlan(chunks=(Chunk(0, 0, 0, 0, ids, (), ids[:0], SampleMode.GREEDY, True),))


def make_estimate(target: Target, config: Record, backend: str) -> Estimate:
    """Return a function of the seconds of a layer's attention in a program, on each of a machine's devices."""
    num = target.num_devices
    heads, kv_heads = config["num_attention_heads"] // num, max(1, config["num_key_value_heads"] // num)
    shape = (heads, kv_heads, config["head_dim"])
    has_sinks, max_tokens = config["model_type"] == "gpt_oss", config["max_position_embeddings"]
    if target.platform == "gpu":
        return lambda layers, key: _estimate_gpu(target, shape, layers.window, key, max_tokens, has_sinks)
    name = ",".join([*map(str, shape), *(["sinks"] if has_sinks else [])])
    chip, records = target.name.split("-")[0], list[Record]()

    def estimate(layers: AttentionCost, key: Any) -> float:
        if not records:
            records.extend(tpu_kernels.run_apart(chip, [name], [backend], ["decode", "prefill"]))
        return sum_cycles(records, key.rows, key.tokens, layers.window) / target.clock_hz

    return estimate


def sum_cycles(records: Sequence[Record], rows: int, tokens: int | None, window: int | None) -> float:
    """Return the cycles of a layer's kernels on a TPU. Prompts with a window are taken for such without.

    Raises ValueError if no record is of such a step.
    """
    if tokens is None:
        context = min(CONTEXT, window or CONTEXT)
        kinds = [each for each in records if each.get("rows") == rows and each.get("context") == context]
    else:
        kinds = [each for each in records if each["kind"] == "prefill" and each.get("tokens") == tokens]
    if not any("cycles" in each for each in kinds):
        why = next((each["why"] for each in records if "why" in each), "no such record")
        step = f"{rows} rows" if tokens is None else f"{tokens} tokens"
        raise ValueError(f"the kernels of {step} are not predicted: {why}")
    return sum(each["cycles"] for each in kinds)


def _estimate_gpu(
    target: Target, shape: tuple[int, int, int], window: int | None, key: Any, max_tokens: int, has_sinks: bool
) -> float:
    """Compile a layer's attention for a GPU and return its seconds, those between its two predictions for prompts."""
    gpu = GPUS[target.name.split("x")[0]]
    rows, columns, context = (key.rows, 1, CONTEXT) if key.tokens is None else (1, key.tokens, key.tokens)
    options = {} if window is None else {"window": window}
    case = gpu_kernels.Case(rows, columns, *shape, context, max_tokens, sinks=has_sinks, options=options)
    device = compile_plan.describe_placement(TARGETS[f"{gpu.name}x1"]).devices[0]
    with tempfile.TemporaryDirectory() as directory:
        kernels, _ = gpu_kernels.compile_case(case, gpu, device, Path(directory))
    predicted = [gpu_prediction.predict(kernel, case, gpu) for kernel in kernels]
    return seconds_of_gpu(next(each for each in predicted if "block_tokens" in each), case, gpu)


def seconds_of_gpu(record: Record, case: gpu_kernels.Case, gpu: Any) -> float:
    """Return the seconds of a layer's attention by what is predicted of its kernel."""
    if "needed_bytes" in record:
        return record["needed_bytes"] / gpu.bytes_per_s / record["share_with_launches"]
    seen = gpu_prediction.visible_keys(case, case.options.get("window"))
    least = 4 * case.rows * case.heads * case.head_dim * seen / gpu.flops_per_s
    return (least / record["share_serial"] + least / record["share_alternating"]) / 2


def run(targets: Sequence[str], models: Sequence[str], file: Path | None) -> int:
    """Predict for targets of one platform, print and keep the records; return 1 if a program does not compile."""
    platform, failed = TARGETS[targets[0]].platform, 0
    for model in models:
        for name in targets:
            records = list(predict_model(TARGETS[name], model))
            print(show_steps(records), flush=True)
            failed += sum("why" in record and record["step"] != "plan" for record in records)
            if file is not None:
                save(file, records, platform)
    return int(failed > 0)


def save(file: Path, records: list[Record], platform: str) -> None:
    """Write records into a file, instead of older ones of the same model and target."""
    known = json.loads(file.read_text()) if file.exists() else {"about": {"is_predicted": True}, "records": []}
    versions = known["about"].get("versions", {}) | {platform: compile_budgets.list_versions(platform)}
    known["about"] |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}
    merged = merge(known["records"], records)
    lines = ",\n".join(json.dumps(record) for record in merged)
    file.write_text(f'{{"about": {json.dumps(known["about"])},\n"records": [\n{lines}\n]}}\n')
