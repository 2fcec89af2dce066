"""Writes the Grafana dashboard: `python -m scripts.deploy.dashboard --write`; without --write it is printed.

The table below is the dashboard. Everything else that Grafana wants to be told is the same for all panels.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana" / "dashboards" / "jaxserve.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 7  # in Grafana's grid
# Filters of every query: the variables at the top of the dashboard.
ENGINE = 'instance=~"$instance",model_name=~"$model",engine=~"$engine"'
SERVER = 'instance=~"$instance"'
POOLING = f'{SERVER},model_name=~"$model"'
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Query:
    """One query of a panel. legend: Grafana's format, with labels in double braces."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. unit: Grafana's name of it. note: what the panel means, shown at its corner."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    note: str = ""


def quantiles(name: str, labels: str = ENGINE) -> tuple[Query, ...]:
    """Return queries for quantiles of a histogram."""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by(le) (rate({name}_bucket{{{labels}}}[$__rate_interval])))",
            f"{share:.0%}",
        )
        for share in QUANTILES
    )


def rate(name: str, legend: str = "", by: str = "instance", labels: str = ENGINE) -> Query:
    """Return the query for the rate of a counter, by one label."""
    return Query(f"sum by({by}) (rate({name}{{{labels}}}[$__rate_interval]))", legend or f"{{{{{by}}}}}")


def gauge(name: str, legend: str = "{{instance}}", by: str = "instance", labels: str = ENGINE) -> Query:
    """Return the query for the sum of a gauge, by one label."""
    return Query(f"sum by({by}) ({name}{{{labels}}})", legend)


def ratio(above: Query, below: Query, legend: str = "{{instance}}") -> Query:
    """Return the query for one query's values divided by another's of the same label."""
    return Query(f"{above.expr} / {below.expr}", legend)


def share_by_group(name: str, below: str) -> Query:
    """Return the query for a counter of cache groups divided by one of the engine."""
    above = f"sum by(group) (rate({name}{{{ENGINE}}}[$__rate_interval]))"
    return Query(f"{above} / scalar(sum(rate({below}{{{ENGINE}}}[$__rate_interval])))", "{{group}}")


