"""Tasks that worker processes run in tests: harmless ones, and ones that break a limit."""

import os
import resource
import sys
from typing import Any

from jaxserve.errors import InvalidParameter

kept: list[bytes] = []


def double(data: Any) -> Any:
    return data * 2


def pid(_: Any) -> int:
    return os.getpid()


def loaded(_: Any) -> list[str]:
    return sorted(sys.modules)


def environment(_: Any) -> dict[str, str]:
    return dict(os.environ)


def limits(_: Any) -> list[int]:
    return [resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0]]


def refuse(data: Any) -> None:
    raise InvalidParameter(data["message"], data["param"])


def fail(_: Any) -> float:
    return 1 / 0


def burn(_: Any) -> int:
    return 3 ** (10**9)


def loop(_: Any) -> None:
    while True:
        pass


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))


def keep(num_bytes: int) -> int:
    kept.append(b"x" * num_bytes)
    return len(kept)


def leave(_: Any) -> None:
    os._exit(3)
