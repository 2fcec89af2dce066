"""Cases of scripts/check_kinds about the wire: connections, bodies, metrics, and fields of other endpoints."""

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import psutil

from scripts.kind_checks.client import CHAT, TIMEOUT_S, Api, Case, Outcome

SOCKETS = 250
CLOSED_WITHIN_S = 3  # far below the time for which idle connections are kept
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: kinds\r\nContent-Type: application/json\r\n"
JSON = {"Content-Type": "application/json"}
STATES = {
    "nothing sent": b"",
    "half a head": HEAD[:40],
    "half a body": HEAD + b'Content-Length: 90\r\n\r\n{"messages": ',
    "kept alive": b"GET /health HTTP/1.1\r\nHost: kinds\r\n\r\n",
}
PROMETHEUS = {
    "2": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.1",
}


def connect(api: Api) -> socket.socket:
    parts = urlsplit(api.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=CLOSED_WITHIN_S)


def clients_that_leave(state: str) -> Callable[[Api], Outcome]:
    """A case: many connections in this state, closed by the client, leave no descriptor."""

    def check(api: Api) -> Outcome:
        process = psutil.Process(api.pid)
        before = process.num_fds()
        for _ in range(SOCKETS):
            with connect(api) as client:
                client.sendall(STATES[state])
                if state == "kept alive":
                    client.recv(1)
        httpx.get(api.url + "/health", timeout=TIMEOUT_S)  # accepted behind all of these
        end = time.monotonic() + CLOSED_WITHIN_S
        while process.num_fds() > before and time.monotonic() < end:
            time.sleep(0.05)
        return process.num_fds() <= before, f"{before} descriptors before, {process.num_fds()} after"

    return check


def large_chunk(api: Api) -> Outcome:
    with connect(api) as client, suppress(TimeoutError):
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n")
        line = client.recv(100).split(b"\r\n")[0]
        return b" 413 " in line, line.decode()
    return False, f"nothing within {CLOSED_WITHIN_S} s"


def byte_order_mark(api: Api) -> Outcome:
    reply = httpx.post(
        api.url + "/tokenize", content=b'\xef\xbb\xbf{"prompt": "leek"}', headers=JSON, timeout=TIMEOUT_S
    )
    return reply.status_code == 200, reply.text


def both_families(api: Api) -> Outcome:
    port = urlsplit(api.url).port
    answers = {}
    for family, _, _, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(CLOSED_WITHIN_S)
            answers[address[0]] = client.connect_ex(address)
    return bool(answers) and not any(answers.values()), answers


def metric_names(api: Api) -> Outcome:
    for version, accept in PROMETHEUS.items():
        text = httpx.get(api.url + "/metrics", headers={"Accept": accept}, timeout=TIMEOUT_S).text
        names = {re.match(r"[\w:]+", line)[0] for line in text.splitlines() if line[:1].isalpha()}  # pyright: ignore
        missing = {"vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:generation_tokens_total"} - names
        strange = {name for name in names if name.startswith(("vllm_", "jaxserve:"))}
        if missing or strange or not any(name.startswith("jaxserve_") for name in names):
            return False, f"Prometheus {version}: missing {missing}, strange {strange}"
    return True, ""


def series(api: Api, name: str) -> dict[str, float]:
    """The labels of each series of this name, as they are written, and its value."""
    text = httpx.get(api.url + "/metrics", timeout=TIMEOUT_S).text
    return {labels: float(value) for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.M)}


def cache_labels(api: Api) -> Outcome:
    labels = "".join(series(api, "vllm:cache_config_info"))
    wanted = ("block_size", "num_gpu_blocks", "kv_cache_size_tokens", "kv_cache_max_concurrency")
    return all(f'{name}="' in labels for name in wanted), labels


def iteration_tokens(api: Api) -> Outcome:
    name = "vllm:iteration_tokens_total_sum"
    before = sum(series(api, name).values())
    prompt = {"prompt": f"The {time.time_ns()} of spades", "max_tokens": 5, "ignore_eos": True}  # nobody's prefix
    usage = api.post("/v1/completions", prompt).json()["usage"]
    counted = sum(series(api, name).values()) - before
    return counted == usage["total_tokens"], f"{counted} counted, usage {usage['total_tokens']}"


def scored_ids(api: Api) -> Outcome:
    body = {"prompt": "A spade is", "max_tokens": 1, "temperature": 0, "logprobs": 0}
    answer = api.post("/v1/completions", body | {"logprob_token_ids": [900]}).json()
    choice = answer["choices"][0]
    scores = choice["logprobs"]["top_logprobs"][0]
    text = api.post("/detokenize", {"tokens": [900]}).json()["prompt"]
    refused = [api.post("/v1/completions", body | {"logprob_token_ids": value}) for value in (3.14, ["x"], [-1])]
    right = {text, choice["text"]} <= scores.keys() and all(one.status_code == 400 for one in refused)
    return right, (scores, [one.status_code for one in refused])


def chat_scored_ids(api: Api) -> Outcome:
    reply = api.post(
        CHAT,
        {
            "messages": [{"role": "user", "content": "Rake or hoe?"}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "logprob_token_ids": [900],
        },
    ).json()
    entry = reply["choices"][0]["logprobs"]["content"][0]
    told = [top["token"] for top in entry["top_logprobs"]]
    return entry["token"] in told and len(told) == 2, told


def completion_budget(api: Api) -> Outcome:
    reply = api.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "thinking_token_budget": 3.14})
    return reply.status_code == 400 and "thinking_token_budget" in reply.text, reply.text


def rendered_ids(api: Api) -> Outcome:
    replies = api.post("/v1/completions/render", {"prompt": ["rake", "hoe"], "stream": True}).json()
    ids = [reply["request_id"] for reply in replies]
    stem = ids[0].removesuffix("-0")
    return ids == [f"{stem}-0", f"{stem}-1"] and all(reply["stream"] is True for reply in replies), ids


def long_number(api: Api) -> Outcome:
    message = {"role": "user", "content": "Count."}
    reply = api.post(CHAT, {"messages": [message], "structured_outputs": {"structural_tag": "7" * 6000}})
    return reply.status_code == 400 and "structural tag" in reply.text and "sys." not in reply.text, reply.text


def worded_logprobs(api: Api) -> Outcome:
    reply = api.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "logprobs": "2"})
    return reply.status_code == 400 and "logprobs" in reply.text, reply.text


CASES = (
    *(Case("14 clients that leave", state, "hermes", clients_that_leave(state)) for state in STATES),
    Case("16 large chunk", "the size of a chunk beyond the body limit", "hermes", large_chunk),
    Case("16 byte order mark", "a JSON body behind a byte order mark", "hermes", byte_order_mark),
    Case("16 both families", "a connection to each address of localhost", "qwen3_coder", both_families),
    Case("21 metric names", "what Prometheus 2 and 3 accept", "hermes", metric_names),
    Case("c logprob_token_ids", "a completion that asks for a token's score", "hermes", scored_ids),
    Case("c logprob_token_ids", "the same in chat, without top_logprobs", "hermes", chat_scored_ids),
    Case("c thinking budget", "3.14 in a completion", "hermes", completion_budget),
    Case("d iteration tokens", "a completion, and its count in /metrics", "hermes", iteration_tokens),
    Case("e cache settings", "labels of vllm:cache_config_info", "hermes", cache_labels),
    Case("f rendered ids", "two prompts in one render request", "hermes", rendered_ids),
    Case("g long number", "a structural tag of 6,000 digits", "hermes", long_number),
    Case("h worded number", 'logprobs "2" in a completion', "hermes", worded_logprobs),
)
