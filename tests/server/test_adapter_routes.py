"""Adapters over HTTP: chosen by the model's name, listed as models, loaded and removed while the server runs."""

from dataclasses import replace

import pytest

from jaxserve import BadConfig
from jaxserve.models.registry import find_architecture
from server.app import create_app
from server.config import ServerConfig
from server.environment import read_settings
from tests.fake_llm import FakeLLM
from tests.models.tiny import random_weights, tiny_config
from tests.server.api import Api
from tests.weights.peft_writer import write_adapter, write_config

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def llama():
    config = tiny_config("llama")
    architecture = find_architecture(config)
    return architecture.params(architecture.spec(config)), random_weights(config, seed=3)


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(["sql", "legal"]):
        write_adapter(folder / name, llama[1], rank=4, seed=seed)
    write_adapter(folder / "wide", llama[1], rank=32)
    write_adapter(folder / "dora", llama[1])
    write_config(folder / "dora", use_dora=True)
    return folder


@pytest.fixture
def make_adapter_api(llama):
    def make(*modules: str, engine=None, **config) -> Api:
        llm = FakeLLM(params=llama[0], **({"enable_lora": True, "lora_modules": modules} | (engine or {})))
        return Api(llm, **({"allow_runtime_lora_updating": True} | config))

    return make


async def load(api, folder, name, **fields):
    return await api.post(LOAD, {"lora_name": name, "lora_path": str(folder / name), **fields})


def check_error(reply, status, kind, param):
    assert (reply.status, reply.error["type"], reply.error["param"]) == (status, kind, param), reply.text


async def list_ids(api):
    return [card["id"] for card in (await api.get("/v1/models")).json["data"]]


async def test_an_adapter_is_loaded_listed_used_and_removed(make_adapter_api, folder):
    api = make_adapter_api()
    check_error(await api.chat(model="sql"), 404, "NotFoundError", "model")
    reply = await load(api, folder, "sql")
    assert (reply.status, reply.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    card = (await api.get("/v1/models/sql")).json
    assert (card["root"], card["parent"], card["max_model_len"]) == (str(folder / "sql"), "fake/model", None)
    assert await list_ids(api) == ["fake/model", "sql"]
    assert (await api.chat(model="sql")).json["model"] == "sql"
    assert (await api.complete(model="sql")).json["model"] == "sql"
    assert (await api.chat()).json["model"] == "fake/model"
    assert [call.adapter and call.adapter.name for call in api.llm.calls] == ["sql", "sql", None]
    reply = await api.post(UNLOAD, {"lora_name": "sql", "lora_int_id": 1})
    assert (reply.status, reply.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    check_error(await api.chat(model="sql"), 404, "NotFoundError", "model")
    check_error(await api.post(UNLOAD, {"lora_name": "sql"}), 404, "NotFoundError", "lora_name")
    assert await list_ids(api) == ["fake/model"]


async def test_adapters_of_the_start_are_served_without_the_routes(make_adapter_api, folder):
    modules = [f"sql={folder / 'sql'}", f'{{"name": "b", "path": "{folder / "legal"}", "base_model_name": "base"}}']
    api = make_adapter_api(*modules, allow_runtime_lora_updating=False)
    assert await list_ids(api) == ["fake/model", "sql", "b"]
    assert (await api.get("/v1/models/b")).json["parent"] == "base"
    assert (await api.chat(model="b", stream=True)).events[0]["model"] == "b"
    assert (await load(api, folder, "legal")).status == 404
    assert (await api.post(UNLOAD, {"lora_name": "sql"})).status == 404
    error = (await api.chat(model="c")).error
    assert "fake/model, sql, b" in error["message"]


@pytest.mark.parametrize("body", [{}, {"lora_name": "a"}, {"lora_path": "a"}, {"lora_name": "", "lora_path": "a"}])
async def test_both_fields_are_needed(make_adapter_api, body):
    reply = await make_adapter_api().post(LOAD, body)
    check_error(reply, 400, "InvalidUserInput", "lora_path" if body.get("lora_name") else "lora_name")


async def test_a_name_is_taken_until_load_inplace_replaces_it(make_adapter_api, folder):
    api = make_adapter_api(f"sql={folder / 'sql'}")
    before = api.llm.find_adapter("sql")
    check_error(await load(api, folder, "sql"), 400, "InvalidUserInput", "lora_name")
    body = {"lora_name": "sql", "lora_path": str(folder / "legal"), "load_inplace": True}
    assert (await api.post(LOAD, body)).status == 200
    assert api.llm.find_adapter("sql") != before
    reply = await api.post(LOAD, body | {"lora_name": "fake/model"})
    check_error(reply, 400, "InvalidUserInput", "lora_name")


@pytest.mark.parametrize(("name", "status"), [("none", 404), ("dora", 400)])
async def test_files_that_cannot_be_served_are_refused_without_their_place(make_adapter_api, folder, name, status):
    kind = "NotFoundError" if status == 404 else "InvalidUserInput"
    reply = await load(make_adapter_api(), folder, name)
    check_error(reply, status, kind, "lora_path")
    assert status == 404 or str(folder) not in reply.text


async def test_a_rank_that_is_too_large_names_the_flag(make_adapter_api, folder):
    assert "--max-lora-rank 32" in (await load(make_adapter_api(), folder, "wide")).error["message"]


async def test_without_adapters_none_is_loaded(make_adapter_api, folder):
    api = make_adapter_api(engine={"enable_lora": False})
    reply = await load(api, folder, "sql")
    check_error(reply, 400, "InvalidUserInput", "lora_name")
    assert "--enable-lora" in reply.error["message"]


async def test_metrics_tell_of_adapters_where_there_are_some(make_adapter_api, api):
    name = "vllm:lora_requests_info{"
    assert name not in (await api.get("/metrics")).text
    api = make_adapter_api(engine={"max_loras": 3})
    stats = replace(api.llm.snapshots[0], running_adapters=("legal", "sql"), waiting_adapters=("sql",))
    api.llm.snapshots = [stats]
    labels = 'max_lora="3",running_lora_adapters="legal,sql",waiting_lora_adapters="sql"'
    assert f"{name}{labels}}}" in (await api.get("/metrics")).text


def test_an_adapter_may_not_have_a_name_of_the_model(llama, folder):
    llm = FakeLLM(params=llama[0], lora_modules=(f"sql={folder / 'sql'}",))
    with pytest.raises(BadConfig, match="'sql', which is a name of the model"):
        create_app(llm, ServerConfig(served_model_name=("base", "sql")))


def test_both_names_of_the_switch_are_read():
    for name in ("JAXSERVE_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        [setting] = read_settings({name: "1"}, ["allow_runtime_lora_updating"])
        assert setting == (name, "allow_runtime_lora_updating", "1")
