"""What hostile requests cost everybody else: scripts/bench attacks [--only NAME] [--json FILE]

A server of its own is started with a tiny model. While each attack of the table runs, /live is asked every 20 ms over a
connection of its own, and a bystander's stream decodes; afterwards a request must give the tokens that it gave before.
"""

import argparse
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psutil
from rich.console import Console
from rich.table import Table

PROBE_S = 0.02
TIMEOUT_S = 300.0
MIB = 1 << 20
REFERENCE = {"prompt": "abc", "temperature": 0, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "a"}]


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile request.

    name      What it does.
    path      Where it is sent.
    body      A function that makes its body.
    num       The number of connections that send it at the same time.
    chunks    Its body is sent in chunks of one byte.
    """

    name: str
    path: str
    body: Callable[[], bytes]
    num: int = 1
    chunks: bool = False


def _json(**fields: Any) -> Callable[[], bytes]:
    """Return a function that writes the body: fields that are functions are called then."""
    return lambda: json.dumps({name: value() if callable(value) else value for name, value in fields.items()}).encode()


def _raw(head: bytes, item: bytes, num_bytes: int, tail: bytes) -> Callable[[], bytes]:
    """Return a function that writes a body of about num_bytes: head, an item again and again, tail."""
    return lambda: head + b",".join([item] * (num_bytes // (len(item) + 1))) + tail


def _prompts_and_biases(num_prompts: int, vocab_size: int) -> Callable[[], bytes]:
    bias = {str(token): 1 for token in range(vocab_size)}
    return _json(prompt=["a"] * num_prompts, logit_bias=lambda: bias, max_tokens=1)


def _history(num_calls: int) -> list[dict[str, Any]]:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}] * num_calls
    return [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": calls}, *MESSAGES]


def _schema(num_properties: int) -> dict[str, Any]:
    properties = {f"property_{number}": {"type": "string"} for number in range(num_properties)}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": properties}}}


def list_attacks(vocab_size: int) -> tuple[Attack, ...]:
    """Return the table of attacks on a model with a vocabulary of this size."""
    chat = b'{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"x":['
    return (
        Attack("256 prompts, each token biased", "/v1/completions", _prompts_and_biases(256, vocab_size)),
        Attack("1024 prompts, each token biased", "/v1/completions", _prompts_and_biases(1024, vocab_size)),
        Attack("render 64 prompts, each token biased", "/v1/completions/render", _prompts_and_biases(64, vocab_size)),
        Attack("300,000 chunks of a byte", CHAT, lambda: b" " * 300_000, chunks=True),
        Attack("100,000 equal bad_words", CHAT, _json(messages=MESSAGES, bad_words=["a"] * 100_000, max_tokens=1)),
        Attack("200 long bad_words", CHAT, _json(messages=MESSAGES, bad_words=["a b" * 13_000] * 200, max_tokens=1)),
        Attack("4 MiB of empty arrays", CHAT, _raw(chat, b"[]", 4 * MIB, b"]}")),
        Attack("16 MiB of empty arrays", CHAT, _raw(chat, b"[]", 16 * MIB, b"]}")),
        Attack("60 MiB of empty objects", CHAT, _raw(chat, b"{}", 60 * MIB, b"]}")),
        Attack("8 MiB of arrays as messages", CHAT, _raw(b'{"messages":[', b"[]", 8 * MIB, b"]}")),
        Attack("3 MiB of empty tools", CHAT, _raw(b'{"messages":[],"tools":[', b"{}", 3 * MIB, b"]}")),
        Attack("60 MiB of one text", CHAT, _json(messages=[{"role": "user", "content": "a" * 60 * MIB}])),
        Attack("65,000 content parts", CHAT, _json(messages=lambda: _parts(65_000), max_tokens=1)),
        Attack("16,000 messages", CHAT, _json(messages=MESSAGES * 16_000, max_tokens=1)),
        Attack("100,000 calls in the history", CHAT, _json(messages=lambda: _history(100_000), max_tokens=1)),
        Attack("a schema of 8 MiB", CHAT, _json(messages=MESSAGES, response_format=lambda: _schema(200_000))),
        Attack("the most objects", CHAT, _json(messages=MESSAGES, response_format=lambda: _schema(120_000))),
        Attack("a schema of 900 KiB", CHAT, _json(messages=MESSAGES, response_format=lambda: _schema(22_000))),
        Attack("200,000 vllm_xargs", CHAT, _json(messages=MESSAGES, vllm_xargs={str(n): n for n in range(200_000)})),
        Attack("the most members", CHAT, _json(messages=MESSAGES, vllm_xargs={str(n): n for n in range(262_000)})),
        Attack("1,500,000 equal choices", CHAT, _json(messages=MESSAGES, structured_outputs=_choices(1_500_000))),
        Attack("20,000 choices", CHAT, _json(messages=MESSAGES, structured_outputs=_choices(20_000), max_tokens=1)),
        Attack("100,000 stop_token_ids", CHAT, _json(messages=MESSAGES, stop_token_ids=[1] * 100_000)),
        Attack("2,000,000 stop strings", CHAT, _json(messages=MESSAGES, stop=["a"] * 2_000_000)),
        Attack("5,000,000 allowed ids", CHAT, _raw(chat[:-5] + b'"allowed_token_ids":[', b"1", 10_000_000, b"]}")),
        Attack("2,000,000 prompt ids", "/v1/completions", _json(prompt=[1] * 2_000_000)),
        Attack("4 x tokenize 1.3 MB", "/tokenize", _json(prompt="some words " * 120_000), num=4),
        Attack("tokenize 20 MB", "/tokenize", _json(prompt="some words " * 1_800_000)),
        Attack("detokenize 2,000,000 ids", "/detokenize", _json(tokens=[5] * 2_000_000)),
        Attack("a number of 4 MB", CHAT, _json(messages=MESSAGES, x=[10**4000] * 1000)),
        Attack("1024 choices", CHAT, _json(messages=MESSAGES, n=1024, max_tokens=4)),
    )


def _parts(num: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "a"}] * num}]


def _choices(num: int) -> Callable[[], dict[str, Any]]:
    return lambda: {"choice": ["a"] * num}


@dataclass(slots=True)
class Cost:
    """What an attack cost.

    name           The attack.
    status         The status of the first reply; 0: the connection was closed.
    seconds        The time until all replies were there.
    max_live_ms    The longest time that /live took meanwhile.
    rss_mib        The growth of the server's resident memory, at its highest.
    same_tokens    A request gave the same tokens afterwards as before all attacks.
    """

    name: str
    status: int
    seconds: float
    max_live_ms: float
    rss_mib: float
    same_tokens: bool


class Prober:
    """A thread that asks /live every PROBE_S and reads the server's memory, while the block runs."""

    def __init__(self, url: str, pid: int) -> None:
        self._address, self._process = urlsplit(url).netloc, psutil.Process(pid)
        self._before_bytes = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.max_live_s, self.max_growth_bytes = 0.0, 0

    def __enter__(self) -> "Prober":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        while not self._stop.wait(PROBE_S):
            started = time.perf_counter()
            connection.request("GET", "/live")
            reply = connection.getresponse()
            reply.read()
            self.max_live_s = max(self.max_live_s, time.perf_counter() - started)
            self.max_growth_bytes = max(self.max_growth_bytes, self._process.memory_info().rss - self._before_bytes)
            if reply.status != 200:
                raise AssertionError(f"/live answered {reply.status}")
        connection.close()


