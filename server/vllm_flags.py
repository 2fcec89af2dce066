"""The table of all flags of `vllm serve`: those of vLLM 0.33, and those that it has removed since 0.6.

A flag that is not in the table is one that jaxserve has, too (with the same meaning), or unknown. The rule: a flag that
only says how vLLM computes (graphs, kernels, loading, placement on several devices) has no effect, which is reported
once at the start; a flag that would change answers, formats, security, endpoints or metrics is an alias of one of
jaxserve's, or refused with the reason and with what to use instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Arity = Literal["nothing", "value", "values", "optional"]


@dataclass(frozen=True, slots=True)
class VllmFlag:
    """A flag of vLLM that jaxserve does not have under this name.

    name         without the dashes in front
    arity        how many words follow it
    alias_of     the flag of jaxserve with the same meaning, `no-…` if with the opposite one; None: there is none
    is_refused   it stops the start, unless its value is one of `neutral`
    reason       why it is refused or has no effect, as the user is told
    neutral      values that ask for what is done anyway, accepted without a note; of a switch: true or false
    """

    name: str
    arity: Arity
    alias_of: str | None = None
    is_refused: bool = False
    reason: str = ""
    neutral: frozenset[str] = frozenset()


def _alias(target: str, **names: str) -> Iterator[VllmFlag]:
    for name, arity in _expand(**names):
        yield VllmFlag(name, arity, alias_of=target)


def _no_effect(reason: str, **names: str) -> Iterator[VllmFlag]:
    for name, arity in _expand(**names):
        yield VllmFlag(name, arity, reason=reason, neutral=frozenset(["false"] if arity == "nothing" else []))


def _refused(reason: str, *, unless: str = "", **names: str) -> Iterator[VllmFlag]:
    """Make refused flags. unless: values that are accepted, separated by spaces; a switch that is off always is."""
    for name, arity in _expand(**names):
        accepted = frozenset(["false"]) if arity == "nothing" and not unless else frozenset(unless.split())
        yield VllmFlag(name, arity, is_refused=True, reason=reason, neutral=accepted)


def _expand(*, switch: str = "", value: str = "", values: str = "", optional: str = "") -> Iterator[tuple[str, Arity]]:
    """Yield each name with its arity. The arguments are names, separated by spaces, of flags of one arity."""
    by_arity: tuple[tuple[Arity, str], ...]
    by_arity = (("nothing", switch), ("value", value), ("values", values), ("optional", optional))
    for arity, names in by_arity:
        for name in names.split():
            yield name, arity


# Forms of checkpoints, which the files themselves tell. For `fp8` vLLM packs plain weights itself, as is done here.
CHECKPOINT_FORMS = (
    *("gguf", "awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "fbgemm_fp8", "modelopt"),
    *("modelopt_fp4", "quark", "auto-round", "mxfp4"),
)
# Flag of jaxserve → value that vLLM has for it → value of jaxserve; None: it has no effect, and the flag is left out.
VALUE_ALIASES: dict[str, dict[str, str | None]] = {
    "log-level": {"trace": "debug", **{level.upper(): level for level in ("debug", "info", "warning", "error")}},
    "dtype": {"float": "float32"},
    "task": {"embedding": "embed", "pooling": "pool", "none": None},
    "quantization": {"None": "auto", **dict.fromkeys(CHECKPOINT_FORMS)},
}
# Flag of jaxserve → why any value but its own choices is refused.
REFUSED_VALUE_REASONS = {
    "dtype": "float16 is not computed here; bfloat16 is as small, float32 exact, and auto chooses between them",
    "task": "models that reward, transcribe or draft are not served",
    "kv-cache-dtype": "scales are those of each token and head, whatever the format",
    "quantization": "the form of a checkpoint is read from its files, without this flag, and int8, int4 or fp8 pack its"
    " weights here",
}

_PLACEMENT = "devices are divided by --tensor-parallel-size and --data-parallel-size alone, in one process"
_COMPILED = "there are no CUDA graphs and no torch.compile; all programs are compiled before the server is ready"
KERNELS_REASON = "it chooses among kernels that are vLLM's own"
_LOADING = "weights are read in one way, straight to the device"
_TEXT_ONLY = "only text is read here, and a request with anything else gets a 400"
_NO_SUCH_LAYERS = "it is for layers that no model served here has"
_ADAPTERS = "adapters are read once and kept in memory, and their factors are divided as the weights are"
_NO_ADAPTERS = "adapters of that kind are not served; merge them into the weights and serve those"
_NO_DRAFTS = "there is no speculative decoding; leave it out, the answers are the same"
_NO_MODULES = "the engine loads no code by its name"
_SCHEDULING = "the scheduler has its own rule for that; --max-num-batched-tokens bounds a step"
_MANY_SERVERS = "one process serves all replicas of --data-parallel-size; leave it out"
_FOUND = "the Hugging Face files of the model are read"
_LOGGED = "neither prompts nor answers are ever logged"
_ONLY_TEXT = "only models that generate texts or pool them are served"
_POOLING = "--pooling and --matryoshka-dimensions say how a model pools, where its own files do not"
_NO_OFFLOAD = "weights and cache stay on the device; --quantization int8 makes weights smaller"
_NO_ROUTES = "the server has no routes of that kind"
_NOT_MEASURED = "it is not measured; /metrics shows what is"

_ROWS: tuple[Iterator[VllmFlag], ...] = (
    # Aliases
    _alias("log-level", value="uvicorn-log-level"),
    _alias("drain-timeout-s", value="shutdown-timeout"),
    _alias("max-header-bytes", value="h11-max-incomplete-event-size"),
    _alias("max-headers", value="h11-max-header-count"),
    _alias("gpu-memory-utilization", value="device-memory-utilization"),
    _alias("overlap", switch="async-scheduling"),
    _alias("no-overlap", switch="disable-async-output-proc"),
    _alias("disable-access-log", switch="disable-uvicorn-access-log"),
    _alias("no-enable-log-requests", switch="disable-log-requests"),
    # How vLLM computes
    _no_effect(
        _COMPILED,
        switch="enforce-eager cudagraph-metrics full-cuda-graph jit-monitor-verbose",
        value="compilation-config max-cudagraph-capture-size max-seq-len-to-capture max-context-len-to-capture"
        " optimization-level jit-monitor-mode performance-mode",
        values="cudagraph-capture-sizes cuda-graph-sizes",
    ),
    _no_effect(
        KERNELS_REASON,
        switch="enable-flashinfer-autotune monokernel disable-cascade-attn use-v2-block-manager enable-hc-sp"
        " enable-flash-late-interaction",
        value="attention-config kernel-config ir-op-priority moe-backend linear-backend sparse-indexer-topk-backend"
        " gdn-prefill-backend kda-prefill-backend kda-decode-backend additional-config",
    ),
    _no_effect(
        _LOADING,
        switch="use-tqdm-on-load allow-deprecated-quantization",
        value="safetensors-load-strategy safetensors-prefetch-num-threads safetensors-prefetch-block-size"
        " model-loader-extra-config pt-load-map-location max-parallel-loading-workers",
        values="ignore-patterns",
    ),
    _no_effect(
        _SCHEDULING,
        switch="long-prefill-token-threshold-adaptive scheduler-reserve-full-isl disable-hybrid-kv-cache-manager"
        " multi-step-stream-outputs",
        value="long-prefill-token-threshold watermark prefill-schedule-interval max-num-partial-prefills"
        " max-long-partial-prefills scheduler-delay-factor num-lookahead-slots preemption-mode"
        " swap-space",
    ),
    _no_effect(
        _PLACEMENT,
        switch="enable-batch-sharded-sampling enable-ep-weight-filter enable-dbo"
        " enable-shm-tensor-arena enable-elastic-ep enable-eplb disable-nccl-for-dp-synchronization"
        " disable-custom-all-reduce data-parallel-hybrid-lb data-parallel-external-lb"
        " data-parallel-multi-port-external-lb dcp-q-replicate ray-workers-use-nsight worker-use-ray engine-use-ray"
        " enable-fault-tolerance aggregate-engine-logging enable-nccl-comm-suspend enable-cumem-allocator",
        value="master-addr master-port distributed-timeout-seconds cpu-distributed-timeout-seconds"
        " distributed-executor-backend dcp-comm-backend dcp-kv-cache-interleave-size cp-kv-cache-interleave-size"
        " data-parallel-address data-parallel-rpc-port data-parallel-backend data-parallel-supervisor-port"
        " dp-supervisor-probe-interval-s dp-supervisor-probe-timeout-s dp-supervisor-probe-failure-threshold"
        " dp-sync-interval all2all-backend ubatch-size elastic-ep-max-dp-size dbo-decode-token-threshold"
        " dbo-prefill-token-threshold eplb-config num-redundant-experts expert-placement-strategy"
        " fault-tolerance-config",
    ),
    _no_effect(
        "HTTP is served by one process, and texts are prepared beside it in threads",
        switch="disable-frontend-multiprocessing",
        value="api-server-count renderer-num-workers tokenizer-pool-size tokenizer-pool-type"
        " tokenizer-pool-extra-config",
    ),
    _no_effect(
        _NO_SUCH_LAYERS,
        switch="enable-mamba-cache-stochastic-rounding kv-sharing-fast-prefill swa-bounded-replay use-replayssm"
        " enable-mamba-shared-prefix-checkpoint",
        value="mamba-backend mamba-ssu-algorithm mamba-cache-philox-rounds mamba-cache-dtype mamba-ssm-cache-dtype"
        " mamba-block-size mamba-cache-mode replayssm-buffer-len engram-config prefix-cache-retention-interval"
        " prefix-match-unit",
    ),
    _no_effect(
        _TEXT_ONLY,
        switch="language-model-only interleave-mm-strings skip-mm-profiling disable-chunked-mm-input"
        " disable-mm-preprocessor-cache mm-device-do-normalize",
        value="limit-mm-per-prompt media-io-kwargs mm-processor-kwargs mm-processor-cache-gb mm-processor-cache-type"
        " mm-hasher-algorithm mm-shm-cache-max-object-size-mb mm-encoder-tp-mode mm-encoder-attn-backend"
        " mm-encoder-attn-dtype mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-path"
        " mm-encoder-fp8-scale-save-margin video-pruning-rate video-pruning-method mm-tensor-ipc mm-processor-device"
        " mm-ipc-gpu-memory-gb allowed-local-media-path ec-manager-config",
        values="allowed-media-domains",
    ),
    # What holds here anyway
    _no_effect("code from a checkpoint is never executed here", switch="trust-remote-code", value="code-revision"),
    _no_effect("statistics are at /metrics, which stays, and never in the log", switch="disable-log-stats"),
    _no_effect("an unexpected error is always logged with its stack", switch="log-error-stack"),
    _no_effect(_LOGGED, switch="enable-log-deltas", value="max-log-len"),
    _no_effect("the documentation's pages need nothing from outside", switch="enable-offline-docs"),
    _no_effect("metrics are never hidden here", value="show-hidden-metrics-for-version"),
    _no_effect("jaxserve_step_roofline_seconds at /metrics says the same", switch="enable-mfu-metrics"),
    _no_effect("pages of the cache are found by the hash that is built in", value="prefix-caching-hash-algo"),
    _no_effect(
        "grammars run on llguidance", switch="guided-decoding-disable-fallback", value="guided-decoding-backend"
    ),
    _no_effect("a hung step is found by a timer of its own", value="watchdog-config"),
    _no_effect("unknown JAXSERVE_ variables are always named", switch="fail-on-environ-validation"),
    _no_effect("its endpoint is not served", switch="cohere-is-reasoning-model", value="cohere-format"),
    _no_effect("there is no sleep mode that it could shape", switch="sleep-mode-offload-cudagraph"),
    _no_effect("reasoning is read whenever a --reasoning-parser is known", switch="enable-reasoning"),
    _refused(
        "prompts are always read in chunks; --max-num-batched-tokens sets how large",
        unless="true",
        switch="enable-chunked-prefill",
    ),
    # Of which one value is served
    _refused(
        f"{_PLACEMENT}; leave it out, and take more of these",
        unless="1",
        value="pipeline-parallel-size decode-context-parallel-size prefill-context-parallel-size nnodes",
    ),
    _refused(_MANY_SERVERS, unless="1", value="data-parallel-size-local"),
    _refused(_MANY_SERVERS, unless="0", value="data-parallel-rank data-parallel-start-rank node-rank"),
    _refused(_MANY_SERVERS, switch="headless"),
    _refused(
        "the device is JAX's choice; set JAX_PLATFORMS=cpu, cuda or tpu to change it", unless="auto", value="device"
    ),
    _refused("set CUDA_VISIBLE_DEVICES, or TPU_VISIBLE_DEVICES, to choose devices", value="device-ids"),
    _no_effect("every token in the cache has scales of its own", switch="calculate-kv-scales"),
    _refused("all layers have the type of --kv-cache-dtype", values="kv-cache-dtype-skip-layers"),
    _refused(
        "weights come from .safetensors, .gguf or orbax files, found by themselves; leave it out",
        unless="auto hf safetensors gguf fastsafetensors instanttensor runai_streamer mistral",
        value="load-format",
    ),
    _refused(
        "tokenizers are found in the model's files; --tokenizer names another directory",
        unless="auto hf slow mistral deepseek_v32 deepseek_v4",
        value="tokenizer-mode",
    ),
    _refused(f"{_FOUND}; leave it out", unless="auto hf mistral", value="config-format"),
    _refused("the models are our own; leave it out", unless="auto vllm", value="model-impl"),
    _alias("task", value="runner convert"),
    _refused(_POOLING, value="pooler-config override-pooler-config"),
    _refused(_NO_OFFLOAD, unless="0 0.0", value="cpu-offload-gb offload-group-size"),
    _no_effect(
        _NO_OFFLOAD,
        value="kv-offloading-backend offload-backend offload-num-in-group offload-prefetch-step",
        values="cpu-offload-params offload-params",
    ),
    # Not offered
    _no_effect(_ADAPTERS, switch="fully-sharded-loras specialize-active-lora", value="max-cpu-loras"),
    _refused("adapters have the type of --dtype; leave it out", unless="auto", value="lora-dtype"),
    _refused(
        "an adapter may change any matrix of a layer; leave it out, or leave them out of the adapter",
        values="lora-target-modules",
    ),
    _refused(
        _NO_ADAPTERS,
        switch="enable-tower-connector-lora enable-mixed-moe-lora-format enable-moe-shared-loras enable-prompt-adapter",
        value="default-mm-loras max-lora-cls-labels lora-extra-vocab-size long-lora-scaling-factors",
        values="prompt-adapters",
    ),
    _refused(
        _NO_DRAFTS,
        value="speculative-config spec-method spec-model spec-tokens speculative-model num-speculative-tokens"
        " ngram-prompt-lookup-max ngram-prompt-lookup-min speculative-draft-tensor-parallel-size",
    ),
    _refused(_NO_DRAFTS, unless="none", value="per-request-spec-decode-metrics"),
    _refused(
        "there are no plug-ins; name a known parser with --tool-call-parser or --reasoning-parser, or add a dialect"
        " to jaxserve/text/dialects",
        value="tool-parser-plugin reasoning-parser-plugin",
    ),
    _refused(
        f"{_NO_MODULES}; logit_bias, allowed_token_ids, bad_words and structured_outputs steer an answer",
        values="logits-processors",
    ),
    _refused(_NO_MODULES, unless="auto", value="worker-cls"),
    _refused(
        _NO_MODULES,
        value="worker-extension-cls scheduler-cls model-class-overrides io-processor-plugin logits-processor-pattern",
    ),
    _refused(f"{_LOGGED}; --enable-log-requests logs parameters", switch="enable-log-outputs"),
    _refused(
        "certificates are read at the start; SIGTERM ends the server with its requests finished, so start it again",
        switch="enable-ssl-refresh",
    ),
    _refused("use --profile-steps first:last; /metrics has the times of steps", value="profiler-config"),
    _refused(
        "--otlp-traces-endpoint sends one span of each request, with its phases; /metrics has the times of steps",
        values="collect-detailed-traces",
    ),
    _refused("use --log-level", value="logging-config log-config-file"),
    _refused(
        _NOT_MEASURED,
        switch="kv-cache-metrics enable-layerwise-nvtx-tracing enable-logging-iteration-details",
        value="kv-cache-metrics-sample custom-histogram-buckets",
    ),
    _refused(
        "no cache is shared between servers",
        value="kv-transfer-config ec-transfer-config weight-transfer-config",
    ),
    _refused(
        _NO_ROUTES,
        switch="grpc tokens-only enable-scale-out enable-sleep-mode",
        value="grpc-port sleep-mode-backend tool-server",
        values="sleep-preserve-parameter-names",
    ),
    _refused(_NO_ROUTES, unless="auto", value="anthropic-disabled-thinking-effort"),
    _refused(_TEXT_ONLY, switch="mm-encoder-only enable-mm-embeds enable-prompt-embeds omni"),
    _refused("requests come as text; leave it out", switch="skip-tokenizer-init"),
    _refused("it is not among what an answer can bring", switch="return-sampling-mask"),
    _refused("tokens are sampled with float32 noise", switch="use-fp64-gumbel"),
    _refused("requests cannot prescribe their tokens", switch="enable-trace-replay"),
    _refused("answers carry no watermark", value="watermark-config"),
    _refused(_ONLY_TEXT, value="diffusion-config aux-output-config"),
    _refused("use --reasoning-parser", value="reasoning-config"),
    _refused("use --quantization int8 or int4", value="quantization-config quantization-param-path"),
    _refused("use --hf-overrides", value="hf-config-path rope-scaling rope-theta"),
    _refused("--revision holds for the tokenizer, too; --tokenizer names a directory", value="tokenizer-revision"),
    _refused("use --max-model-len to stay within the window", switch="disable-sliding-window"),
    _refused("use --max-num-batched-tokens", value="max-num-scheduled-tokens"),
    _refused("use --max-num-seqs", value="max-num-active-seqs"),
    _refused("start it with numactl", switch="numa-bind", values="numa-bind-nodes numa-bind-cpus"),
    _refused("it is for a device that is not served", value="override-neuron-config"),
)

SHORT_FLAGS = {  # one dash, as vLLM has them
    **{"q": "quantization", "n": "nnodes", "r": "node-rank", "O": "optimization-level"},
    **{"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "ep": "enable-expert-parallel"},
    **{"dcp": "decode-context-parallel-size", "pcp": "prefill-context-parallel-size"},
    **{"dp": "data-parallel-size", "dpn": "data-parallel-rank", "dpr": "data-parallel-start-rank"},
    **{"dpl": "data-parallel-size-local", "dpa": "data-parallel-address", "dpp": "data-parallel-rpc-port"},
    **{"dpb": "data-parallel-backend", "dph": "data-parallel-hybrid-lb", "dpe": "data-parallel-external-lb"},
    **{"dpm": "data-parallel-multi-port-external-lb", "asc": "api-server-count"},
    **{"sc": "speculative-config", "dc": "diffusion-config", "cc": "compilation-config", "ac": "attention-config"},
}


def _make_table() -> dict[str, VllmFlag]:
    table: dict[str, VllmFlag] = {}
    for row in _ROWS:
        for flag in row:
            assert flag.name not in table, f"{flag.name} is in the table twice"
            table[flag.name] = flag
    return table


VLLM_FLAGS = _make_table()
