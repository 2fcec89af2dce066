"""What is logged of a request: that it came, what it asked for, and never what was said."""

import logging

import pytest

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

    common._warned.clear()
    for _ in range(2):
        await api.post(PATH, {**SECRET, "guided_regex": "a", "novel": 1})
    told = [line for line in lines() if "server" not in line and "POST" not in line]
    assert sum("unknown request fields: guided_regex, novel" in line for line in told) == 2
    assert sum("guided_regex is no longer known" in line for line in told) == 1
