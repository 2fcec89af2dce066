"""Checks of a ServerConfig against this machine, before anything is loaded: TLS files, socket path, middleware.

Values that are wrong by themselves are refused by ServerConfig; a port that is in use is refused by `listen`.
"""

import ssl
from pathlib import Path

from jaxserve import BadConfig
from server.config import ServerConfig
from server.custom_middleware import load_middleware
from server.tracing import check_tracing

MAX_SOCKET_PATH_BYTES = 107  # of sun_path (unix(7)), without the null byte at its end
ENCRYPTED_KEY = "is encrypted, and nobody is there to type its password; decrypt it with openssl pkey"


def check_server(config: ServerConfig) -> None:
    """Check that the settings can work on this machine. Raises BadConfig about the first one that cannot."""
    _check_tls(config)
    check_tracing(config)
    for path in config.middleware:
        load_middleware(path)
    if config.uds is not None:
        _check_socket_path(config.uds)


def _check_tls(config: ServerConfig) -> None:
    """Check certificate, key and authorities by loading them as Hypercorn will."""
    certificate, key = config.ssl_certfile, config.ssl_keyfile
    if certificate is None or key is None:
        return
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        if (path := getattr(config, name)) is not None:
            _check_readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    password_requests: list[bool] = []
    try:
        context.load_cert_chain(certificate, key, password=lambda: password_requests.append(True) or "")
    except (ssl.SSLError, ValueError) as error:
        if password_requests:
            raise BadConfig(f"ssl_keyfile {key} {ENCRYPTED_KEY}.") from None
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise BadConfig(f"ssl_keyfile {key} is not the key of the certificate in {certificate}.") from None
        raise BadConfig(
            f"ssl_certfile {certificate} and ssl_keyfile {key} are no PEM pair: {_openssl_reason(error)}."
        ) from None
    if config.ssl_ca_certs is not None:
        try:
            context.load_verify_locations(config.ssl_ca_certs)
        except ssl.SSLError as error:
            raise BadConfig(
                f"ssl_ca_certs {config.ssl_ca_certs} holds no certificates: {_openssl_reason(error)}."
            ) from None
    if config.ssl_ciphers is not None:
        try:
            context.set_ciphers(config.ssl_ciphers)
        except ssl.SSLError:
            raise BadConfig(f"ssl_ciphers {config.ssl_ciphers!r} names no cipher that OpenSSL has here.") from None


def _check_readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BadConfig(f"{name} {path} cannot be read: {error.strerror or error}.") from None


def _check_socket_path(path: str) -> None:
    socket_path = Path(path)
    if len(str(socket_path).encode()) > MAX_SOCKET_PATH_BYTES:
        raise BadConfig(f"uds {path} is longer than {MAX_SOCKET_PATH_BYTES} bytes, the most for a socket's path.")
    if socket_path.is_dir():
        raise BadConfig(f"uds {path} is a directory; name a socket in it.")
    if not socket_path.parent.is_dir():
        raise BadConfig(f"uds {path}: there is no directory {socket_path.parent}.")


def _openssl_reason(error: Exception) -> str:
    """Write OpenSSL's reason as words: it has underscores for spaces."""
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
