"""Where the server will listen: a look at the port before the long load begins, and the address for people."""

import dataclasses
import errno
import socket

from jaxserve import BadConfig
from server.config import ServerConfig

EVERYWHERE = ("0.0.0.0", "::", "")


def with_free_port(config: ServerConfig) -> ServerConfig:
    """The config, with a port in place of 0. Raises BadConfig when the address cannot be listened on.

    The port is let go again: nobody shall connect before there is something to serve.
    """
    if config.uds:
        _check_socket_path(config.uds)
        return config
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise BadConfig(_why_not(config, error)) from None
        return dataclasses.replace(config, port=probe.getsockname()[1])


def address(config: ServerConfig) -> str:
    """The URL to type on this machine."""
    if config.uds:
        return f"http://localhost (over --unix-socket {config.uds})"
    host = "localhost" if config.host in EVERYWHERE else f"[{config.host}]" if ":" in config.host else config.host
    return f"{'https' if config.ssl_certfile else 'http'}://{host}:{config.port}{config.root_path}"


def _why_not(config: ServerConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        other = config.port + 1 if config.port < 65535 else 8000
        return f"port {config.port} is taken by another program; end it, or take another port with --port {other}."
    if error.errno == errno.EACCES:
        return f"port {config.port} needs root; take one from 1024 upwards with --port 8000."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"host {config.host!r} is no address of this machine; --host 0.0.0.0 listens on all it has."
    return f"cannot listen on {config.host}:{config.port}: {error}."


def _check_socket_path(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise BadConfig(f"uds {path} is in use by another program; end it, or take another path with --uds.")
