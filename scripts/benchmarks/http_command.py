"""What the subcommands that measure a server over HTTP share: flags, the server, and messages of failure."""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any

from scripts.benchmarks.client import Failed, Server


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the server."""
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--model", help="default: the server's own")
    parser.add_argument("--api-key", default=os.environ.get("JAXSERVE_API_KEY"))


async def server_of(arguments: argparse.Namespace) -> Server:
    """Return the server that the flags name, with the name of its model."""
    server = Server(arguments.url.rstrip("/").removesuffix("/v1"), arguments.model or "", arguments.api_key)
    return await server.named()


def run_over_http(subcommand: str, benchmark: Coroutine[Any, Any, int]) -> int:
    """Run a benchmark and return its exit code; 1 and a sentence on stderr if the server cannot be measured."""
    try:
        return asyncio.run(benchmark)
    except OSError as error:
        reason = f"no server answers ({error}); start one with scripts/serve, or give another --url"
    except Failed as error:
        reason = str(error)
    print(f"bench {subcommand}: {reason}", file=sys.stderr)
    return 1
