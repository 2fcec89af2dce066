"""The output of a start."""

import io

import pytest
from rich.console import Console

from jaxserve.config import DEFAULT_MODEL
from server.config import ServerConfig
from server.startup import BETTER_MODEL, StartupProgress, format_address, format_amount, format_rate, make_ready_table


def lines(*reports: tuple[str, float, float], terminal: bool = False) -> list[str]:
    shown = io.StringIO()
    with StartupProgress(Console(file=shown, force_terminal=terminal, width=100)) as phases:
        for report in reports:
            phases.report(*report)
    return shown.getvalue().splitlines()


def test_a_phase_is_one_line_when_it_is_over() -> None:
    shown = lines(("load", 0, 2e6), ("load", 2e6, 2e6), ("compile prefill 16", 1, 2), ("compile 2 cached", 2, 2))
    assert [line.split()[0] for line in shown] == ["load", "compile"]
    assert shown[0].endswith(" s  2.0 MB")
    assert shown[1].endswith(" s  2/2  2 cached")


def test_a_phase_that_is_over_is_not_shown_again_and_another_of_its_name_is() -> None:
    first, second = ("download", 2e6, 2e6), ("download", 3e6, 3e6)
    assert len(lines(("download", 0, 2e6), first, first, first)) == 1
    assert len(lines(first, first, ("download", 0, 3e6), second, second)) == 2


def test_phases_may_overlap_and_each_is_one_line() -> None:
    reports = [("import", 0, 0), ("load", 0, 2e6), ("compile 0 cached", 1, 2), ("load", 2e6, 2e6), ("compile", 2, 2)]
    assert [line.split()[0] for line in lines(*reports)] == ["import", "load", "compile"]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [(90e6, 100e6, 0.5, "180 MB/s"), (2e9, 16e9, 0.5, "4.00 GB/s"), (2, 4, 0.5, ""), (2e6, 2e6, 0.001, "")],
)
def test_bytes_have_a_rate_once_there_is_time_to_tell(done: float, total: float, seconds: float, text: str) -> None:
    assert format_rate(done, total, seconds) == text


def test_a_terminal_keeps_every_phase_in_view() -> None:
    shown = "\n".join(lines(("load", 0, 2e6), ("load", 2e6, 2e6), ("compile", 1, 2), terminal=True))
    assert "load" in shown and "compile" in shown and "✓" in shown


def test_a_start_that_fails_does_not_claim_that_its_phase_is_over() -> None:
    shown = io.StringIO()
    with pytest.raises(ValueError), StartupProgress(Console(file=shown)) as phases:
        phases.report("load", 0, 2e6)
        raise ValueError
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (12e6, 138.4e6, "12.0 of 138.4 MB"),
        (2e6, 2e6, "2.0 MB"),
        (1e9, 16e9, "1.00 of 16.00 GB"),
        (3, 14, "3/14"),
        (0, 0, ""),
    ],
)
def test_amounts_read_as_bytes_or_as_things(done: float, total: float, text: str) -> None:
    assert format_amount(done, total) == text


def test_the_table_says_where_to_go() -> None:
    shown = io.StringIO()
    Console(file=shown, width=120).print(
        make_ready_table({"model": "[m]", "max_len": "1"}, "http://localhost:1", "[here] only", 2.5)
    )
    assert "Ready in 2.5 s" in shown.getvalue()
    rows = [line.split() for line in shown.getvalue().splitlines()]
    assert ["model", "[m]"] in rows and ["max", "len", "1"] in rows
    assert "http://localhost:1/v1" in shown.getvalue()
    assert ["reachable", "from", "[here]", "only"] in rows


def test_the_small_default_model_names_a_better_one_and_its_size() -> None:
    def shown(model: str) -> str:
        page = io.StringIO()
        Console(file=page, width=120).print(make_ready_table({"model": model}, "http://localhost:1", "here", 2.5))
        return page.getvalue()

    assert f"jaxserve serve {BETTER_MODEL} (3.1 GB to fetch)" in shown(DEFAULT_MODEL)
    assert "better answers" not in shown("org/other")


def test_the_address_is_one_to_type() -> None:
    assert format_address(ServerConfig(host="example.org")) == "http://example.org:8000"
    assert format_address(ServerConfig(host="::1", root_path="/llm")) == "http://[::1]:8000/llm"
