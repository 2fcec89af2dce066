"""Settings of the Ray Serve application: those of `jaxserve serve`, and how many replicas there are and of what."""

import math
import os
from argparse import SUPPRESS
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from jaxserve import BadConfig, EngineConfig
from server.config import ServerConfig, option
from server.flags import CommandParser, add_flags, read_arguments, select_fields, to_words

ROWS = {"cpu": 32, "gpu": 256, "tpu": 128}  # of a batch, by default, as max_num_seqs says
RESOURCES = {"gpu": "num_gpus", "tpu": "TPU"}  # by which Ray counts devices
QUEUE_FACTOR = 2  # as many requests again as a batch has rows: while one ends, the next one waits in the engine
MAX_QUEUED = 1024  # by default, as max_num_queued_reqs says
# Fields that have no effect under Ray Serve, and what does: a field that is set is refused with this.
OF_SERVE = "Ray Serve has it: http_options, or the flags of serve start"
OF_ONE_REPLICA = "each replica would have a state of its own, and a request comes to any of them"
REFUSED = {
    **dict.fromkeys(("host", "port", "uds", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs"), OF_SERVE),
    **dict.fromkeys(("ssl_cert_reqs", "ssl_ciphers", "head_timeout_s", "max_connections"), OF_SERVE),
    **dict.fromkeys(("max_connections_per_ip", "send_stall_timeout_s"), OF_SERVE),
    **dict.fromkeys(("allow_runtime_lora_updating", "server_dev_mode", "enable_debug_endpoints"), OF_ONE_REPLICA),
    **dict.fromkeys(("responses_store_size", "enable_server_load_tracking"), OF_ONE_REPLICA),
    "data_parallel_size": "Ray starts the replicas: set min_replicas and max_replicas",
    "keep_alive_on_engine_death": "Ray replaces a replica whose engine has died",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """The number of engines and their devices. Fields are arguments beside the flags of `jaxserve serve`.

    Raises BadConfig if a value is out of range, or values contradict each other.
    """

    accelerator: Literal["cpu", "gpu", "tpu"] = option(
        "cpu", "what the engines compute on; each has tensor_parallel_size devices of its own", group="Ray Serve"
    )
    num_cpus: float = option(1.0, "CPUs that Ray sets aside for an engine; on a CPU it uses all cores nevertheless")
    min_replicas: int = option(1, "engines when there is nothing to do")
    max_replicas: int = option(1, "engines when there is much to do")
    target_ongoing_requests: int | None = option(
        None, "requests of an engine, above which another one is started (default: the rows of its batch)"
    )
    max_ongoing_requests: int | None = option(
        None, "most requests of an engine; more wait in the ingress (default: twice the rows of its batch)"
    )
    ingress_replicas: int = option(1, "processes that read requests and choose an engine for each")

    def __post_init__(self) -> None:
        for name in ("max_replicas", "target_ongoing_requests", "max_ongoing_requests", "ingress_replicas"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadConfig(f"{name} must be 1 or more, got {value}.")
        if not 0 <= self.min_replicas <= self.max_replicas:
            limits = f"from 0 to max_replicas={self.max_replicas}"
            raise BadConfig(f"min_replicas must be {limits}, got {self.min_replicas}.")
        if not 0 <= self.num_cpus < math.inf:
            raise BadConfig(f"num_cpus must be a number from 0 on, got {self.num_cpus}.")


@dataclass(frozen=True, slots=True)
class RaySettings:
    """All settings of an application. It pickles.

    engine     of the model
    server     of the HTTP side
    replicas   of the engines' number and devices
    """

    engine: EngineConfig
    server: ServerConfig
    replicas: ReplicaConfig

    @property
    def num_rows(self) -> int:
        """The rows of an engine's batch, as far as they are known before one is loaded."""
        return self.engine.max_num_seqs or ROWS[self.replicas.accelerator]

    @property
    def target_ongoing_requests(self) -> int:
        """The number of requests with which an engine has enough to do."""
        return self.replicas.target_ongoing_requests or self.num_rows

    @property
    def max_ongoing_requests(self) -> int:
        """The largest number of requests that are sent to an engine at a time."""
        return self.replicas.max_ongoing_requests or QUEUE_FACTOR * self.num_rows

    @property
    def max_queued_requests(self) -> int:
        """The largest number of requests that wait in one ingress; more are answered with 503."""
        return self.engine.max_num_queued_reqs or MAX_QUEUED

    @property
    def actor_options(self) -> dict[str, Any]:
        """The resources that Ray sets aside for an engine, which sees no other devices than these."""
        name, number = RESOURCES.get(self.replicas.accelerator), self.engine.tensor_parallel_size
        cpus = {"num_cpus": self.replicas.num_cpus}
        if name is None:
            return cpus
        return cpus | ({name: number} if name.startswith("num_") else {"resources": {name: number}})


class _ArgumentParser(CommandParser):
    """A parser whose errors are exceptions: it reads the arguments of an application, and no command line."""

    def error(self, message: str) -> NoReturn:
        """Raise BadConfig always."""
        raise BadConfig(f"{self.source}: {message}." if self.source else f"{message}.")


def read_settings(arguments: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> RaySettings:
    """Return the settings that the arguments of an application are.

    arguments   names of fields and their values, as in the YAML file of `jaxserve serve --config`; texts are parsed
    environ     JAXSERVE_... variables, which arguments win over

    Raises BadConfig for an unknown name, a value that cannot work, or a field that has no effect under Ray Serve.
    """
    parser = _ArgumentParser("jaxserve.ray:app", "NAME=VALUE …")
    for name in ("model", "config"):  # which are no flag with a help text
        parser.add_argument(f"--{name}", dest=name, default=SUPPRESS)
    add_flags(parser, EngineConfig, ServerConfig, ReplicaConfig, skip=("model",))
    values = read_arguments(parser, list(to_words(arguments)), environ)
    for name, reason in REFUSED.items():
        if name in values:
            raise BadConfig(f"{name} cannot be set for Ray Serve: {reason}.")
    values["responses_store_size"] = 0
    return RaySettings(
        EngineConfig(**select_fields(EngineConfig, values)),
        ServerConfig(**select_fields(ServerConfig, values)),
        ReplicaConfig(**select_fields(ReplicaConfig, values)),
    )
