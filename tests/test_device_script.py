"""scripts/device run in toy shapes: every part runs to its end, and what it says adds up."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxserve.parallel.gpus import GPUS
from scripts.device_checks.shapes import CONFIGS

SCRIPTS = Path(__file__).parent.parent / "scripts"


def device(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "device"), "run", "--tiny", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("device") / "device.json"
    done = device("--json", str(file), "--minutes", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


@pytest.fixture
def models():
    return importlib.import_module("scripts.device_checks.models")


def test_every_part_leaves_records_and_none_breaks(whole):
    records = whole[1]["records"]
    kinds = {(record["part"], record["kind"]) for record in records}
    assert kinds >= {
        ("contract", "contract"),
        ("machine", "machine"),
        ("sampler", "sampler"),
        ("end_to_end", "end to end"),
        ("peer", "peer"),
        *((part, kind) for part in ("llama8b", "qwen06b", "llama1b") for kind in ("decode", "prefill")),
    }
    assert not [record for record in records if record.get("outcome") == "failed"]


def test_the_file_says_when_on_what_and_by_which_command(whole):
    about = whole[1]["about"]
    assert about["platform"] == "cpu" and about["versions"]["jax"] and about["date"].startswith("20")
    assert "--tiny" in about["command"]


def test_steps_are_judged_by_the_floor_of_this_machine(whole):
    output, written = whole
    for record in written["records"]:
        if record["kind"] in ("decode", "prefill"):
            assert record["percent_of_floor"] == pytest.approx(100 * record["floor_s"] / record["seconds"])
            assert record["host_s"] > 0
    assert "tok/s" in output and "contract   reference   passed" in output


def test_the_engine_answers_every_request_it_had_time_for(whole):
    [record] = [record for record in whole[1]["records"] if record["kind"] == "end to end"]
    if not record["stopped_early"]:
        assert record["requests_finished"] == 2 * record["rows"]
        assert record["output_tokens"] == 2 * record["rows"] * record["output"]


def test_a_part_in_its_own_process_says_the_same(tmp_path):
    done = device("machine", "--apart", "--json", str(tmp_path / "machine.json"))
    assert done.returncode == 0, done.stderr
    [record] = json.loads((tmp_path / "machine.json").read_text())["records"]
    assert record["kind"] == "machine" and record["copy_bytes_per_s"] > 0


def test_an_unknown_part_is_refused_by_name():
    done = device("machine", "coffee")
    assert done.returncode == 2 and "unknown parts coffee" in done.stderr


def test_the_floor_of_the_known_model_is_the_known_one(models):
    config = CONFIGS["Llama-3.1-8B"]
    architecture = models.find_architecture(config)
    cost = architecture.cost(architecture.spec(config))
    h200 = (GPUS["h200"].bytes_per_s, GPUS["h200"].flops_per_s)
    assert 1e3 * models.decode_work(cost, 2, 1, 256).floor_s(*h200) == pytest.approx(3.13, abs=0.02)
    assert 1e3 * models.decode_work(cost, 2, 128, 1024).floor_s(*h200) == pytest.approx(6.71, abs=0.02)
    assert 1e6 * models.prefill_work(cost, 2, 1024).floor_s(*h200) / 1024 == pytest.approx(14.3, abs=0.2)
