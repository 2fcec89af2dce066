"""A server process with a FakeLLM: `fake_server.py PORT HELD DRAIN_S MAX_FILES HANG`.

With HELD 1 no answer is completed. MAX_FILES is its limit of open files; 0: the system's. HANG is "close": the model
cannot be closed, "engine": its engine dies after the first answer, too; else nothing hangs.
"""

import asyncio
import resource
import sys
from typing import Any

from server import lifecycle
from server.app import create_app
from server.config import ServerConfig
from server.lifecycle import serve
from tests.fake_llm import FakeLLM


class HangingLLM(FakeLLM):
    """A FakeLLM that cannot be closed. With `dies` its engine is dead after the first answer."""

    dies = False

    async def _generate(self, *arguments: Any) -> None:
        await super()._generate(*arguments)
        self.is_dead = self.dies

    async def close(self) -> None:
        await asyncio.Event().wait()


async def main(port: int, is_held: bool, drain_s: float, hang: str) -> int:
    llm = FakeLLM(["a", "b"])
    if hang:
        llm = HangingLLM(["a", "b"])
        llm.dies = hang == "engine"
        lifecycle.EXIT_GRACE_S, lifecycle.DEAD_ENGINE_GRACE_S, lifecycle.DEAD_ENGINE_EXIT_S = 0.2, 0.1, 0.5
    llm.hold_at = 1 if is_held else None
    config = ServerConfig(host="127.0.0.1", port=port, drain_timeout_s=drain_s)
    return await serve(create_app(llm, config), config)


if __name__ == "__main__":
    if max_files := int(sys.argv[4]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    sys.exit(asyncio.run(main(int(sys.argv[1]), sys.argv[2] == "1", float(sys.argv[3]), sys.argv[5])))
