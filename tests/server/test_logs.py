"""Logging of requests: the access log, parameters on demand, and never prompts or answers."""

import json
import logging
import subprocess
import sys

import pytest

from server import logs
from server.config import PROBE_PATHS

PATH = "/v1/chat/completions"
SECRET = {"messages": [{"role": "user", "content": "whisper"}]}


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("server")]


async def test_one_access_line_without_a_prompt(api, lines):
    await api.post(PATH, SECRET)
    (line,) = lines()
    assert f'"POST {PATH}" 200' in line
    assert "whisper" not in line


async def test_labels_lose_their_control_characters(api, lines):
    await api.post(PATH, SECRET, headers={"X-Request-Id": "a\x1b[31mb"})
    assert lines()[0].endswith("id=a?[31mb")


async def test_parameters_are_logged_on_demand(make_api, lines):
    await make_api(enable_log_requests=True).post(PATH, {**SECRET, "temperature": 0.5, "request_id": "its"})
    first, _ = lines()
    assert "chatcmpl-its" in first and "temperature=0.5" in first
    assert "whisper" not in first


async def test_a_long_constraint_makes_no_long_line(make_api, lines):
    asked = {"structured_outputs": {"regex": "long" * 10_000}}
    await make_api(enable_log_requests=True).post(PATH, {**SECRET, **asked})
    assert 1000 < len(lines()[0]) < 3000


async def test_lines_can_be_switched_off(make_api, lines):
    await make_api(disable_access_log_for_endpoints=("/health,/live",)).get("/health")
    await make_api(disable_access_log=True).get("/version")
    assert lines() == []


async def test_unknown_fields_are_told_at_debug_level_and_legacy_ones_once(api, lines):
    from server.schemas import common

    common._warned_fields.clear()
    for _ in range(2):
        await api.post(PATH, {**SECRET, "guided_regex": "a", "novel": 1})
    told = [line for line in lines() if "server" not in line and "POST" not in line]
    assert sum("unknown request fields: guided_regex, novel" in line for line in told) == 2
    assert sum("guided_regex is no longer known" in line for line in told) == 1


@pytest.mark.parametrize("path", PROBE_PATHS)
async def test_probes_and_scrapes_are_logged_on_demand_only(api, make_api, lines, path):
    await api.get(path)
    assert lines() == []
    await make_api(disable_access_log_for_endpoints=("",)).get(path)
    assert f'"GET {path}"' in lines()[0]


async def test_an_access_line_as_json_has_its_parts_apart(api, caplog):
    caplog.set_level(logging.INFO)
    await api.post(PATH, SECRET, headers={"X-Request-Id": "mine"})
    line = json.loads(logs.JsonFormatter().format(caplog.records[0]))
    assert {
        "method": "POST",
        "path": PATH,
        "status": 200,
        "request_id": "mine",
        "level": "info",
    }.items() <= line.items()
    assert line["bytes"] > 0 and line["seconds"] > 0 and line["logger"] == "server.access"


NOISE = """
import logging, sys, threading, warnings
from server import logs
logs.configure_logging("LEVEL", "json")
log = logging.getLogger("server.some")
log.debug("debug"); log.info("info \\u2028 two\\nlines"); log.error("error"); logging.getLogger("other").info("theirs")
log.info("%d", "a mistake in a call")
warnings.warn("warned")
print("printed", "apart", file=sys.stderr)
try: 1 / 0
except ZeroDivisionError: log.exception("failed")
thread = threading.Thread(target=lambda: [].pop()); thread.start(); thread.join()
raise ValueError("the end")
"""


def noise(level: str) -> list[dict[str, object]]:
    ended = subprocess.run([sys.executable, "-c", NOISE.replace("LEVEL", level)], capture_output=True, text=True)
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_every_line_on_standard_error_is_one_json_object():
    seen = {line["message"]: line for line in noise("debug")}
    assert {"debug", "info \u2028 two\nlines", "error", "printed apart", "failed"} <= seen.keys()
    assert "--- Logging error ---" in seen and "theirs" not in seen
    assert any("UserWarning: warned" in message for message in seen)
    for message, raised in (
        ("failed", "ZeroDivisionError: division by zero"),
        ("uncaught IndexError", "IndexError: pop from empty list"),
        ("uncaught ValueError", "ValueError: the end"),
    ):
        assert seen[message]["exception"].startswith("Traceback") and seen[message]["exception"].endswith(raised)
    assert {line["level"] for line in seen.values()} == {"debug", "info", "warning", "error", "critical"}


def test_the_level_holds_for_all():
    assert {line["level"] for line in noise("error")} == {"error", "critical"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_start_that_fails_says_so_in_the_format_that_was_asked_for(form):
    words = ["serve", "/no/such/model", "--port", "0", "--log-format", form]
    ended = subprocess.run([sys.executable, "-m", "server", *words], capture_output=True, text=True, timeout=120)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 78
    if form == "text":
        assert last.startswith("jaxserve: ")
    else:
        assert [json.loads(line)["logger"] for line in ended.stderr.splitlines()][-1] == "server"
        assert json.loads(last)["level"] == "critical"