def post(url: str, path: str, body: bytes, chunks: bool = False) -> tuple[int, bytes]:
    """Send a body and return the status and the reply; status 0: the connection was closed without one."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as sock:
        length = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
        lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", "Connection: close", length)
        data = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n" if chunks else body
        reply = bytearray()
        with suppress(OSError):  # the server has answered and does not read on
            sock.sendall("\r\n".join((*lines, "", "")).encode() + data)
        with suppress(OSError):
            while piece := sock.recv(1 << 16):
                reply += piece
    status = int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else 0
    return status, bytes(reply).partition(b"\r\n\r\n")[2]


def run_attack(attack: Attack, url: str, pid: int, expected: list[int]) -> Cost:
    """Run an attack and return what it cost. expected: the tokens of REFERENCE."""
    body = attack.body()
    statuses: list[int] = []
    senders = [
        threading.Thread(target=lambda: statuses.append(post(url, attack.path, body, attack.chunks)[0]))
        for _ in range(attack.num)
    ]
    started = time.perf_counter()
    with Prober(url, pid) as prober:
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        seconds = time.perf_counter() - started
    same = reference_tokens(url) == expected
    growth = prober.max_growth_bytes / MIB
    return Cost(attack.name, statuses[0], round(seconds, 2), round(1000 * prober.max_live_s, 1), round(growth), same)


def reference_tokens(url: str) -> list[int]:
    """Return the tokens of a harmless request."""
    status, reply = post(url, "/v1/completions", json.dumps(REFERENCE).encode())
    if status != 200:
        raise AssertionError(f"a harmless request got {status}: {reply[:200]!r}")
    return json.loads(reply)["choices"][0]["token_ids"]


def run_attacks(url: str, pid: int, vocab_size: int, only: str = "") -> Iterator[Cost]:
    """Run the attacks whose names contain `only`, one after another, and yield what each cost."""
    expected = reference_tokens(url)
    for attack in list_attacks(vocab_size):
        if only in attack.name:
            yield run_attack(attack, url, pid, expected)


def show(costs: Sequence[Cost]) -> None:
    """Print the costs as a table."""
    table = Table("attack", "status", "seconds", "/live, ms", "memory, MiB", "same tokens")
    for cost in costs:
        table.add_row(*(str(value) for value in asdict(cost).values()))
    Console(width=120).print(table)


def main(words: Sequence[str]) -> int:
    """Start a server, run the attacks, and print what they cost."""
    from tests.end_to_end.running_server import SMALL_SERVER_FLAGS, RunningServer
    from tests.models.tiny import write

    parser = argparse.ArgumentParser(prog="bench attacks", description=__doc__)
    parser.add_argument("--only", default="", help="run the attacks whose names contain this")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--model", help="model to serve; default: a tiny one with random weights")
    parser.add_argument("--vocab-size", type=int, help="tokens of that model's vocabulary", default=0)
    arguments = parser.parse_args(words)
    costs: list[Cost] = []
    with TemporaryDirectory() as folder:
        model = arguments.model or write(Path(folder), "llama", seed=3)
        with RunningServer(model, *SMALL_SERVER_FLAGS) as server:
            size = arguments.vocab_size or json.loads((Path(model) / "config.json").read_text())["vocab_size"]
            for cost in run_attacks(server.url, server.pid, size, arguments.only):
                print(cost, flush=True)
                costs.append(cost)
    show(costs)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    return 0
