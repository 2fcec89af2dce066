"""scripts/bench peers from end to end, against servers that are none: everybody's turn, the report, the plot."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).parent.parent
SCRIPTS = REPO / "scripts"
MODULES = ("command", "contenders", "measure", "plot", "prepare", "report", "rounds", "weights")
NAMES = ["jaxserve float32", "llama.cpp f32", "transformers float32"]


@pytest.fixture(scope="module")
def peers() -> dict[str, ModuleType]:
    return {name: import_module(f"scripts.benchmarks.peers.{name}") for name in MODULES}


def program(kind: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.fake_peer", kind, *words)


@pytest.fixture(scope="module")
def results(peers: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two rounds of tiny loads left behind."""
    here = {"PYTHONPATH": str(REPO)}
    contender, loads = peers["contenders"].Contender, peers["measure"].Loads
    serve, directory = program("serve", "{port}"), tmp_path_factory.mktemp("peers")
    everybody = [
        contender("jaxserve float32", serve, here, chunk_tokens=16),
        contender("jaxserve int8", program("refuse"), here, chunk_tokens=16),
        contender("llama.cpp f32", serve, here, chunk_tokens=64, long_command=serve, bench_command=program("bench")),
        contender("vLLM float32", missing="no vllm here; make one"),
        contender("other template", program("miscount", "{port}"), here),
        contender("transformers float32", program("static"), here, is_static=True),
    ]
    tiny = loads(
        (1, 8, 32), (1, 2, 3), input_len=9, output_len=5, prefill_len=20, num_prefills=2, streams=3, long_len=64
    )
    file = directory / "results.json"
    peers["rounds"].race(everybody, tiny, 2, model="tiny", logs=directory / "logs", results=file)
    return file


@pytest.fixture
def found(results: Path) -> dict[str, Any]:
    return json.loads(results.read_text())


def test_everybody_has_a_turn_in_every_round(found: dict[str, Any]) -> None:
    assert [(turn["round"], turn["contender"]) for turn in found["turns"]] == [
        (n, name) for n in (1, 2) for name in NAMES
    ]
    for turn in found["turns"]:
        assert [load["max_concurrency"] for load in turn["serving"]] == [1, 8, 32]
        is_static = turn["contender"] == "transformers float32"
        assert [load["num_prompts"] for load in turn["serving"]] == ([2, 8, 32] if is_static else [1, 2, 3])
        assert turn["prefill"]["input_len"] == 20
        assert turn["peak_rss_mib"] > 0


def test_servers_get_the_same_load_of_the_length_asked_for(found: dict[str, Any]) -> None:
    for turn in found["turns"]:
        if "ready_s" in turn:
            assert [load["total_input_tokens"] for load in turn["serving"]] == [9, 18, 27]
            assert [load["total_output_tokens"] for load in turn["serving"]] == [5, 10, 15]


def test_the_streams_are_watched_before_and_during_a_long_prompt(found: dict[str, Any]) -> None:
    turns = {turn["contender"]: turn for turn in found["turns"]}
    ours, theirs = (turns[name]["long_prompt"] for name in NAMES[:2])
    assert ours["chunk_ms"] >= ours["alone_ttft_ms"] / 4
    assert theirs["chunk_ms"] == pytest.approx(theirs["alone_ttft_ms"])
    assert ours["during"]["num_gaps"] >= ours["num_streams"] == 3
    assert ours["before"]["num_gaps"] > 0
    assert "long_prompt" not in turns["transformers float32"]


