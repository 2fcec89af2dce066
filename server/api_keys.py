"""API keys that the settings do not hold themselves: those of a file."""

from dataclasses import replace
from pathlib import Path

from jaxserve import BadConfig
from server.config import ServerConfig


def add_file_keys(config: ServerConfig) -> ServerConfig:
    """Return the settings with the keys of --api-key-file. Raises BadConfig if they cannot be read."""
    if config.api_key_file is None:
        return config
    return replace(config, api_key=(*config.api_key, *read_key_file(config.api_key_file)))


def read_key_file(path: str) -> tuple[str, ...]:
    """Return the keys in a file, one a line; empty lines and those that begin with # are none.

    Raises BadConfig if it cannot be read or has no key.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"api_key_file {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise BadConfig(f"api_key_file {path} has no key; write one a line, or leave the flag out.")
    return keys
