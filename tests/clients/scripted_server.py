"""The server of a ScriptedLLM: `python -m tests.clients.scripted_server PORT`."""

import asyncio
import sys
from typing import Any

from server.app import create_app
from server.config import ServerConfig
from server.lifecycle import serve
from tests.clients.scripted_llm import ScriptedLLM


async def main(port: int) -> int:
    """Serve until a signal. Return the exit status."""
    config = ServerConfig(host="127.0.0.1", port=port, drain_timeout_s=0)
    llm: Any = ScriptedLLM()  # the interface of AsyncLLM, as far as the server uses it
    return await serve(create_app(llm, config), config)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]))))
