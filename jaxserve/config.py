"""Every knob of the library, frozen, units in the names. `resolve` turns "auto" into values.

The command line is made from this dataclass: a field's name is the flag, its metadata the help.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxserve.errors import BadConfig

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DEFAULT_MODEL = "smollm2-135m-instruct"
# Its file carries no generation config; these are the values its authors use in their model card.
DEFAULT_MODEL_GENERATION = {"temperature": 0.2, "top_p": 0.9}

ATTENTION_BACKENDS = ("auto", "reference", "cpu", "native", "gpu", "tpu")  # a test holds them against those there are
POSITIVE_FIELDS = (
    *("max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes", "num_gpu_blocks_override"),
    *("max_num_queued_reqs", "max_num_queued_tokens"),
)
# The keys of structured_outputs_config. The first two are hints to vLLM's choice among backends.
STRUCTURED_OUTPUTS_KEYS = {
    **{"backend": str, "disable_fallback": bool, "enable_in_reasoning": bool, "reasoning_parser": str},
    **{"disable_any_whitespace": bool, "disable_additional_properties": bool},
}

Quantization = Literal["none", "int8", "int4"]


def option(default: Any, help: str, *, group: str | None = None, is_secret: bool = False) -> Any:
    """A field with its command-line help.

    group       the heading under which --help shows this field and those behind it
    is_secret   the value is in no repr, so that no log can show it
    """
    metadata = {"help": help} if group is None else {"help": help, "group": group}
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    model: str = option(
        DEFAULT_MODEL,
        "a directory in Hugging Face layout, a .gguf file, a hub id, or nothing for SmolLM2",
        group="model",
    )
    tokenizer: str | None = option(None, "directory with tokenizer files, when not the model's own")
    revision: str | None = option(None, "branch, tag or commit of a hub model")
    download_dir: str | None = option(None, "where fetched models are kept; default: the user's cache directory")
    hf_token: str | None = option(
        None, "token for the hub; default: HF_TOKEN, or what its own login has stored", is_secret=True
    )
    hf_overrides: dict[str, Any] | None = option(None, "keys as JSON, over those of the model's config.json")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "type of weights and activations; auto: float32 on CPU, bfloat16 on GPU and TPU"
    )
    quantization: Quantization = option(
        "none",
        "how weights are packed: int8, or int4 with the token tables in int8; on CPU and in float32 only, where"
        " activations become int8 inside every product",
    )
    max_model_len: int | None = option(
        None, "longest prompt plus answer in tokens; -1: what fits; default: the model's own", group="cache and batches"
    )
    max_num_seqs: int | None = option(None, "most requests in one decode batch; default: by device")
    max_num_batched_tokens: int | None = option(None, "tokens one step may compute; default: by device")
    block_size: int = option(16, "tokens in a page of the key-value cache")
    gpu_memory_utilization: float = option(0.92, "share of device memory for weights, pages and scratch")
    kv_cache_memory_bytes: int | None = option(None, "size of the key-value cache, instead of the share above")
    num_gpu_blocks_override: int | None = option(None, "number of key-value pages, instead of a size")
    enable_prefix_caching: bool = option(True, "find full pages of known prefixes again")
    attention_backend: str = option(
        "auto", f"how attention is computed: {', '.join(ATTENTION_BACKENDS)}", group="computing"
    )
    seed: int | None = option(
        None, "makes the seeds of requests without one repeatable, in order of arrival; default: fresh"
    )
    max_logprobs: int = option(
        20, "most alternatives a request may ask for at one position; -1: any number", group="sampling"
    )
    logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = option(
        "raw_logprobs", "which numbers log-probabilities are: raw or after all of the sampling, normalised or not"
    )
    chat_template: str | None = option(
        None, "a Jinja file or text, instead of the checkpoint's template", group="text, tools and reasoning"
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = option(
        "auto", "how message content reaches the template"
    )
    tool_call_parser: str = option(
        "auto", "how tool calls are written: auto (found in the checkpoint), none, or a parser's name"
    )
    reasoning_parser: str = option("auto", "how reasoning is told from content: auto, none, or a parser's name")
    enable_auto_tool_choice: bool = option(True, "let the model choose whether to call a tool")
    tool_strict_level: Literal["auto", "function", "parameter"] = option(
        "auto",
        "what is enforced of calls that the model chooses to make: auto: the schemas of strict tools; function: also"
        " the names; parameter: all schemas, as if every tool were strict",
    )
    structured_outputs_config: dict[str, Any] | None = option(
        None,
        "defaults of structured answers as JSON: disable_any_whitespace, disable_additional_properties; also"
        " reasoning_parser, where the flag is auto; backend is a hint, llguidance enforces all",
    )
    template_timeout_s: float = option(30.0, "seconds in which the chat template must have written a prompt")
    request_template_timeout_s: float = option(5.0, "the same for a template that came with a request")
    generation_config: str = option(
        "auto",
        "sampling defaults: auto (the model's file), vllm (none), or a directory holding the file",
        group="generation defaults",
    )
    override_generation_config: dict[str, Any] | None = option(
        None, "sampling defaults as JSON, over those of the file"
    )
    max_num_queued_reqs: int | None = option(
        None, "most unfinished requests before 503; default: 8 x max-num-seqs, at least 1024", group="queue"
    )
    max_num_queued_tokens: int | None = option(
        None, "most prompt tokens waiting before 503; default: 8 x the cache's tokens"
    )
    compilation_cache_dir: str | None = option(
        None,
        "where compiled programs are kept; default: the user's cache directory; 'none' switches it off",
        group="programs",
    )
    batch_invariant: bool = option(
        False, "the same bits for a request alone, in a crowd, cached, preempted; every step is one large batch"
    )
    roofline: bool = option(True, "measure the machine at the start; /metrics then says how near to its limits it runs")
    scheduling_policy: Literal["fcfs", "priority"] = option(
        "fcfs", "who goes first: fcfs, or priority: by the requests' priority, lower first"
    )
    overlap: bool = option(True, "plan the next step while the device still runs this one")

    def __post_init__(self) -> None:
        self._check_structured_outputs()
        if self.block_size < 1 or self.block_size & (self.block_size - 1):
            raise BadConfig(f"block_size must be a power of two, got {self.block_size}; 16 is usual.")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise BadConfig(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}.")
        if self.max_logprobs < -1:
            raise BadConfig(f"max_logprobs must be at least 0, or -1 for no limit, got {self.max_logprobs}.")
        for name in POSITIVE_FIELDS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadConfig(f"{name} must be at least 1, got {value}.")
        if self.quantization != "none" and self.dtype == "bfloat16":
            raise BadConfig(
                f"quantization={self.quantization!r} computes in float32, not bfloat16; try --dtype float32, or auto."
            )
        for name in ("template_timeout_s", "request_template_timeout_s"):
            if not getattr(self, name) > 0:
                raise BadConfig(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.max_model_len is not None and self.max_model_len < 1 and self.max_model_len != -1:
            raise BadConfig(f"max_model_len must be at least 1, or -1 for what fits, got {self.max_model_len}.")

    @property
    def requested_reasoning_parser(self) -> str:
        """`reasoning_parser`, or what structured_outputs_config says where that is auto."""
        inner = (self.structured_outputs_config or {}).get("reasoning_parser")
        return inner if inner and self.reasoning_parser == "auto" else self.reasoning_parser

    def _check_structured_outputs(self) -> None:
        options = self.structured_outputs_config or {}
        for name, value in options.items():
            kind = STRUCTURED_OUTPUTS_KEYS.get(name)
            if kind is None:
                known = ", ".join(STRUCTURED_OUTPUTS_KEYS)
                raise BadConfig(f"structured_outputs_config has {name!r}, which is not known; known are {known}.")
            if not isinstance(value, kind):
                raise BadConfig(f"structured_outputs_config: {name} must be a {kind.__name__}, got {value!r}.")
        if options.get("enable_in_reasoning"):
            raise BadConfig(
                "structured_outputs_config: enable_in_reasoning is not served, a constraint holds for what follows the"
                " reasoning; leave it out."
            )


def cache_dir(name: str) -> Path:
    """The user's cache directory for `name`: XDG_CACHE_HOME or ~/.cache, then jaxserve/name."""
    import os

    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "jaxserve" / name
