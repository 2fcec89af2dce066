"""EngineConfig: all settings of the library, with units in their names.

The command line is made from this dataclass: a field's name is the flag, its metadata the help.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxserve.errors import BadConfig

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DEFAULT_MODEL = "smollm2-135m-instruct"
# Its file carries no generation config; these are the values its authors use in their model card.
DEFAULT_MODEL_GENERATION = {"temperature": 0.2, "top_p": 0.9}

# A test compares them with attention/.
ATTENTION_BACKENDS = ("auto", "reference", "cpu", "native", "gpu", "mosaic", "tpu")
POSITIVE_FIELDS = (
    *(
        "tensor_parallel_size",
        "data_parallel_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_cache_memory_bytes",
        "num_gpu_blocks_override",
    ),
    *("max_num_queued_reqs", "max_num_queued_tokens", "grammar_cache_entries", "grammar_cache_bytes"),
    *("max_loras", "max_lora_rank", "num_scheduler_steps"),
)
# What `jaxserve build` takes: all that the programs of an engine depend on, and where its model comes from.
BUILD_FIELDS = (
    *("model", "revision", "download_dir", "hf_token", "hf_overrides", "dtype", "quantization", "num_scheduler_steps"),
    *("tensor_parallel_size", "data_parallel_size", "enable_expert_parallel", "max_model_len", "max_num_seqs"),
    *("max_num_batched_tokens", "block_size", "kv_cache_dtype", "gpu_memory_utilization", "kv_cache_memory_bytes"),
    *("num_gpu_blocks_override", "kv_offloading_size", "enable_prefix_caching", "enable_lora", "max_loras"),
    *("max_lora_rank", "attention_backend", "max_logprobs", "logprobs_mode", "enable_return_routed_experts"),
    *("batch_invariant", "task", "pooling"),
)
# The keys of structured_outputs_config and their types. In vLLM the first two choose among backends.
STRUCTURED_OUTPUTS_KEYS = {
    **{"backend": str, "disable_fallback": bool, "enable_in_reasoning": bool, "reasoning_parser": str},
    **{"disable_any_whitespace": bool, "disable_additional_properties": bool},
}

Quantization = Literal["none", "int8", "int4", "fp8", "blocks"]
KVCacheDtype = Literal["auto", "bfloat16", "float16", "float32", "int8", "fp8", "fp8_e4m3", "fp8_e5m2"]
TaskChoice = Literal["auto", "generate", "pool", "embed", "score", "classify"]
PoolingChoice = Literal["LAST", "MEAN", "CLS", "ALL"]
QuantizationChoice = Literal["auto", "none", "int8", "int4", "fp8", "blocks"]


def option(default: Any, help: str, *, group: str | None = None, is_secret: bool = False) -> Any:
    """Return a dataclass field with its command-line help.

    group       heading under which --help shows this field and those behind it
    is_secret   leave the value out of repr, so that no log can show it
    """
    metadata = {"help": help} if group is None else {"help": help, "group": group}
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Configuration of one engine. Every field is a parameter of LLM and a flag of `jaxserve serve`, with this help.

    Fields whose default depends on the device or on the model are None here and numbers in the `config` of a loaded
    LLM or AsyncLLM.

    Raises BadConfig if a value is out of its range, or if two values contradict each other.
    """

    model: str = option(
        DEFAULT_MODEL,
        "The model is a directory in Hugging Face layout, a .gguf file, or a hub id.",
        group="model",
    )
    tokenizer: str | None = option(
        None, "The tokenizer's files are in this directory or .gguf file (default: those of the model)."
    )
    revision: str | None = option(None, "A hub model is fetched at this branch, tag or commit (default: main).")
    download_dir: str | None = option(
        None, "Fetched models are kept in this directory (default: the user's cache directory)."
    )
    hf_token: str | None = option(
        None,
        "The hub is asked with this token (default: HF_TOKEN, or the token that its login has stored).",
        is_secret=True,
    )
    hf_overrides: dict[str, Any] | None = option(
        None, "These keys, as JSON, override those of the model's config.json."
    )
    task: TaskChoice = option(
        "auto",
        "The model is served for this task: generate texts, or pool, which is to embed them, to score pairs of them or"
        " to classify them; pool is what the files say, or else embed, and auto what they say, or else generate.",
    )
    pooling: PoolingChoice | None = option(
        None,
        "An embedding is the vector of the LAST token, of the first (CLS), the MEAN of all, or ALL of them, one for"
        " each token (default: as the model's files say).",
    )
    matryoshka_dimensions: tuple[int, ...] = option(
        (), "Embeddings may be cut to these lengths (default: those in the model's config.json)."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "Weights and activations have this type; auto is float32 on CPU and bfloat16 on GPU and TPU."
    )
    quantization: QuantizationChoice = option(
        "auto",
        "Weights are packed as int8, as fp8, or as int4 with the token embeddings in int8; none unpacks everything;"
        " auto keeps what a quantised checkpoint or a .gguf file has packed, with its own codes, where the device"
        " multiplies it, and unpacks the rest. CPUs have int8, int4 and blocks, those of a .gguf file as they are,"
        " compute in float32 and round activations to int8 inside every product; GPUs and TPUs have int8, fp8 and int4,"
        " with a scale for each output or group of inputs, but fp8 on GPUs from Hopper on only.",
    )
    tensor_parallel_size: int = option(
        1,
        "So many devices hold the weights and the cache of one replica together; the number must divide the model's"
        " heads. A CPU counts as so many devices, which share its cores.",
        group="devices",
    )
    data_parallel_size: int = option(
        1, "So many replicas of the model, each on devices of its own, share the requests."
    )
    enable_expert_parallel: bool = option(
        False, "Each device of a replica holds some whole experts instead of a part of every expert."
    )
    max_model_len: int | None = option(
        None,
        "A prompt and its output have at most this many tokens together; -1 is as many as the cache holds (default: the"
        " model's own length, or as many as the cache holds if those are at least 2048). A model with LongRoPE"
        " positions uses its long factors for every request if this is more than the length it was first trained on,"
        " else its short ones.",
        group="cache and batches",
    )
    max_num_seqs: int | None = option(
        None,
        "One decode batch has at most this many sequences (default: 32 on a CPU, 128 on a TPU, 64 on an L4 or L40, 256"
        " on other GPUs).",
    )
    max_num_batched_tokens: int | None = option(
        None,
        "One step computes at most this many tokens (default: one for each sequence and a prompt chunk of 256 on a CPU,"
        " 512 on an L4 or L40, 1024 on a TPU v5e or an A100, 2048 on other TPUs and GPUs).",
    )
    num_scheduler_steps: int = option(
        1,
        "A decode step computes up to this many tokens of each sequence in one program, without the host in between:"
        " for small models on TPUs. They are the same tokens, and arrive together; a new prompt waits for the step."
        " While one has a mask (grammar, min_tokens, bad_words …) or log-probabilities, all get one token a step.",
    )
    block_size: int | None = option(
        None,
        "A page of the key-value cache holds this many tokens, a power of two (default: 16; on a TPU at least 32, or"
        " 128 of 8 bits: as many as it takes for the page tables of all sequences to fit, and up to 256, or a prompt"
        " chunk, for a page to have 64 KiB in each layer, on v5e 32 KiB).",
    )
    kv_cache_dtype: KVCacheDtype = option(
        "auto",
        "Keys and values are stored as numbers of this type; auto is the type of the activations, fp8 is fp8_e4m3. int8"
        " and fp8 take half the memory of bfloat16, and a scale for each token and head; answers change a little. The"
        " attention backend tpu alone has no such scales: it stores fp8 without any, and no int8."
        " States of recurrent layers keep their type, and latent vectors (DeepSeek) cannot have 8 bits.",
    )
    gpu_memory_utilization: float = option(
        0.92, "Weights, pages and temporary arrays may use this share of the device memory, above 0 and at most 1."
    )
    kv_cache_memory_bytes: int | None = option(
        None, "The key-value cache has this many bytes (default: what gpu_memory_utilization leaves)."
    )
    num_gpu_blocks_override: int | None = option(
        None, "The key-value cache has this many pages (default: as many as fit its memory)."
    )
    kv_offloading_size: float = option(
        0.0,
        "So many GiB of host memory hold the prefix cache's snapshots of recurrent states that the device has no room"
        " for. Pages of keys and values are not offloaded.",
    )
    enable_prefix_caching: bool = option(True, "Full pages are reused by later prompts that begin alike.")
    kv_events_config: dict[str, Any] | None = option(
        None,
        "What the prefix cache gets and loses is published over ZeroMQ as vLLM does, for routers, with these settings,"
        " as JSON: enable_kv_cache_events, publisher (zmq or null), endpoint, replay_endpoint, buffer_steps, hwm,"
        " max_queue_size and topic. A replica's rank is added to the ports. Whoever can reach an endpoint reads the"
        " tokens of all prompts.",
    )
    enable_lora: bool = option(
        False,
        "Requests may name adapters (LoRA), which change the weights for them alone. Programs for batches with adapters"
        " are compiled beside the others.",
        group="adapters",
    )
    lora_modules: tuple[str, ...] = option(
        (),
        'These adapters are read at the start, each as name=directory or as JSON {"name": …, "path": …}; they switch'
        " enable_lora on.",
    )
    max_loras: int = option(
        4, "One step has requests of at most this many adapters; those of further ones wait, and take turns."
    )
    max_lora_rank: int = option(16, "The rank of an adapter is at most this.")
    attention_backend: str = option(
        "auto",
        f"Attention is computed by this backend: {', '.join(ATTENTION_BACKENDS)}. On a TPU auto is mosaic, kernels of"
        " ours, or tpu, which is JAX's own, before v5 and for pages or page tables that they do not hold; not for pages"
        " of 8 bits.",
        group="computing",
    )
    seed: int | None = option(
        None,
        "Requests without a seed get one from a generator with this seed, in the order of their arrival (default: seeds"
        " from the system).",
    )
    max_logprobs: int = option(
        20, "A request may ask for at most this many log-probabilities a token; -1 is any number.", group="sampling"
    )
    logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = option(
        "raw_logprobs",
        "Log-probabilities are computed before (raw) or after (processed) the sampling parameters are applied,"
        " normalized (logprobs) or not (logits).",
    )
    enable_return_routed_experts: bool = option(
        False,
        "Answers bring the experts that the model has chosen for their tokens, of a model with experts. These are kept"
        " for all tokens of the cache, a byte (two with more than 256 experts) of host memory for each.",
    )
    chat_template: str | None = option(
        None,
        "This Jinja template, a file or the text itself, replaces the model's own.",
        group="text, tools and reasoning",
    )
    chat_template_content_format: Literal["auto", "string", "openai"] = option(
        "auto",
        "The template sees message content as one string or as OpenAI's list of parts; auto looks at the template.",
    )
    tool_call_parser: str = option(
        "auto", "Tool calls are parsed by this dialect; auto finds it in the model's files, none parses no calls."
    )
    reasoning_parser: str = option(
        "auto", "Reasoning is separated from content by this dialect; auto finds it in the model's files."
    )
    enable_auto_tool_choice: bool = option(
        True, "With tools and no tool_choice, the model chooses whether to call one."
    )
    tool_strict_level: Literal["auto", "function", "parameter"] = option(
        "auto",
        "Of calls that the model chooses to make, these parts are enforced: the schemas of strict tools (auto), the"
        " names as well (function), or all schemas, as if every tool were strict (parameter).",
    )
    structured_outputs_config: dict[str, Any] | None = option(
        None,
        "Structured outputs have these defaults, as JSON: disable_any_whitespace, disable_additional_properties, and"
        " reasoning_parser, which applies if that flag is auto; backend is accepted, llguidance enforces all.",
    )
    template_timeout_s: float = option(
        30.0, "The model's chat template must have rendered a prompt within this many seconds."
    )
    request_template_timeout_s: float = option(
        5.0, "A chat template that came with a request must have rendered its prompt within this many seconds."
    )
    grammar_compile_timeout_s: float = option(
        5.0, "The grammar of a request must be compiled within this many seconds, by a worker process."
    )
    grammar_cache_entries: int = option(256, "Compiled grammars are kept for later requests: at most this many,")
    grammar_cache_bytes: int = option(512 * MIB, "and at most this many bytes of memory.")
    generation_config: str = option(
        "auto",
        "Sampling defaults come from the model's generation_config.json (auto), from nowhere (vllm), or from that file"
        " in the given directory.",
        group="generation defaults",
    )
    override_generation_config: dict[str, Any] | None = option(
        None, "These sampling defaults, as JSON, override those of the file."
    )
    max_num_queued_reqs: int | None = option(
        None,
        "With this many unfinished requests a further one is refused with 503 (default: 8 x max-num-seqs, at least"
        " 1024).",
        group="queue",
    )
    max_num_queued_tokens: int | None = option(
        None,
        "With this many prompt tokens waiting a further request is refused with 503 (default: 8 x the cache's tokens).",
    )
    compilation_cache_dir: str | None = option(
        None,
        "Compiled programs, and on a GPU what XLA's autotuner measured, are kept in this directory; none keeps nothing"
        " (default: the user's cache directory).",
        group="programs",
    )
    programs: str | None = option(
        None,
        "Programs are loaded from this directory, which `jaxserve build` has written, and nothing is compiled; if they"
        " are for another machine, version or setting, the log says what differs and they are compiled as usual. The"
        " cache has the size that they were built for, unless a flag says another.",
    )
    programs_sha256: str | None = option(
        None, "The manifest of that directory must have this digest, which `jaxserve build` has shown."
    )
    batch_invariant: bool = option(
        False,
        "A request gets the same bits whatever runs beside it, from the cache or after a preemption; every step then"
        " costs as much as the largest batch.",
    )
    roofline: bool = option(
        True, "The machine's speed is measured at the start; /metrics then shows how near to it the engine runs."
    )
    scheduling_policy: Literal["fcfs", "priority"] = option(
        "fcfs", "Requests start in the order of arrival (fcfs) or of their priority, lowest first (priority)."
    )
    overlap: bool = option(True, "The next step is planned while the device still computes this one.")
    step_timeout_s: float = option(
        120.0,
        "A step that takes longer than this many seconds is stuck: the engine is dead, and a server exits with 70.",
    )
    profile_steps: str | None = option(
        None,
        "These steps of the engine, first:last, are traced by JAX's profiler (100:110 traces ten steps); the log says"
        " where the trace is.",
    )
    profile_dir: str | None = option(
        None, "Traces are written to this directory (default: profiles in the user's cache directory)."
    )
    allow_fault_injection: bool = option(False, "The faults of --fault are injected. For tests only.")
    fault: tuple[str, ...] = option(
        (),
        "This fault is injected: point@n, point@label or one of them with :argument, such as step_raise@3"
        " (jaxserve/faults.py).",
    )

    def __post_init__(self) -> None:
        self._check_structured_outputs()
        _ = self.profiled_steps, self.adapters
        if self.block_size is not None and (self.block_size < 1 or self.block_size & (self.block_size - 1)):
            raise BadConfig(f"block_size must be a power of two, got {self.block_size}; 16 is usual.")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise BadConfig(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}.")
        if self.max_logprobs < -1:
            raise BadConfig(f"max_logprobs must be at least 0, or -1 for no limit, got {self.max_logprobs}.")
        if not 0 <= self.kv_offloading_size < float("inf"):
            raise BadConfig(f"kv_offloading_size must be a number of GiB from 0 on, got {self.kv_offloading_size}.")
        if self.programs_sha256 is not None and self.programs is None:
            raise BadConfig(f"programs_sha256={self.programs_sha256!r} is of a directory of programs; give programs.")
        for name in POSITIVE_FIELDS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadConfig(f"{name} must be at least 1, got {value}.")
        timeouts = ("template_timeout_s", "request_template_timeout_s", "grammar_compile_timeout_s", "step_timeout_s")
        for name in timeouts:
            if not getattr(self, name) > 0:
                raise BadConfig(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.num_scheduler_steps > 1 and self.batch_invariant:
            raise BadConfig(
                f"num_scheduler_steps={self.num_scheduler_steps} has programs of its own, and batch_invariant one for"
                " all rows; leave one of them out."
            )
        if self.fault and not self.allow_fault_injection:
            raise BadConfig(f"fault={self.fault} needs allow_fault_injection, which is for tests only.")
        if self.max_model_len is not None and self.max_model_len < 1 and self.max_model_len != -1:
            raise BadConfig(f"max_model_len must be at least 1, or -1 for what fits, got {self.max_model_len}.")

    @property
    def page_size(self) -> int:
        """The `block_size` of a resolved configuration, which has one."""
        assert self.block_size is not None
        return self.block_size

    @property
    def adapters(self) -> tuple["LoRAModule", ...]:
        """The adapters of `lora_modules`. Raises BadConfig if one of them cannot be understood."""
        modules = tuple(map(parse_lora_module, self.lora_modules))
        names = [module.name for module in modules]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadConfig(f"lora_modules has the name {twice[0]!r} twice; each adapter has its own.")
        return modules

    @property
    def has_adapters(self) -> bool:
        """Whether requests may have adapters."""
        return self.enable_lora or bool(self.lora_modules)

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """First traced step, and the first behind them that is not. Raises BadConfig unless they are in this order."""
        if self.profile_steps is None:
            return None
        first, colon, last = self.profile_steps.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise BadConfig(
                f"profile_steps={self.profile_steps!r} does not say which steps: write first:last, such as 100:110."
            )
        return int(first), int(last)

    @property
    def requested_reasoning_parser(self) -> str:
        """The `reasoning_parser`, or that of structured_outputs_config if it is auto."""
        nested = (self.structured_outputs_config or {}).get("reasoning_parser")
        return nested if nested and self.reasoning_parser == "auto" else self.reasoning_parser

    def _check_structured_outputs(self) -> None:
        options = self.structured_outputs_config or {}
        for name, value in options.items():
            expected = STRUCTURED_OUTPUTS_KEYS.get(name)
            if expected is None:
                known = ", ".join(STRUCTURED_OUTPUTS_KEYS)
                raise BadConfig(f"structured_outputs_config has {name!r}, which is not known; known are {known}.")
            if not isinstance(value, expected):
                raise BadConfig(f"structured_outputs_config: {name} must be a {expected.__name__}, got {value!r}.")
        if options.get("enable_in_reasoning"):
            raise BadConfig(
                "structured_outputs_config: enable_in_reasoning is not served, a constraint holds for what follows the"
                " reasoning; leave it out."
            )


@dataclass(frozen=True, slots=True)
class LoRAModule:
    """An adapter by its name.

    path        The directory of its files.
    base_name   The served name of the model that it changes, for clients; None: the first.
    """

    name: str
    path: str
    base_name: str | None = None


def parse_lora_module(text: str) -> LoRAModule:
    """Return the adapter of a value of lora_modules. Raises BadConfig if it is neither name=directory nor JSON."""
    if not text.lstrip().startswith("{"):
        name, equals, path = text.partition("=")
        if name and equals and path:
            return LoRAModule(name, path)
        raise BadConfig(f"lora_modules: {text!r} must be name=directory, like sql=adapters/sql.")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadConfig(f"lora_modules: {text!r} is not JSON: {error}.") from None
    unknown = sorted(value.keys() - {"name", "path", "base_model_name"})
    if unknown:
        raise BadConfig(f"lora_modules has the key {unknown[0]!r}; known are name, path and base_model_name.")
    words = [value.get("name"), value.get("path"), value.get("base_model_name") or "base"]
    if not all(isinstance(word, str) and word for word in words):
        raise BadConfig(f'lora_modules: {text!r} must have texts, like {{"name": "sql", "path": "adapters/sql"}}.')
    return LoRAModule(value["name"], value["path"], value.get("base_model_name"))


def cache_dir(name: str) -> Path:
    """Return the user's cache directory for `name`: jaxserve/name under XDG_CACHE_HOME or ~/.cache."""
    import os

    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "jaxserve" / name
