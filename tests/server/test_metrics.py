"""/metrics: names, labels, buckets, and that every series exists from the start."""

import socket
from unittest.mock import AsyncMock, patch

import pytest
from prometheus_client.parser import text_string_to_metric_families as plain

from jaxserve import DeviceMemory, HistogramSnapshot
from jaxserve.engine import stats
from jaxserve.engine_snapshot import CacheGroupStats
from server.app import get_state
from server.engine_metrics import COUNTERS, HISTOGRAMS
from tests.fake_llm import FakeLLM, empty_stats
from tests.server.api import Api
from tests.server.pooling_llm import PoolingLLM

LABELS = {"model_name": "fake/model", "engine": "0"}


async def samples(api, **how):
    text = (await api.get("/metrics", **how)).text
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value for family in plain(text) for one in family.samples
    }


def key(name, **labels):
    return name, tuple(sorted({**LABELS, **labels}.items()))


PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    "accept",
    [
        *(PROMETHEUS_2, PROMETHEUS_3, "text/plain;version=1.0.0;escaping=underscores", "*/*", ""),
        *("application/openmetrics-text; version=1.0.0", "application/vnd.google.protobuf;encoding=delimited;q=0.7"),
    ],
)
async def test_names_keep_their_colon_whatever_is_accepted(api, accept):
    answer = await api.get("/metrics", headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in plain(answer.text)}
    assert {"vllm:num_requests_running", "vllm:prompt_tokens", "jaxserve_kv_pages"} <= names
    assert not [name for name in names if name.startswith(("vllm_", "jaxserve:"))]


async def test_every_series_is_there_from_the_start(api):
    seen = await samples(api)
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert seen[key(f"vllm:{name}")] == 0
    for name in COUNTERS:
        assert seen[key(f"vllm:{name}_total")] == 0
    for name in HISTOGRAMS:
        assert seen[key(f"vllm:{name}_count")] == 0
        assert seen[key(f"vllm:{name}_bucket", le="+Inf")] == 0
    for reason in ("stop", "length", "abort", "error", "repetition"):
        assert seen[key("vllm:request_success_total", finished_reason=reason)] == 0
    for source in ("local_compute", "local_cache_hit", "external_kv_transfer"):
        assert seen[key("vllm:prompt_tokens_by_source_total", source=source)] == 0
    for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
        labels = (("model_name", "fake/model"), ("reason", reason))
        assert seen["vllm:admission_rejections_total", labels] == 0
    for state in ("total", "free", "active", "cached"):
        assert key("jaxserve_kv_pages", group="full attention", state=state) in seen


async def test_the_numbers_are_the_snapshots(api):
    api.llm.snapshots[0] = empty_stats(
        num_requests_running=3,
        num_requests_waiting=2,
        cache_groups=(CacheGroupStats("full attention", 100, 75, 25, 0), CacheGroupStats("window 8", 40, 36, 4, 0)),
        counters={"generation_tokens": 7, "prompt_tokens_local_cache_hit": 16, "engine_steps": 5},
        finished={"stop": 4},
        histograms={"request_params_n": HistogramSnapshot((1, 2, 5, 10, 20), (3, 0, 1, 0, 0, 1), 40.0)},
    )
    seen = await samples(api)
    assert seen[key("vllm:num_requests_running")] == 3
    assert seen[key("vllm:num_requests_waiting_by_reason", reason="capacity")] == 2
    assert seen[key("vllm:kv_cache_usage_perc")] == 0.25
    assert seen[key("jaxserve_kv_pages", group="window 8", state="active")] == 4
    assert seen[key("vllm:generation_tokens_total")] == 7
    assert seen[key("vllm:prompt_tokens_by_source_total", source="local_cache_hit")] == 16
    assert seen[key("vllm:request_success_total", finished_reason="stop")] == 4
    assert seen[key("jaxserve_engine_steps_total")] == 5
    assert seen[key("jaxserve_requests_total", outcome="ok", reason="stop")] == 4
    buckets = [seen[key("vllm:request_params_n_bucket", le=bound)] for bound in ("1.0", "2.0", "5.0", "20.0", "+Inf")]
    assert buckets == [3, 3, 4, 4, 5]
    assert seen[key("vllm:request_params_n_sum")] == 40