ROOFLINE = rate("jaxserve_step_roofline_seconds_total")
DEVICE_TIME = rate("jaxserve_step_device_seconds_total")
ROWS: dict[str, tuple[Panel, ...]] = {
    "What users wait for": (
        Panel("Time to first token", "s", quantiles("vllm:time_to_first_token_seconds"), "Arrival to first token."),
        Panel("Time between tokens", "s", quantiles("vllm:inter_token_latency_seconds")),
        Panel("Whole request", "s", quantiles("vllm:e2e_request_latency_seconds"), "Arrival to last token."),
        Panel("Time in the queue", "s", quantiles("vllm:request_queue_time_seconds")),
        Panel("Prefill", "s", quantiles("vllm:request_prefill_time_seconds"), "First scheduled to first token."),
        Panel("Decode", "s", quantiles("vllm:request_decode_time_seconds"), "First to last token."),
    ),
    "Load": (
        Panel(
            "Tokens per second",
            "short",
            (
                rate("vllm:prompt_tokens_total", "prompt {{instance}}"),
                rate("vllm:generation_tokens_total", "generated {{instance}}"),
            ),
        ),
        Panel("Running requests", "short", (gauge("vllm:num_requests_running"),)),
        Panel("Waiting requests", "short", (gauge("vllm:num_requests_waiting"),)),
        Panel("Requests that ended", "reqps", (rate("vllm:request_success_total", by="finished_reason"),)),
        Panel(
            "Refused requests",
            "reqps",
            (rate("vllm:admission_rejections_total", by="reason", labels=f'{SERVER},model_name=~"$model"'),),
            "503, because the queue is full.",
        ),
        Panel("Replies by status", "reqps", (rate("http_requests_total", by="status", labels=SERVER),)),
        Panel("Prompt tokens of a request", "short", quantiles("vllm:request_prompt_tokens")),
        Panel("Generated tokens of a request", "short", quantiles("vllm:request_generation_tokens")),
        Panel("Tokens of a step", "short", quantiles("vllm:iteration_tokens_total")),
    ),
    "Embeddings, scores and ranks": (
        Panel("Pooled requests", "reqps", (rate("jaxserve_pooling_requests_total", by="endpoint", labels=POOLING),)),
        Panel(
            "Pooled texts and tokens",
            "short",
            (
                rate("jaxserve_pooling_texts_total", "texts, {{endpoint}}", by="endpoint", labels=POOLING),
                rate("jaxserve_pooling_tokens_total", "tokens, {{endpoint}}", by="endpoint", labels=POOLING),
            ),
        ),
        Panel(
            "Time of a pooled request",
            "s",
            quantiles("jaxserve_pooling_request_seconds", labels=POOLING),
            "Admission to the last pooled text.",
        ),
    ),
    "Cache": (
        Panel(
            "Key-value cache in use",
            "percentunit",
            (Query(f"vllm:kv_cache_usage_perc{{{ENGINE}}}", "{{instance}} {{engine}}"),),
            "Share of pages held by running requests.",
        ),
        Panel(
            "Pages by group",
            "short",
            tuple(
                Query(f'sum by(group) (jaxserve_kv_pages{{{ENGINE},state="{state}"}})', f"{{{{group}}}}, {state}")
                for state in ("active", "cached", "free")
            ),
            "A group is the layers that keep the same kind of cache.",
        ),
        Panel("Preemptions", "ops", (rate("vllm:num_preemptions_total"),), "Requests that are computed again."),
        Panel(
            "Prompt tokens from the prefix cache",
            "percentunit",
            (ratio(rate("vllm:prefix_cache_hits_total"), rate("vllm:prefix_cache_queries_total")),),
        ),
        Panel(
            "Prefix hits by group",
            "percentunit",
            (share_by_group("jaxserve_prefix_cache_served_tokens_total", "vllm:prefix_cache_queries_total"),),
            "What each group could serve; a hit needs every group.",
        ),
        Panel(
            "Snapshots of recurrent states",
            "ops",
            tuple(
                rate(f"jaxserve_snapshots_{event}_total", f"{event} {{{{instance}}}}")
                for event in ("taken", "restored", "evicted", "offloaded", "reloaded")
            ),
        ),
    ),
    "Engine": (
        Panel(
            "Step time: share of the machine's measured speed",
            "percentunit",
            (ratio(ROOFLINE, DEVICE_TIME),),
            "Least time of the steps by the roofline, divided by the time that the device was computing.",
        ),
        Panel(
            "Mean step time",
            "s",
            (
                ratio(DEVICE_TIME, rate("jaxserve_engine_steps_total"), "device {{instance}}"),
                ratio(ROOFLINE, rate("jaxserve_engine_steps_total"), "roofline {{instance}}"),
            ),
        ),
        Panel("Host time of a step", "s", quantiles("jaxserve_host_step_seconds")),
        Panel("Bytes read per second", "Bps", (rate("jaxserve_step_bytes_total"),), "Weights, live keys and values."),
        Panel("Operations per second", "flops", (rate("jaxserve_step_flops_total"),)),
        Panel("Time of grammar masks", "s", quantiles("jaxserve_grammar_masks_seconds")),
    ),
    "Faults and process": (
        Panel(
            "Faults",
            "ops",
            (
                rate("jaxserve_request_faults_total", "requests that failed on the host, {{instance}}"),
                rate("jaxserve_engine_rebuilds_total", "rebuilds after a failed step, {{instance}}"),
                rate("jaxserve_nonfinite_logits_total", "logits that are not finite, {{instance}}"),
                rate("jaxserve_helper_restarts_total", "workers replaced, {{instance}}"),
            ),
        ),
        Panel("Programs compiled", "ops", (rate("jaxserve_compilations_total"),), "None once the server is ready."),
        Panel("Delay of the event loop", "s", (gauge("jaxserve_event_loop_lag_seconds"),)),
        Panel(
            "Memory of the process",
            "bytes",
            (gauge("process_resident_memory_bytes", labels=SERVER),),
            "Of the host.",
        ),
        Panel(
            "Memory of the devices",
            "bytes",
            tuple(
                Query(f"jaxserve_device_memory_{what}_bytes{{{ENGINE}}}", f"{what} {{{{instance}}}} {{{{device}}}}")
                for what in ("used", "peak", "limit")
            ),
            "Of GPUs and TPUs. Pages are allocated at the start, so that this hardly changes.",
        ),
        Panel("Processor cores in use", "short", (rate("process_cpu_seconds_total", labels=SERVER),)),
        Panel(
            "Connections and files",
            "short",
            (
                gauge("jaxserve_open_connections", "connections {{instance}}"),
                gauge("process_open_fds", "open files {{instance}}", labels=SERVER),
            ),
        ),
    ),
}
VARIABLES = (
    ("instance", "server", "label_values(vllm:num_requests_running, instance)"),
    ("model", "model", "label_values(vllm:num_requests_running, model_name)"),
    ("engine", "replica", "label_values(vllm:num_requests_running, engine)"),
)


def make_dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    return {
        "uid": "jaxserve",
        "title": "jaxserve",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": list(_make_variables())},
        "panels": list(_make_panels()),
    }


def _make_variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"}
    for name, label, query in VARIABLES:
        everything = {"text": "All", "value": "$__all"}
        yield {
            **{"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1},
            **{"query": {"query": query, "refId": name}, "includeAll": True, "multi": True, "current": everything},
        }


def _make_panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for heading, panels in ROWS.items():
        number += 1
        position = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": heading, "collapsed": False, "gridPos": position, "panels": []}
        y += 1
        for index, panel in enumerate(panels):
            number += 1
            line, column = divmod(index * PANEL_WIDTH, WIDTH)
            position = {"x": column, "y": y + line * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT}
            yield _make_panel(panel, number, position)
        y += -(-len(panels) * PANEL_WIDTH // WIDTH) * PANEL_HEIGHT


def _make_panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    custom = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}
            for index, query in enumerate(panel.queries)
        ],
    }


def render() -> str:
    """Return the text of the file."""
    return json.dumps(make_dashboard(), indent=1) + "\n"


def main() -> int:
    """Print the dashboard, or write it where Grafana finds it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.deploy.dashboard", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} instead of printing it")
    if parser.parse_args().write:
        FILE.write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
