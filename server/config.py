"""All settings of the HTTP side, frozen, with units in their names. The command line is made from this dataclass."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxserve import BadConfig

MIB = 1 << 20
TLS_OPTIONS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers")
MINIMA = {  # of settings, by the least value
    1: (
        *("stream_interval", "max_n", "max_body_bytes", "max_header_bytes", "max_headers", "max_connections"),
        *("max_inflight_body_bytes", "max_json_nodes", "max_unsent_bytes", "max_completion_prompts"),
        *("max_reply_bytes", "responses_store_bytes"),
    ),
    0: (
        *("max_connections_per_ip", "sse_keep_alive_interval", "drain_timeout_s", "body_timeout_s"),
        *("max_stop_strings", "max_tools", "responses_store_size", "responses_store_age_s"),
    ),
}
PROBE_PATHS = (
    "/health",
    "/live",
    "/ping",
    "/load",
    "/metrics",
)  # polled every few seconds by load balancers and Prometheus
# Variables of a chat template that cannot be set: arguments of the function that renders it, and built-in names.
RESERVED_TEMPLATE_KWARGS = frozenset(
    (
        *("tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length", "messages"),
        *("conversation", "range", "namespace", "dict", "cycler", "joiner", "raise_exception", "strftime_now"),
    )
)


def option(default: Any, help: str, *, group: str | None = None, is_secret: bool = False) -> Any:
    """Define a field with its command-line help.

    group       heading under which --help shows this field and those behind it
    is_secret   the value is left out of the repr, so that no log can show it
    """
    metadata = {"help": help} if group is None else {"help": help, "group": group}
    return field(default=default, metadata=metadata, repr=not is_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the HTTP side of a server.

    Each field is a flag of `jaxserve serve` (`max_body_bytes`: --max-body-bytes), an environment variable
    (JAXSERVE_MAX_BODY_BYTES) and a key of the YAML file that --config names. Times are in seconds, sizes in bytes. The
    text of each field says what it does.

    Raises BadConfig if a value is out of range, or values contradict each other.
    """

    host: str = option(
        "127.0.0.1",
        "address to listen on; 0.0.0.0 or :: (IPv6, too) is every network interface",
        group="address and TLS",
    )
    port: int = option(8000, "port to listen on; 0 takes a free one")
    uds: str | None = option(None, "path of a Unix socket, instead of host and port")
    ssl_keyfile: str | None = option(None, "private key in PEM form; with --ssl-certfile the server speaks TLS")
    ssl_certfile: str | None = option(None, "certificate in PEM form")
    ssl_ca_certs: str | None = option(None, "certificates that may sign a client's, in PEM form")
    ssl_cert_reqs: int = option(0, "client certificates: 0 none, 1 optional, 2 required")
    ssl_ciphers: str | None = option(None, "OpenSSL cipher list")
    root_path: str = option("", "path prefix under which a proxy serves this server")
    api_key: tuple[str, ...] = option(
        (),
        "API key that clients must send; several are allowed; none: no key is needed",
        is_secret=True,
        group="keys and cross-origin requests",
    )
    api_key_file: str | None = option(None, "file with further API keys, one a line; # begins a comment line")
    isolate_cache_per_key: bool = option(
        False, "share cached prefixes only among requests with the same key, and no longer among all"
    )
    open_paths: tuple[str, ...] = option((), "paths that need no key although keys are set, like /metrics")
    allowed_origins: tuple[str, ...] = option(
        (), "origins whose pages may call this server, like https://app.example; *: all; none: only its own pages"
    )
    allowed_methods: tuple[str, ...] = option(("*",), "methods that pages may use")
    allowed_headers: tuple[str, ...] = option(("*",), "headers that pages may send")
    allow_credentials: bool = option(False, "let pages send cookies and keys of their own")
    served_model_name: tuple[str, ...] = option(
        (), "name of the model for clients; several are aliases of the first", group="answers"
    )
    response_role: str = option("assistant", "role of the answers")
    middleware: tuple[str, ...] = option(
        (), "ASGI classes around the app, by import path like package.module.Class; the first is innermost"
    )
    disable_fastapi_docs: bool = option(False, "serve no /docs, /redoc and /openapi.json")
    allow_runtime_lora_updating: bool = option(
        False, "serve /v1/load_lora_adapter and /v1/unload_lora_adapter; whoever may call them names any directory"
    )
    trust_request_chat_template: bool = option(
        False, "accept chat templates in requests; a worker process renders them"
    )
    trust_request_mm_kwargs: bool = option(
        False, "accept mm_processor_kwargs and media_io_kwargs; models that only read text ignore them"
    )
    default_chat_template_kwargs: dict[str, Any] | None = option(
        None, "default variables of the chat template as JSON, like enable_thinking"
    )
    reasoning_effort_map: dict[str, Any] | None = option(
        None, "value that the chat template gets for a reasoning_effort, as JSON, if it is another one"
    )
    legacy_reasoning_content: bool = option(False, "return reasoning under its old name reasoning_content, too")
    exclude_tools_when_tool_choice_none: bool = option(False, "leave tools out of the prompt if tool_choice is none")
    enable_tokenizer_info_endpoint: bool = option(False, "show the tokenizer's configuration at /tokenizer_info")
    enable_debug_endpoints: bool = option(
        False, "show the engine's state at /debug/state: its invariants, requests and pages"
    )
    server_dev_mode: bool = option(
        False,
        "serve routes that control the server, like /pause, /abort_requests and /reset_prefix_cache",
    )
    enable_request_id_headers: bool = option(False, "answer every request with an X-Request-Id header")
    enable_force_include_usage: bool = option(False, "send usage in every stream")
    enable_prompt_tokens_details: bool = option(True, "return in usage how many prompt tokens were cached")
    enable_per_request_metrics: bool = option(
        False, "return with each reply how long its request waited and was computed"
    )
    enable_server_load_tracking: bool = option(False, "count running requests for /load")
    return_tokens_as_token_ids: bool = option(False, "write tokens in logprobs as token_id:N")
    sse_keep_alive_interval: float = option(15.0, "seconds of silence before a comment line in a stream; 0: never")
    stream_interval: int = option(1, "tokens that a chunk of a stream waits for")
    fingerprint_mode: Literal["full", "hash", "custom", "none"] = option("full", "how system_fingerprint is made")
    fingerprint_value: str | None = option(None, "the system_fingerprint of mode custom")
    max_body_bytes: int = option(64 * MIB, "largest request body", group="limits of requests")
    max_inflight_body_bytes: int = option(256 * MIB, "bytes of the bodies of all requests, until they are answered")
    max_json_nodes: int = option(
        1 << 20,
        "most values in a request body; a quarter of them may be members of objects, an eighth arrays and objects",
    )
    body_timeout_s: float = option(60.0, "seconds in which a request body must be complete")
    max_header_bytes: int = option(32 * 1024, "largest request head")
    max_headers: int = option(100, "most headers of a request")
    head_timeout_s: float = option(5.0, "seconds in which a request head must be complete once it has begun")
    max_connections: int = option(4096, "most open connections; fewer if the limit of open files is lower")
    max_connections_per_ip: int = option(0, "most open connections of one client address; 0: no limit")
    send_stall_timeout_s: float = option(300.0, "seconds after which a client that reads nothing is disconnected")
    max_n: int = option(16384, "most choices of one request")
    max_concurrency_per_key: int = option(
        0, "most choices at a time of one API key, or of one address where no key is needed; 0: no limit"
    )
    queue_timeout_s: float = option(0.0, "seconds in which a request must begin to be answered; 0: no limit")
    request_timeout_s: float = option(0.0, "seconds in which a request must be answered in full; 0: no limit")
    max_stop_strings: int = option(4, "most stop strings of one request")
    max_tools: int = option(1024, "most tools of one request")
    max_completion_prompts: int = option(1024, "most prompts of one completions request, or conversations of one batch")
    max_reply_bytes: int = option(256 * MIB, "largest reply that a request may ask for, by estimate")
    max_unsent_bytes: int = option(
        512 * MIB, "most output of all requests that waits to be read; above, the one furthest behind is ended"
    )
    responses_store_size: int = option(
        1000, "most responses of /v1/responses kept for previous_response_id; 0: none are", group="stored responses"
    )
    responses_store_bytes: int = option(64 * MIB, "most bytes of all kept responses with their conversations")
    responses_store_age_s: float = option(3600.0, "seconds for which a response is kept")
    drain_timeout_s: float = option(
        30.0, "seconds in which running requests may finish after SIGTERM", group="shutdown"
    )
    keep_alive_on_engine_death: bool = option(
        False, "keep serving, unhealthy, if the engine dies, instead of ending with exit code 70"
    )
    enable_log_requests: bool = option(False, "log each request's parameters (never its prompt)", group="logging")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = option(
        "info", "least severe lines in the log"
    )
    disable_access_log: bool = option(False, "log no line per request")
    disable_access_log_for_endpoints: tuple[str, ...] = option(
        PROBE_PATHS, 'paths whose requests are not logged; "" logs those of probes and scrapes, too'
    )
    log_format: Literal["text", "json"] = option("text", "log lines as text, or each as a JSON object")
    otlp_traces_endpoint: str | None = option(
        None,
        "OpenTelemetry collector that gets a span of each request, like http://localhost:4318/v1/traces",
        is_secret=True,  # it may hold a password
    )

    def __post_init__(self) -> None:
        if any(not key for key in self.api_key):
            raise BadConfig("api_key must not be empty; leave it out to serve without keys.")
        if any(not name for name in self.served_model_name):
            raise BadConfig("served_model_name must not be empty; leave it out to use the model's own name.")
        if not 0 <= self.port <= 65535:
            raise BadConfig(f"port must be in [0, 65535], got {self.port}.")
        if self.fingerprint_mode == "custom" and self.fingerprint_value is None:
            raise BadConfig("fingerprint_mode custom needs a fingerprint_value.")
        if self.allow_credentials and "*" in self.allowed_origins:
            raise BadConfig(
                "allow_credentials with allowed_origins * would let every page act as its visitor; name the origins."
            )
        _check_tls(self)
        for name in ("root_path", "open_paths", "disable_access_log_for_endpoints"):
            value = getattr(self, name)
            paths = split_commas((value,) if isinstance(value, str) else value)
            if invalid := [path for path in paths if path[0] != "/"]:
                raise BadConfig(f"{name} must be paths that begin with a slash, like /health, got {invalid[0]!r}.")
        if self.otlp_traces_endpoint is not None and not self.otlp_traces_endpoint.startswith(("http://", "https://")):
            raise BadConfig(
                "otlp_traces_endpoint must be a URL that begins with http:// or https://, like"
                " http://localhost:4318/v1/traces."
            )
        if not self.response_role:
            raise BadConfig("response_role must not be empty; assistant is usual.")
        if clash := sorted(
            (RESERVED_TEMPLATE_KWARGS | {"chat_template"}) & (self.default_chat_template_kwargs or {}).keys()
        ):
            raise BadConfig(f"default_chat_template_kwargs cannot set {', '.join(clash)}.")
        if invalid := [name for name, word in (self.reasoning_effort_map or {}).items() if not isinstance(word, str)]:
            raise BadConfig(
                f"reasoning_effort_map must map words to words; {invalid[0]!r} is mapped to something else."
            )
        for minimum, names in MINIMA.items():
            for name in names:
                _check_minimum(name, getattr(self, name), minimum)


