"""Tells systemd that the service is ready, stops, or is alive (sd_notify(3); Type=notify, WatchdogSec).

Without NOTIFY_SOCKET in the environment, as in most starts, nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
USEC_PER_S = 1_000_000


class ServiceNotifier:
    """The connection to the service manager.

    watchdog_s   Time in which it wants to hear of the service; None: it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get(SOCKET_VARIABLE, "")
        is_ours = environ.get(WATCHDOG_PID_VARIABLE, str(os.getpid())) == str(os.getpid())
        usec = environ.get(WATCHDOG_VARIABLE, "")
        self.watchdog_s = int(usec) / USEC_PER_S if is_ours and usec.isdigit() and int(usec) else None

    def send_ready(self) -> None:
        """Tell that clients can connect."""
        self._send("READY=1")

    def send_stopping(self) -> None:
        """Tell that the service ends."""
        self._send("STOPPING=1")

    async def watch(self, is_healthy: Callable[[], bool]) -> None:
        """Tell twice in each watchdog_s that the service is alive, while it is healthy; return if nobody watches.

        A service that stays unhealthy for watchdog_s is then ended and started again.
        """
        if not self._address or self.watchdog_s is None:
            return
        while True:
            if is_healthy():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace, which has a null byte there.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(message.encode(), address)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", message, error.strerror or error)
