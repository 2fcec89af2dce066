"""Takes the port, or the socket file, before anything slow begins: needs no web framework."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from jaxserve import BadConfig, StartupError
from server.config import ServerConfig


def listen(config: ServerConfig) -> socket.socket:
    """A bound socket; nobody can connect before `serve` listens on it. Raises StartupError with what to do."""
    if config.uds is not None:
        return _bound(socket.AF_UNIX, config.uds, f"the socket {config.uds}")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return _bound(family, (config.host, config.port), f"{config.host} port {config.port}")


def _bound(family: int, address: str | tuple[str, int], name: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            remove_stale(Path(str(address)))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _no_address(name, error) from None
    return sock


def remove_stale(path: Path) -> None:
    """A socket file that an earlier server left; any other file stays, and binding fails."""
    if path.is_socket():
        path.unlink()


def _no_address(name: str, error: OSError) -> StartupError:
    if error.errno == errno.EADDRINUSE:
        other = "--uds" if name.startswith("the socket") else "--port"
        return BadConfig(f"{name} is in use by another process; stop that one, or choose another {other}.")
    if error.errno == errno.EACCES:
        return BadConfig(f"{name} is not ours to take; choose a --port above 1023.")
    return BadConfig(f"cannot listen on {name}: {error.strerror or error}; check --host and --port.")
