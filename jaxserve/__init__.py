"""The public names of the library. No module of the library imports through here.

LLM, AsyncLLM and other names that need JAX are imported on first use: a command line that prints its help, or a process
that only needs the error classes, does not wait for JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxserve.chat_output_spec import ChatOutputSpec, NamedTool, ToolChoice
from jaxserve.config import BUILD_FIELDS, DEFAULT_MODEL, EngineConfig
from jaxserve.engine_snapshot import HistogramSnapshot, InspectedEngine, StatsSnapshot
from jaxserve.errors import (
    AdapterNotFound,
    BadCheckpoint,
    BadConfig,
    EngineStopped,
    GenerationFailed,
    InvalidParameter,
    JaxServeError,
    OutOfMemory,
    Overloaded,
    PromptTooLong,
    RequestError,
    StartupError,
    UnknownArchitecture,
    Unsupported,
)
from jaxserve.exact_json import MAX_JSON_DIGITS, dump_exact_json, load_exact_json
from jaxserve.fair_threads import FairThreads
from jaxserve.lora_request import LoRARequest
from jaxserve.outputs import (
    Choice,
    ClassificationOutput,
    Completion,
    EmbeddingOutput,
    FinishReason,
    Logprob,
    OutputTimes,
    RenderedPrompt,
    ScoreOutput,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from jaxserve.pooling_params import PoolingParams
from jaxserve.prompt_input import ChatPrompt, TextPair, TextPrompt
from jaxserve.sampling_params import (
    MAX_LOGPROB_TOKEN_IDS,
    MAX_STOP_TOKEN_IDS,
    PARAMETER_RANGES,
    RepetitionDetection,
    SamplingParams,
    check_stop_strings,
)
from jaxserve.structured_outputs import StructuredOutputs

if TYPE_CHECKING:
    from jaxserve.adapter_registry import LoadedAdapter
    from jaxserve.admission import QueueSlot
    from jaxserve.async_llm import AsyncLLM
    from jaxserve.config_check import check_config
    from jaxserve.conversion import Conversion, convert_model
    from jaxserve.doctor import Finding, diagnose
    from jaxserve.layers.adapter import Adapter
    from jaxserve.llm import LLM
    from jaxserve.model_store import CacheEntry, list_cache, pull_model, remove_from_cache
    from jaxserve.models.pooling_spec import PoolingTask
    from jaxserve.parallel.placement import DeviceMemory
    from jaxserve.pooled_outputs import (
        check_dimensions,
        check_one_vector,
        compute_cosine,
        find_prompt,
        make_embedding,
        make_probabilities,
        pair_texts,
    )
    from jaxserve.preparation import Ready
    from jaxserve.program_directory import BuiltDirectory, build_programs
    from jaxserve.prompt_hasher import PromptHasher
    from jaxserve.router import PrefixRouter, PromptPages, hash_prompt

__version__ = "0.1.0"
_LAZY_EXPORTS = {
    "LLM": "jaxserve.llm",
    "Adapter": "jaxserve.layers.adapter",
    "LoadedAdapter": "jaxserve.adapter_registry",
    "AsyncLLM": "jaxserve.async_llm",
    "BuiltDirectory": "jaxserve.program_directory",
    "build_programs": "jaxserve.program_directory",
    "CacheEntry": "jaxserve.model_store",
    "Conversion": "jaxserve.conversion",
    "DeviceMemory": "jaxserve.parallel.placement",
    "QueueSlot": "jaxserve.admission",
    "PrefixRouter": "jaxserve.router",
    "PromptHasher": "jaxserve.prompt_hasher",
    "PromptPages": "jaxserve.router",
    "hash_prompt": "jaxserve.router",
    "Ready": "jaxserve.preparation",
    "Finding": "jaxserve.doctor",
    "PoolingTask": "jaxserve.models.pooling_spec",
    "check_dimensions": "jaxserve.pooled_outputs",
    "check_one_vector": "jaxserve.pooled_outputs",
    "compute_cosine": "jaxserve.pooled_outputs",
    "find_prompt": "jaxserve.pooled_outputs",
    "make_embedding": "jaxserve.pooled_outputs",
    "make_probabilities": "jaxserve.pooled_outputs",
    "pair_texts": "jaxserve.pooled_outputs",
    "list_cache": "jaxserve.model_store",
    "check_config": "jaxserve.config_check",
    "convert_model": "jaxserve.conversion",
    "diagnose": "jaxserve.doctor",
    "pull_model": "jaxserve.model_store",
    "remove_from_cache": "jaxserve.model_store",
}


def __getattr__(name: str) -> Any:
    """Import a name of _LAZY_EXPORTS on first use. Raises AttributeError for other names."""
    if name in _LAZY_EXPORTS:
        return getattr(import_module(_LAZY_EXPORTS[name]), name)
    raise AttributeError(f"module 'jaxserve' has no attribute {name!r}")


__all__ = [
    "BUILD_FIELDS",
    "DEFAULT_MODEL",
    "LLM",
    "MAX_JSON_DIGITS",
    "MAX_LOGPROB_TOKEN_IDS",
    "MAX_STOP_TOKEN_IDS",
    "PARAMETER_RANGES",
    "ChatOutputSpec",
    "ClassificationOutput",
    "EmbeddingOutput",
    "ScoreOutput",
    "ChatPrompt",
    "Adapter",
    "AdapterNotFound",
    "AsyncLLM",
    "BadCheckpoint",
    "BadConfig",
    "BuiltDirectory",
    "CacheEntry",
    "Choice",
    "Completion",
    "Conversion",
    "DeviceMemory",
    "EngineConfig",
    "EngineStopped",
    "FairThreads",
    "Finding",
    "FinishReason",
    "GenerationFailed",
    "HistogramSnapshot",
    "InspectedEngine",
    "InvalidParameter",
    "JaxServeError",
    "LoRARequest",
    "LoadedAdapter",
    "Logprob",
    "NamedTool",
    "OutOfMemory",
    "OutputTimes",
    "Overloaded",
    "PoolingParams",
    "PrefixRouter",
    "PromptHasher",
    "PromptPages",
    "PromptTooLong",
    "QueueSlot",
    "Ready",
    "RenderedPrompt",
    "RepetitionDetection",
    "RequestError",
    "SamplingParams",
    "StartupError",
    "StatsSnapshot",
    "StructuredOutputs",
    "TextDelta",
    "TextPair",
    "TextPrompt",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "UnknownArchitecture",
    "Unsupported",
    "Usage",
    "PoolingTask",
    "check_dimensions",
    "check_one_vector",
    "compute_cosine",
    "find_prompt",
    "hash_prompt",
    "make_embedding",
    "make_probabilities",
    "pair_texts",
    "list_cache",
    "build_programs",
    "check_config",
    "check_stop_strings",
    "convert_model",
    "diagnose",
    "pull_model",
    "remove_from_cache",
    "dump_exact_json",
    "load_exact_json",
]