def test_no_round_begins_that_would_end_too_late(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    static = peers["contenders"].Contender("t", program("static"), {"PYTHONPATH": str(REPO)}, is_static=True)
    where = {"model": "tiny", "logs": tmp_path, "results": tmp_path / "results.json"}
    found = peers["rounds"].race([static], peers["measure"].Loads(), 5, **where, within_s=1e-3)
    assert [turn["round"] for turn in found["turns"]] == [1]


def test_whoever_cannot_run_is_named_with_the_reason(found: dict[str, Any]) -> None:
    assert found["not_run"] == {
        "vLLM float32": "no vllm here; make one",
        "jaxserve int8": "round 1: it ended before it was ready: unknown flag --quantization",
        "other template": "round 1: it read 10 tokens where 1 prompts of 9 were meant",
    }


def test_the_report_and_the_plot_come_from_the_results_alone(results: Path, tmp_path: Path) -> None:
    plot = tmp_path / "images" / "plot.png"
    command = [sys.executable, str(SCRIPTS / "bench"), "peers", "--report", str(results), "--plot", str(plot)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    for line in ("| jaxserve float32 | ", "| llama.cpp f32 | ", "| 1 stream, float32 ÷ llama.cpp f32 | "):
        assert line in said
    assert "vLLM float32 not run: no vllm here; make one" in said
    assert "llama-bench of llama.cpp f32: prefill 300 tok/s, decode 30 tok/s" in said
    assert "1 stream, int8" not in said


def test_ratios_are_taken_within_rounds(peers: dict[str, ModuleType]) -> None:
    def turn(name: str, number: int, rate: float) -> dict[str, Any]:
        return {"contender": name, "round": number, "serving": [{"max_concurrency": 8, "output_throughput": rate}]}

    rates = {"jaxserve float32": (30.0, 60.0), "a": (10.0, 40.0), "b": (20.0, 20.0)}
    turns = [turn(name, number, rate) for name, both in rates.items() for number, rate in enumerate(both, 1)]
    goal = peers["report"].Goal("8", peers["report"].serving("output_throughput", 8), 1.3)
    assert peers["report"].goal_lines(turns, goal) == ["| 8 | 2.25 (1.50..3.00) | ≥ 1.3 | met | jaxserve float32 ÷ a |"]


def test_the_last_chunk_of_a_prompt_attends_to_all_before_it(peers: dict[str, ModuleType]) -> None:
    def whole(num_tokens: int) -> tuple[int, float]:
        return num_tokens, 3.0 * num_tokens + 0.01 * num_tokens**2

    last = peers["measure"].last_chunk_ms(whole(1024), whole(4000), 256)
    assert last == pytest.approx(whole(4000)[1] - whole(4000 - 256)[1])
    assert peers["measure"].last_chunk_ms((1000, 2000.0), (4000, 4000.0), 1000) == pytest.approx(1000.0)


def test_the_table_of_contenders_says_what_is_missing(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    everybody = {one.name: one for one in peers["contenders"].contenders(tmp_path, Path("model"))}
    made = peers["weights"].gguf_path(tmp_path, Path("model"), "q8_0").name
    assert everybody["llama.cpp q8_0"].missing == (
        f"no llama-server and no {made}; scripts/bench peers --prepare makes them"
    )
    assert everybody["vLLM float32"].missing and not everybody["jaxserve float32"].missing
    assert "--no-enable-prefix-caching" in everybody["jaxserve float32"].command


def test_no_two_models_share_what_is_made_of_them(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    sources = [Path("Llama-3.2-1B"), Path("Llama-3.2-3B"), Path("other/Llama-3.2-1B"), Path("Llama-3.2-1B.gguf")]
    weights = peers["weights"]
    assert len({weights.hf_path(tmp_path, source) for source in sources}) == len(sources)
    assert len({weights.gguf_path(tmp_path, source, "f32") for source in sources}) == len(sources)
    assert weights.hf_path(tmp_path, sources[0]) == weights.hf_path(tmp_path, sources[0].resolve())


def test_several_models_have_files_of_their_own(peers: dict[str, ModuleType]) -> None:
    name_file = peers["command"].name_file
    assert name_file(Path("a/plot.png"), "org/m", ["org/m"]) == Path("a/plot.png")
    assert name_file(Path("a/plot.png"), "org/m", ["org/m", "n"]) == Path("a/plot-m.png")


def test_everybody_is_started_in_the_precision_of_the_name(peers: dict[str, ModuleType], tmp_path: Path) -> None:
    everybody = {one.name: one.command for one in peers["contenders"].contenders(tmp_path, Path("model.gguf"))}
    assert everybody["jaxserve float32"][-2:] == ("--quantization", "none")
    for dtype in ("float32", "bfloat16"):
        command = everybody[f"vLLM {dtype}"]
        assert command[command.index("--dtype") + 1] == dtype


@pytest.mark.parametrize("ends_at_once", [True, False])
def test_llama_cpp_is_built_without_amx_where_it_ends_at_once_with_it(
    peers: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_at_once: bool
) -> None:
    prepare = peers["prepare"]
    (tmp_path / "llama.cpp-source" / "tree" / "vendor" / "llama.cpp").mkdir(parents=True)

    def run(*words: str | Path) -> None:
        if "-B" in words:
            build = Path(words[words.index("-B") + 1])
            (build / "bin").mkdir(parents=True)
            (build / "flags").write_text(" ".join(map(str, words)))
        if ends_at_once and str(words[0]) == str(tmp_path / "llama.cpp-build" / "bin" / "llama-bench"):
            raise subprocess.CalledProcessError(-4, list(map(str, words)))

    monkeypatch.setattr(prepare, "_run", run)
    monkeypatch.setattr(prepare, "has_feature", lambda name: name == "amx_tile")
    assert not prepare.prepare_peers(tmp_path, Path("m.gguf"), {"llama.cpp file"}, None, None)
    assert ("-mno-amx-int8" in (tmp_path / "llama.cpp" / "flags").read_text()) == ends_at_once
