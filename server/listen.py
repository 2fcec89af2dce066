"""Binds the port, or the Unix socket, before anything slow begins; imports no web framework."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from jaxserve import BadConfig, StartupError
from server.config import ServerConfig

# Private parts of both are overridden (Hypercorn's in http1.py, Quart's in body.py). The same as in pyproject.toml.
SUPPORTED_VERSIONS = {"hypercorn": ((0, 18), (0, 19)), "quart": ((0, 22), (0, 23))}  # from, and before
ALL_INTERFACES = ("::", "")
PORT_TRIES = 20  # for a port that is free on every address of the host
UNAVAILABLE_ERRNOS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # an address of a family that this machine does not have


def listen(config: ServerConfig) -> tuple[socket.socket, ...]:
    """Bind what `config` names: one socket for each address of its host, or the Unix socket.

    Clients cannot connect before `serve` listens. `::` accepts IPv4, too. Port 0 means one free port on all addresses.

    Raises StartupError if an address cannot be bound, or this version of Hypercorn or Quart is not supported.
    """
    for name in SUPPORTED_VERSIONS:
        check_version(name, version(name))
    if config.uds is not None:
        return (_bind_or_refuse(socket.AF_UNIX, config.uds, f"the socket {config.uds}"),)
    addresses = _resolve_addresses(config)
    for _ in range(PORT_TRIES if config.port == 0 else 1):
        try:
            return _bind_all(addresses, config.port)
        except OSError as error:
            last = error
    raise _make_bind_error(f"{config.host} port {config.port}", last)


def start_listening(sock: socket.socket, backlog: int) -> None:
    """Let clients connect to a bound socket.

    Raises StartupError if another process has begun to listen there since it was bound.
    """
    try:
        sock.listen(backlog)
    except OSError as error:
        address = sock.getsockname()
        name = f"the socket {address}" if isinstance(address, str) else f"{address[0]} port {address[1]}"
        raise _make_bind_error(name, error) from None


def check_version(name: str, installed: str) -> None:
    """Check that the server was written for the installed version of a package. Raises StartupError if not."""
    first, end = SUPPORTED_VERSIONS[name]
    numbers = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if not first <= numbers < end:
        raise StartupError(
            f"{name} {installed} is installed; this version of jaxserve works with {format_requirement(name)}: "
            f"pip install '{format_requirement(name)}'."
        )


def format_requirement(name: str) -> str:
    """Write the supported versions of a package as pip takes them: `hypercorn>=0.18,<0.19`."""
    first, end = (".".join(map(str, numbers)) for numbers in SUPPORTED_VERSIONS[name])
    return f"{name}>={first},<{end}"


def _resolve_addresses(config: ServerConfig) -> list[tuple[int, str]]:
    """Return every (family, address) of the host; a name, like localhost, may have several."""
    if config.host in ALL_INTERFACES:
        return [(socket.AF_INET6, "::")] if socket.has_dualstack_ipv6() else [(socket.AF_INET, "0.0.0.0")]
    try:
        entries = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadConfig(f"cannot listen on {config.host!r}: {reason}; check --host.") from None
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in entries))


def _bind_all(addresses: list[tuple[int, str]], port: int) -> tuple[socket.socket, ...]:
    """Bind all addresses that this machine has. Raises OSError if it has none of them, or one is in use."""
    sockets: list[socket.socket] = []
    last_error: OSError | None = None
    for family, address in addresses:
        try:
            sockets.append(_bind(family, (address, sockets[0].getsockname()[1] if sockets else port)))
        except OSError as error:
            last_error = error
            if error.errno in UNAVAILABLE_ERRNOS:
                continue
            for sock in sockets:
                sock.close()
            raise
    if not sockets:
        raise last_error or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return tuple(sockets)


def _bind_or_refuse(family: int, address: str, name: str) -> socket.socket:
    try:
        return _bind(family, address)
    except OSError as error:
        raise _make_bind_error(name, error) from None


def _bind(family: int, address: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_UNIX:
            path = Path(str(address))
            if is_socket_served(path):
                raise OSError(errno.EADDRINUSE, "a server listens there")
            remove_stale_socket(path)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def close_listeners(sockets: Iterable[socket.socket]) -> None:
    """Close what `listen` has bound, when the start has failed. The file of a Unix socket is removed, too."""
    for sock in sockets:
        address = sock.getsockname()
        sock.close()
        if isinstance(address, str):
            remove_stale_socket(Path(address))


def is_socket_served(path: Path) -> bool:
    """Tell whether a server accepts connections at this socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return path.is_socket() and probe.connect_ex(str(path)) == 0


def remove_stale_socket(path: Path) -> None:
    """Remove the socket file of an earlier server; any other file stays, and binding will fail."""
    if path.is_socket():
        path.unlink()


def _make_bind_error(name: str, error: OSError) -> StartupError:
    is_socket = name.startswith("the socket")
    if error.errno == errno.EADDRINUSE:
        other = "--uds" if is_socket else "--port"
        return BadConfig(f"{name} is in use by another process; stop that one, or choose another {other}.")
    if error.errno == errno.EACCES:
        advice = "another --uds" if is_socket else "a --port above 1023"
        return BadConfig(f"{name} is not ours to take; choose {advice}.")
    flags = "--uds" if is_socket else "--host and --port"
    return BadConfig(f"cannot listen on {name}: {error.strerror or error}; check {flags}.")
