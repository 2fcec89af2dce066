"""Settings that files of deployments hold: they must be ones that `jaxserve` takes, and that work together."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from jaxserve import EngineConfig
from server import cli
from server.config import ServerConfig
from server.environment import find_unknown
from server.flags import read_arguments, select_fields


class ComposeLoader(yaml.SafeLoader):
    """Compose's YAML, in which !reset empties a value of the file before."""


ComposeLoader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def read_settings(words: Sequence[str], environ: Mapping[str, str]) -> tuple[EngineConfig, ServerConfig]:
    """Return what a server with this command line, behind `serve` or `warmup`, and environment is configured with.

    Raises SystemExit for a flag that is not known, BadConfig for a value that cannot work, AssertionError for a
    variable with our prefix that names no setting.
    """
    parser = cli._make_serve_parser()
    values: dict[str, Any] = read_arguments(parser, words, dict(environ))
    engine, server = select_fields(EngineConfig, values), select_fields(ServerConfig, values)
    fields = {*EngineConfig.__dataclass_fields__, *ServerConfig.__dataclass_fields__}
    assert list(find_unknown(environ, fields)) == []
    return EngineConfig(**engine), ServerConfig(**server)
