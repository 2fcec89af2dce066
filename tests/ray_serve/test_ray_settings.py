"""The arguments of an application: flags of the server, the number of replicas, and what has no effect is refused."""

import pickle

import pytest

from jaxserve import BadConfig, EngineConfig
from server.config import ServerConfig
from server.ray.autoscaling import compute_num_replicas
from server.ray.settings import REFUSED, ReplicaConfig, read_settings


def read(**arguments):
    return read_settings(arguments, {})


def test_arguments_are_flags_of_the_server_and_texts_are_parsed():
    settings = read(model="org/name", max_model_len="8k", api_key_file="/keys", max_replicas="4", enable_lora="true")
    engine = settings.engine
    assert (engine.model, engine.max_model_len, engine.enable_lora) == ("org/name", 8192, True)
    assert (settings.server.api_key_file, settings.replicas) == ("/keys", ReplicaConfig(max_replicas=4))
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_arguments_win_over_the_environment():
    environ = {"JAXSERVE_MAX_NUM_SEQS": "3", "JAXSERVE_MAX_REPLICAS": "2"}
    settings = read_settings({"max_num_seqs": 5}, environ)
    assert (settings.engine.max_num_seqs, settings.replicas.max_replicas) == (5, 2)


def test_responses_are_not_kept_and_all_else_has_the_defaults_of_the_server():
    settings = read()
    assert settings.server == ServerConfig(responses_store_size=0)
    assert (settings.engine, settings.replicas) == (EngineConfig(), ReplicaConfig())


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_effect_is_refused_by_name(name):
    value = True if name.startswith(("allow", "enable", "keep", "server_dev")) else 0
    with pytest.raises(BadConfig, match=f"^{name} cannot be set for Ray Serve: "):
        read(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_modellen": 1}, "max-modellen"),
        ({"max_num_seqs": "many"}, "max-num-seqs"),
        ({"accelerator": "npu"}, "accelerator"),
        ({"min_replicas": 3}, "min_replicas must be from 0 to max_replicas=1, got 3"),
        ({"max_replicas": 0}, "max_replicas must be 1 or more, got 0"),
        ({"ingress_replicas": 0}, "ingress_replicas must be 1 or more"),
        ({"num_cpus": -1}, "num_cpus must be a number from 0 on"),
    ],
)
def test_what_cannot_work_is_said(arguments, message):
    with pytest.raises(BadConfig, match=message):
        read(**arguments)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({}, {"num_cpus": 1.0}),
        ({"num_cpus": 8}, {"num_cpus": 8.0}),
        ({"accelerator": "gpu", "tensor_parallel_size": 2}, {"num_cpus": 1.0, "num_gpus": 2}),
        ({"accelerator": "tpu", "tensor_parallel_size": 4}, {"num_cpus": 1.0, "resources": {"TPU": 4}}),
    ],
)
def test_each_replica_has_devices_of_its_own(arguments, options):
    assert read(**arguments).actor_options == options


def test_a_replica_is_busy_when_its_batch_is_full():
    settings = read(max_num_seqs=8)
    assert (settings.target_ongoing_requests, settings.max_ongoing_requests) == (8, 16)
    assert read(accelerator="tpu").target_ongoing_requests == 128
    settings = read(target_ongoing_requests=3, max_ongoing_requests=7, max_num_queued_reqs=9)
    assert (settings.target_ongoing_requests, settings.max_ongoing_requests, settings.max_queued_requests) == (3, 7, 9)


def test_replicas_are_as_many_as_the_requests_keep_busy():
    assert compute_num_replicas(0, 0, 2, 8) == 0
    assert compute_num_replicas(16, 0, 1, 8) == 2
    assert compute_num_replicas(16, 8, 1, 8) == 2  # those above the batch's rows are counted once
    assert compute_num_replicas(6, 4, 1, 8) == 1.5  # long ones: the cache is full before the batch is
