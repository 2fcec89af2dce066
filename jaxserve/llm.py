"""LLM: the blocking API for notebooks and scripts. Works inside a running event loop, too.

Its methods `generate`, `chat` and `stream` declare some thirty parameters each and have files of their own.
"""

from collections.abc import Sequence
from contextlib import closing
from html import escape
from typing import Any, Literal

from jaxserve.blocking_client import BlockingClient
from jaxserve.config import (
    DEFAULT_MODEL,
    EngineConfig,
    KVCacheDtype,
    PoolingChoice,
    QuantizationChoice,
    TaskChoice,
)
from jaxserve.engine_client import EngineClient
from jaxserve.engine_snapshot import StatsSnapshot
from jaxserve.llm_chat import chat as _chat
from jaxserve.llm_generate import generate as _generate
from jaxserve.llm_options import (
    check_keywords,
    engine_config,
    explain_engine_option,
)
from jaxserve.llm_pool import classify as _classify
from jaxserve.llm_pool import embed as _embed
from jaxserve.llm_pool import encode as _encode
from jaxserve.llm_pool import score as _score
from jaxserve.llm_stream import stream as _stream
from jaxserve.progress_bars import ProgressBars
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.tokenizer import Tokenizer


class LLM:
    """A language model in this process.

    >>> with LLM() as llm:
    ...     print(llm.chat("What is the capital of Japan?", temperature=0).text)

    Sampling options that are not set take the model's own defaults, as over HTTP. Where neither sets a length, a chat
    output ends after 1,024 tokens or when it repeats itself, and a continued text ends after 16 tokens.

    Several threads may use one LLM. `close`, or the end of a `with` block, returns its memory.
    """

    @check_keywords(explain_engine_option)
    def __init__(
        self,
        model: str | None = DEFAULT_MODEL,
        *,
        quiet: bool = False,
        tokenizer: str | None = None,
        revision: str | None = None,
        download_dir: str | None = None,
        hf_token: str | None = None,
        hf_overrides: dict[str, Any] | None = None,
        task: TaskChoice = "auto",
        pooling: PoolingChoice | None = None,
        matryoshka_dimensions: tuple[int, ...] = (),
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        quantization: QuantizationChoice = "auto",
        tensor_parallel_size: int = 1,
        data_parallel_size: int = 1,
        enable_expert_parallel: bool = False,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        num_scheduler_steps: int = 1,
        block_size: int | None = None,
        kv_cache_dtype: KVCacheDtype = "auto",
        gpu_memory_utilization: float = 0.92,
        kv_cache_memory_bytes: int | None = None,
        num_gpu_blocks_override: int | None = None,
        kv_offloading_size: float = 0.0,
        enable_prefix_caching: bool = True,
        kv_events_config: dict[str, Any] | None = None,
        enable_lora: bool = False,
        lora_modules: tuple[str, ...] = (),
        max_loras: int = 4,
        max_lora_rank: int = 16,
        attention_backend: str = "auto",
        seed: int | None = None,
        max_logprobs: int = 20,
        logprobs_mode: Literal["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"] = "raw_logprobs",
        enable_return_routed_experts: bool = False,
        chat_template: str | None = None,
        chat_template_content_format: Literal["auto", "string", "openai"] = "auto",
        tool_call_parser: str = "auto",
        reasoning_parser: str = "auto",
        enable_auto_tool_choice: bool = True,
        tool_strict_level: Literal["auto", "function", "parameter"] = "auto",
        structured_outputs_config: dict[str, Any] | None = None,
        template_timeout_s: float = 30.0,
        request_template_timeout_s: float = 5.0,
        grammar_compile_timeout_s: float = 5.0,
        grammar_cache_entries: int = 256,
        grammar_cache_bytes: int = 512 << 20,
        generation_config: str = "auto",
        override_generation_config: dict[str, Any] | None = None,
        max_num_queued_reqs: int | None = None,
        max_num_queued_tokens: int | None = None,
        compilation_cache_dir: str | None = None,
        programs: str | None = None,
        programs_sha256: str | None = None,
        batch_invariant: bool = False,
        roofline: bool = True,
        scheduling_policy: Literal["fcfs", "priority"] = "fcfs",
        overlap: bool = True,
        step_timeout_s: float = 120.0,
        profile_steps: str | None = None,
        profile_dir: str | None = None,
        allow_fault_injection: bool = False,
        fault: tuple[str, ...] = (),
    ) -> None:
        """Load a model and compile its programs. Blocks until the first request can be served.

        model   a directory in Hugging Face layout, a .gguf file, or a hub id; None is the default model
        quiet   show no progress bars, now and later

        The other parameters are the fields of EngineConfig, which describes them. Arguments of vLLM's LLM that change
        no output here are accepted.

        Raises BadConfig for an unknown or unusable argument, StartupError if the model cannot be served.
        """
        config = engine_config(locals())
        self._is_quiet = quiet
        with closing(ProgressBars()) as bars:
            self._blocking_client = BlockingClient(config, None if quiet else bars)
        self._config, self._description = self._client.config, self._client.description

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self._config.model!r}{'' if self._blocking_client.is_open else ', closed'})"

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows: the description as a table."""
        rows = "".join(
            f"| {name} | {escape(value).replace('|', '&#124;')} |\n" for name, value in self.description.items()
        )
        return f"| {'' if self._blocking_client.is_open else 'closed'} | |\n|---|---|\n{rows}"

    @property
    def config(self) -> EngineConfig:
        """The configuration as resolved: every limit is a number."""
        return self._config

    @property
    def description(self) -> dict[str, str]:
        """Facts about the loaded model for people, in the order to print them."""
        return self._description

    def get_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer. Raises EngineStopped after `close`."""
        return self._client.text.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the model's own sampling defaults. Raises EngineStopped after `close`."""
        return self._client.text.defaults.params

    generate = _generate
    chat = _chat
    stream = _stream
    embed = _embed
    score = _score
    classify = _classify
    encode = _encode

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text. Raises EngineStopped after `close`."""
        return self._client.text.prompts.encode(text, add_special_tokens=add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids. Raises EngineStopped after `close`."""
        return self._client.text.tokenizer.decode(token_ids)

    def stats(self) -> StatsSnapshot:
        """Return the engine's metrics. Raises EngineStopped after `close`."""
        return self._client.stats()

    def close(self) -> None:
        """End the engine and return its memory, the device's and the process's. Idempotent."""
        self._blocking_client.close()

    @property
    def _client(self) -> EngineClient:
        return self._blocking_client.client