async def test_every_counter_of_the_engine_is_shown(api):
    counters = {name: 1000.0 + number for number, name in enumerate(stats.COUNTERS)}
    api.llm.snapshots[0] = empty_stats(counters=counters)
    shown = set((await samples(api)).values())
    assert not {name for name, value in counters.items() if value not in shown}


async def test_the_cache_settings_are_labels(make_api):
    seen = await samples(make_api(llm=FakeLLM(block_size=32)))
    (labels,) = [dict(labels) for name, labels in seen if name == "vllm:cache_config_info"]
    assert (labels["block_size"], labels["num_gpu_blocks"]) == ("32", "100")
    assert {"enable_prefix_caching", "gpu_memory_utilization", "cache_dtype"} <= labels.keys()
    assert (labels["kv_cache_size_tokens"], labels["kv_cache_max_concurrency"]) == (str(99 * 32), str(99 * 32 / 64))


async def test_the_division_among_devices_is_shown(make_api):
    seen = await samples(make_api(llm=FakeLLM(tensor_parallel_size=2)))
    (labels,) = [dict(labels) for name, labels in seen if name == "jaxserve_parallel_config_info"]
    assert (labels["tensor_parallel_size"], labels["data_parallel_size"]) == ("2", "1")
    assert labels["enable_expert_parallel"] == "False"


