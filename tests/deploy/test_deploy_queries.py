"""The dashboard and the alerts ask only for series that /metrics has."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.deploy import dashboard
from tests.deploy.promql import Scrape, Selector, fill_variables, read_result_labels, read_selectors
from tests.sources import REPO

DEPLOY = REPO / "scripts" / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DOWNLOADED = REPO / ".venv" / "prometheus" / "usr" / "bin" / "promtool"
PROMTOOL = shutil.which("promtool") or (str(DOWNLOADED) if DOWNLOADED.is_file() else None)
NEEDS_PROMTOOL = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here; scripts/test fetches Debian's")
SOME_TEXT = """
# TYPE vllm:a counter
vllm:a_total{engine="0",reason="stop"} 1
"""


def list_alerts() -> Iterator[dict[str, object]]:
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]:
        yield from group["rules"]


def test_the_dashboard_is_what_the_table_says() -> None:
    """Mended by `python -m scripts.deploy.dashboard --write`."""
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.render()


def test_every_query_of_the_dashboard_finds_series(scrape: Scrape) -> None:
    panels = json.loads(dashboard.FILE.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(queries) > 40
    assert {query: faults for query in queries if (faults := scrape.find_faults(fill_variables(query)))} == {}


def test_every_variable_of_the_dashboard_is_a_label_of_its_series(scrape: Scrape) -> None:
    for name, _, query in dashboard.VARIABLES:
        series, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
        assert scrape.find_faults(f"sum by({label}) ({series})") == [], name


def test_labels_in_legends_are_in_the_result() -> None:
    for panel in (panel for panels in dashboard.ROWS.values() for panel in panels):
        for query in panel.queries:
            if labels := read_result_labels(query.expr):
                named = {part.split("}}")[0] for part in query.legend.split("{{")[1:]}
                assert named <= labels, panel.title


def test_panels_lie_beside_each_other_and_have_different_ids() -> None:
    panels = dashboard.make_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= dashboard.WIDTH and not cells & taken
        taken |= cells


def test_every_alert_finds_series(scrape: Scrape) -> None:
    faults = {alert["alert"]: scrape.find_faults(str(alert["expr"])) for alert in list_alerts()}
    assert len(faults) > 5
    assert {name: what for name, what in faults.items() if what} == {}


def test_the_alert_of_a_server_that_is_down_names_the_job_that_scrapes_it() -> None:
    jobs = {job["job_name"] for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]}
    [alert] = [alert for alert in list_alerts() if alert["alert"] == "JaxserveDown"]
    assert [dict(selector.patterns)["job"] for selector in read_selectors(str(alert["expr"]))] == list(jobs)


@NEEDS_PROMTOOL
@pytest.mark.parametrize(
    "words", [["check", "rules", "alerts.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]]
)
def test_promtool_takes_the_files(words: list[str]) -> None:
    ended = subprocess.run([str(PROMTOOL), *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@NEEDS_PROMTOOL
def test_promtool_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    queries = {query.expr for panels in dashboard.ROWS.values() for panel in panels for query in panel.queries}
    rules = [{"record": f"query:{index}", "expr": fill_variables(query)} for index, query in enumerate(sorted(queries))]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ended = subprocess.run(
        [str(PROMTOOL), "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout.decode() + ended.stderr.decode()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("up", ["up"]),
        ("rate(vllm:a_total[5m]) / 2", ["vllm:a_total"]),
        ('histogram_quantile(0.9, sum by(le) (rate(a_bucket{x="y"}[1m])))', ["a_bucket"]),
        ("sum by(x) (a) > 0.1 * scalar(sum(b)) and c", ["a", "b", "c"]),
        ("1e3 + max_over_time(a_b:c[5m])", ["a_b:c"]),
    ],
)
def test_the_names_in_a_query_are_found(query: str, names: list[str]) -> None:
    assert [selector.name for selector in read_selectors(query)] == names


def test_patterns_of_labels_are_read() -> None:
    assert read_selectors('a{x="1.5",y=~"b|c"}') == (Selector("a", (("x", r"1\.5"), ("y", "b|c"))),)


@pytest.mark.parametrize(
    ("query", "num_faults"),
    [
        ("rate(vllm:a_total[5m])", 0),
        ('sum by(reason, instance) (vllm:a_total{reason=~"stop|length",instance="here"})', 0),
        ("rate(vllm:a[5m])", 1),
        ('vllm:a_total{reason="length"}', 1),
        ('vllm:a_total{status="stop"}', 1),
        ("sum by(status) (vllm:a_total)", 1),
        ("vllm:a_total / b", 1),
        ("1 + 1", 1),
    ],
)
def test_a_query_of_what_is_not_there_is_noticed(query: str, num_faults: int) -> None:
    assert len(Scrape.from_text(SOME_TEXT, instance="here").find_faults(query)) == num_faults