def _check_tls(config: ServerConfig) -> None:
    if (config.ssl_keyfile is None) != (config.ssl_certfile is None):
        raise BadConfig("ssl_keyfile and ssl_certfile go together; only one of them is set.")
    if config.ssl_certfile is None and (lone := [name for name in TLS_OPTIONS if getattr(config, name)]):
        raise BadConfig(f"{lone[0]} needs ssl_certfile and ssl_keyfile; without them the server speaks no TLS.")
    if config.ssl_cert_reqs not in (0, 1, 2):
        raise BadConfig(f"ssl_cert_reqs must be 0 (none), 1 (optional) or 2 (required), got {config.ssl_cert_reqs}.")
    if config.ssl_cert_reqs and config.ssl_ca_certs is None:
        raise BadConfig(
            f"ssl_cert_reqs {config.ssl_cert_reqs} needs ssl_ca_certs, which says whose certificates count."
        )


def split_commas(values: tuple[str, ...]) -> frozenset[str]:
    """Return the items of a list flag whose values may also be written as one word, separated by commas."""
    return frozenset(part.strip() for value in values for part in value.split(",") if part.strip())


def _check_minimum(name: str, value: float, minimum: float) -> None:
    if not value >= minimum:
        raise BadConfig(f"{name} must be at least {minimum}, got {value}.")
