"""A server process with a FakeLLM: `fake_server.py PORT HELD DRAIN_S MAX_FILES`.

With HELD 1 no answer is completed. MAX_FILES is its limit of open files; 0: the system's.
"""

import asyncio
import resource
import sys

from server.app import create_app
from server.config import ServerConfig
from server.lifecycle import serve
from tests.fake_llm import FakeLLM


async def main(port: int, is_held: bool, drain_s: float) -> int:
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1 if is_held else None
    config = ServerConfig(host="127.0.0.1", port=port, drain_timeout_s=drain_s)
    return await serve(create_app(llm, config), config)


if __name__ == "__main__":
    if max_files := int(sys.argv[4]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    sys.exit(asyncio.run(main(int(sys.argv[1]), sys.argv[2] == "1", float(sys.argv[3]))))