async def test_sizes_count_up_to_the_context(api):
    seen = await samples(api)
    bounds = {dict(labels)["le"] for name, labels in seen if name == "vllm:request_prompt_tokens_bucket"}
    assert bounds == {"1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "+Inf"}


async def test_requests_are_counted_by_route_pattern(api):
    await api.chat()
    await api.chat(n=0)
    await api.get("/v1/models/fake/model")
    await api.get("/secret/path")
    await api.get("/health")
    seen = await samples(api)

    def count(handler, method, status):
        labels = {"handler": handler, "method": method, "status": status}
        return seen.get(("http_requests_total", tuple(sorted(labels.items()))), 0)

    assert count("/v1/chat/completions", "POST", "2xx") == 1
    assert count("/v1/chat/completions", "POST", "4xx") == 1
    assert count("/v1/models/{name}", "GET", "2xx") == 1
    assert count("none", "GET", "4xx") == 1
    handlers = {dict(labels).get("handler") for _, labels in seen}
    assert handlers == {None, "/v1/chat/completions", "/v1/models/{name}", "none"}


@pytest.mark.parametrize(
    "name",
    ["http_request_duration_highr_seconds_count", "process_resident_memory_bytes", "python_info"],
)
async def test_the_process_and_its_clock_are_there(api, name):
    assert name in {one for one, _ in await samples(api)}


async def test_refusals_at_our_own_door_are_counted(make_api):
    api = make_api(llm=FakeLLM(max_num_queued_reqs=1))
    with api.llm.admit(1):
        assert (await api.chat()).status == 503
    labels = (("model_name", "fake/model"), ("reason", "max_num_queued_reqs"))
    assert (await samples(api))["vllm:admission_rejections_total", labels] == 1


async def test_each_replica_has_series_of_its_own(make_api):
    api = make_api(llm=FakeLLM(data_parallel_size=2))
    api.llm.snapshots = [
        empty_stats(counters={"generation_tokens": n}, cache_groups=(CacheGroupStats("full attention", 100, 0, n, 0),))
        for n in (5, 7)
    ]
    seen = await samples(api)
    assert [seen[key("vllm:generation_tokens_total", engine=engine)] for engine in "01"] == [5, 7]
    assert [
        seen[key("jaxserve_kv_pages", engine=engine, group="full attention", state="active")] for engine in "01"
    ] == [5, 7]
    assert [seen[key("vllm:request_params_n_count", engine=engine)] for engine in "01"] == [0, 0]
    assert api.llm.stats().counters["generation_tokens"] == 12


async def test_requests_are_shown_by_their_state_and_by_how_they_ended(api):
    finished = {"stop": 1, "length": 2, "abort": 3, "error": 4, "repetition": 5}
    states = {"num_requests_running": 6, "num_requests_waiting": 7, "num_requests_preempted": 8}
    api.llm.snapshots[0] = empty_stats(**states, finished=finished, grammar_cache_entries=9)
    with patch.object(api.llm._queue, "rejected", lambda: {"max_num_queued_reqs": 10, "max_num_queued_tokens": 11}):
        seen = await samples(api)
    counts = {state: seen[key("jaxserve_requests", state=state)] for state in ("running", "waiting", "preempted")}
    assert counts == {"running": 6, "waiting": 7, "preempted": 8}
    outcomes = {
        dict(labels)["reason"]: (dict(labels)["outcome"], value)
        for (name, labels), value in seen.items()
        if name == "jaxserve_requests_total"
    }
    assert outcomes == {
        "stop": ("ok", 1),
        "length": ("ok", 2),
        "repetition": ("ok", 5),
        "abort": ("aborted", 3),
        "error": ("error", 4),
        "max_num_queued_reqs": ("rejected", 10),
        "max_num_queued_tokens": ("rejected", 11),
    }
    assert seen[key("jaxserve_grammar_cache_entries")] == 9


async def test_the_loop_s_longest_delay_since_the_last_scrape_is_shown_once(api):
    state = get_state(api.app)
    times = iter([0.0, 0.3, 1.0, 1.1, 2.0, 2.15])  # before and after each of three sleeps
    with patch("server.metrics.asyncio") as fake:
        fake.get_running_loop.return_value.time = lambda: next(times)
        fake.sleep = AsyncMock()
        with pytest.raises(RuntimeError, match="StopIteration"):
            await state.loop_lag.watch()
    assert (await samples(api))[key("jaxserve_event_loop_lag_seconds")] == pytest.approx(0.2)
    assert (await samples(api))[key("jaxserve_event_loop_lag_seconds")] == 0


async def test_the_memory_of_devices_is_shown_where_it_is_known(make_api):
    api = make_api(llm=FakeLLM(data_parallel_size=2))
    assert not [name for name, _ in await samples(api) if name.startswith("jaxserve_device_memory")]
    api.llm.device_memory = [(), (DeviceMemory("tpu:2", 5, 6, 7), DeviceMemory("tpu:3", 8, 9, 10))]
    seen = await samples(api)
    for name, values in {"used": (5, 8), "peak": (6, 9), "limit": (7, 10)}.items():
        for device, value in zip(("tpu:2", "tpu:3"), values, strict=True):
            assert seen[key(f"jaxserve_device_memory_{name}_bytes", engine="1", device=device)] == value


async def test_pooled_requests_are_counted_by_endpoint():
    api = Api(PoolingLLM())
    assert (await api.post("/v1/embeddings", {"input": ["ab", "c"]})).status == 200
    assert (await api.post("/v2/rerank", {"query": "a", "documents": ["b", "c"]})).status == 200
    assert (await api.post("/v1/embeddings", {"input": []})).status == 400
    seen = await samples(api)

    def count(name, endpoint):
        labels = {"model_name": "fake/model", "endpoint": endpoint}
        return seen[f"jaxserve_pooling_{name}", tuple(sorted(labels.items()))]

    names = ("requests_total", "texts_total", "tokens_total", "request_seconds_count")
    assert [count(name, "embeddings") for name in names] == [1, 2, 5, 1]
    assert [count(name, "rerank") for name in names] == [1, 3, 6, 1]
    for endpoint in ("pooling", "classify", "score"):
        assert [count(name, endpoint) for name in names] == [0, 0, 0, 0]


async def test_open_connections_and_descriptors_are_counted(api):
    before = await samples(api)
    assert before[key("jaxserve_open_connections")] == 0
    state = get_state(api.app)
    pair = socket.socketpair()
    try:
        state.connections.update(pair)
        seen = await samples(api)
    finally:
        for end in pair:
            end.close()
    assert seen[key("jaxserve_open_connections")] == 2
    assert seen["process_open_fds", ()] == before["process_open_fds", ()] + 2
