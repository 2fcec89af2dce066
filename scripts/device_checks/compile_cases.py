"""Which programs `scripts/device compile --short` compiles: few, and each for a reason."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Case:
    """Programs of a model on a target.

    programs   Beginnings of their names; none: those that were asked for.
    layers     As of --layers; None: as asked for.
    settings   Other options.
    """

    target: str
    model: str
    programs: tuple[str, ...] = ()
    layers: int | None = None
    quantization: str | None = None
    kv_cache_dtype: str | None = None

    def refine(self, options: Any) -> Any:
        """Return the options with those of this case."""
        names = ("programs", "layers", "quantization", "kv_cache_dtype")
        own = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        return replace(options, **own)


def cases_of(targets: Sequence[str], models: Sequence[str]) -> list[Case]:
    """Return the cases of all models on all targets."""
    return [Case(target, model) for target in targets for model in models]


# What is compiled if no target is named: one of a kind is enough where only kernels differ.
DEFAULT_TARGETS = (
    *("cpu", "v5e-1", "v5e-4", "v5e-8", "v5p-8", "v6e-1", "v6e-4", "v6e-8"),
    *("h100x1", "h100x8", "h200x1", "h200x8", "b200x1", "a100x1", "l4x1"),
)
# Of which the time of steps is predicted.
STEP_TARGETS = (
    *("v5e-1", "v5e-4", "v5e-8", "v5p-8", "v6e-1", "v6e-4", "v6e-8"),
    *("h100x1", "h100x8", "h200x1", "h200x8"),
)
STEP_MODELS = ("Qwen3-0.6B", "Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-30B-A3B", "Gemma-3-27B", "gpt-oss-20b")
SHORT = (
    # The sampler is the same for all models with so large a vocabulary, and so are copies.
    Case("v5e-1", "Qwen3-0.6B", ("decode 128", "prefill 512", "sample 128 SAMPLE", "sample 128 PROC", "copy", "score")),
    Case("v6e-1", "Llama-3.1-8B", ("decode 32",)),
    Case("v6e-4", "Llama-3.1-8B", ("decode 128",)),  # collectives
    Case("v5p-8", "Gemma-3-27B", ("decode 128",)),  # two cache groups
    Case("h200x1", "Llama-3.1-8B", ("decode 32", "decode 256", "prefill 2048", "sample 256", "copy", "score")),
    Case("h200x1", "Llama-3.1-8B", ("decode 32", "prefill 512"), layers=1, quantization="int4"),
    Case("h200x1", "gpt-oss-20b", ("decode 32", "prefill 512")),  # sinks, windows, experts, heads of 64
    Case("h100x8", "Llama-3.1-70B", ("decode 256",)),  # collectives
    Case("h100x8", "Qwen3-30B-A3B", ("decode 32",), layers=1),  # parts of experts
    Case("a100x1", "Qwen3-0.6B", ("decode 32", "prefill 512")),  # other tensor cores
    Case("l4x1", "Qwen3-0.6B", ("decode 32", "prefill 512")),  # less shared memory
)
