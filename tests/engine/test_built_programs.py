"""What was built is loaded and not compiled; what was built for something else, or was changed, is not loaded."""

import json
import shutil
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src import xla_bridge

from jaxserve.config import BUILD_FIELDS, EngineConfig
from jaxserve.engine import program_build, program_environment, step
from jaxserve.engine.build import build
from jaxserve.engine.built_programs import FEATURES, FILES, MANIFEST, Manifest, describe_differences, open_built
from jaxserve.engine.compile import compile_all, compile_counter
from jaxserve.engine.opened_model import open_model
from jaxserve.engine.program_build import choose_plan
from jaxserve.engine.program_files import NAME_SUFFIX, CacheFiles
from jaxserve.engine.program_plan import ProgramPlan
from jaxserve.engine.programs import ProgramStore
from jaxserve.engine.request import Request
from jaxserve.errors import BadConfig
from jaxserve.parallel import targets
from jaxserve.parallel.placement import single_placement
from jaxserve.parallel.targets import TARGETS, find_target
from jaxserve.program_directory import build_programs
from jaxserve.sampling_params import SamplingParams

SMALL: dict[str, Any] = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 16}
PAGES = {"num_gpu_blocks_override": 9}
PROMPT = tuple(range(5, 25))


@pytest.fixture(scope="module")
def directory(tiny_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("built") / "programs of tiny"
    built = build_programs(EngineConfig(model=str(tiny_model), **PAGES, **SMALL), path)
    assert built.num_programs == len(json.loads((path / MANIFEST).read_text())["digests"]) / 2
    return path


@pytest.fixture
def start(tiny_model, directory):
    """Starts an engine with the built programs and no cache; says what it compiled and what it answers."""

    def start(**settings):
        config = EngineConfig(
            model=str(tiny_model),
            programs=str(directory),
            compilation_cache_dir="none",
            roofline=False,  # which compiles what it measures, once on every machine
            **SMALL | settings,
        )
        before = compile_counter.counters()["compilations"]
        loaded = build(config)
        compiled = compile_counter.counters()["compilations"] - before
        params = SamplingParams(temperature=1.0, logprobs=3, max_tokens=9)
        loaded.engine.add(Request(0, PROMPT, params, seed=0, max_total_tokens=len(PROMPT) + 9))
        outputs = []
        while loaded.engine.has_work:
            outputs += [(output.token_ids, output.logprobs) for output in loaded.engine.step()]
        loaded.engine.close()
        return compiled, outputs, loaded

    return start


def test_nothing_is_compiled_or_traced_and_elsewhere_the_answers_are_the_same(start, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(step, "merge_params", None)  # without which no step can be traced
        compiled, answers, loaded = start()
    assert compiled == 0 and not caplog.text
    assert loaded.description["programs"].endswith("programs of tiny, 0 compiled")
    monkeypatch.setattr(program_environment, "read_processor", lambda: ("another", ""))
    compiled, others, _ = start(num_gpu_blocks_override=9)
    assert compiled > 0 and others == answers
    assert "processor: built for " in caplog.text and "here another" in caplog.text


@pytest.fixture
def choose(tiny_model, directory, caplog):
    """Returns the files that a start would load its programs from, and what it says."""

    def choose(**settings):
        config = EngineConfig(model=str(tiny_model), programs=str(directory), **SMALL | settings)
        caplog.clear()
        _, files = choose_plan(config, open_model(config, None, None, None), None)
        return files, caplog.text

    return choose


def test_the_cache_has_the_size_that_was_built_unless_a_flag_says_another(choose, directory):
    assert open_built(str(directory)).manifest.cache == PAGES
    assert choose()[0] is not None
    assert choose(num_gpu_blocks_override=9)[0] is not None
    files, said = choose(num_gpu_blocks_override=10)
    assert files is None and "pages of the cache: built for 9, here 10" in said


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"max_num_seqs": 2}, "max_num_seqs: built for 1, here 2"),
        ({"dtype": "bfloat16"}, "dtype: built for float32, here bfloat16"),
        ({"quantization": "int8"}, "quantization: built for none, here int8"),
        ({"kv_cache_dtype": "bfloat16"}, "kv_cache_dtype: built for auto, here bfloat16"),
        ({"enable_lora": True}, "adapters: built for none, here 4 of a rank up to 16"),
        ({"hf_overrides": {"rms_norm_eps": 1e-3}}, "model: built for LlamaForCausalLM ("),
        ({"max_model_len": 10**4, "hf_overrides": {"max_position_embeddings": 10**4}}, "cache: One request of"),
    ],
)
def test_a_setting_that_differs_is_named_and_nothing_is_loaded(choose, settings, difference):
    files, said = choose(**settings)
    assert files is None and difference in said


@pytest.mark.parametrize(
    ("settings", "is_named"),
    [({}, False), ({"gpu_memory_utilization": 0.5}, True), ({"gpu_memory_utilization": 0.5, **PAGES}, False)],
)
def test_another_share_of_a_devices_memory_is_named_unless_the_cache_has_a_size(
    settings, is_named, monkeypatch, caplog
):
    built: Any = {"gpu_memory_utilization": "0.92"}
    manifest = Manifest("h100x1", {}, built, "same", PAGES, {})
    placement = SimpleNamespace(has_own_memory=True, memory=lambda _: SimpleNamespace(free_bytes=0))
    model: Any = SimpleNamespace(placement=placement, weight_bytes=0)
    plan = object.__new__(ProgramPlan)
    for name, value in (
        ("open_built", lambda *_: SimpleNamespace(manifest=manifest)),
        ("describe_environment", lambda _: {}),
        ("plan_engine", lambda *_: plan),
        ("fingerprint", lambda *_: "same"),
    ):
        monkeypatch.setattr(program_build, name, value)
    _, files = choose_plan(EngineConfig(programs="built", **settings), model, None)
    assert (files is None) == is_named
    assert ("gpu_memory_utilization: built for 0.92, here 0.5" in caplog.text) == is_named


def test_every_setting_is_one_that_a_build_takes_or_one_that_it_refuses(tmp_path):
    assert set(BUILD_FIELDS) <= {field.name for field in fields(EngineConfig)}
    with pytest.raises(BadConfig, match=r"scheduling_policy='priority' changes no program"):
        build_programs(EngineConfig(scheduling_policy="priority"), tmp_path / "to")


def test_features_of_processors_are_compared_word_by_word():
    [line] = describe_differences({FEATURES: "avx2 avx512f fma"}, {FEATURES: "avx2 fma amx"})
    assert line == f"{FEATURES}: this machine lacks avx512f and has also amx"
    assert describe_differences({"jax": "1", "gone": "x"}, {"jax": "2"}) == [
        "jax: built for 1, here 2",
        "gone: built for x, here not there",
    ]


class FullDisk(CacheFiles):
    """A directory on a disk that has room for names only."""

    def write(self, name: str, content: bytes) -> None:
        if name.endswith(NAME_SUFFIX):
            super().write(name, content)


def test_a_name_without_its_program_is_no_program_that_was_saved(tmp_path):
    for files, is_saved in ((FullDisk(tmp_path), False), (CacheFiles(tmp_path), True)):
        double(files)
        assert list(tmp_path.glob(f"*{NAME_SUFFIX}"))
        assert ProgramStore(files, single_placement()).has("double") is is_saved


# ---- trust -----------------------------------------------------------------------------------------------------------


def double(files):
    lower = jax.jit(lambda x: x * 2).lower
    return compile_all(
        {"double": lambda: lower(jax.ShapeDtypeStruct((9,), jnp.float32))},
        ProgramStore(files, single_placement()),
        None,
    )["double"]


@pytest.fixture(scope="module")
def one_program(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    (directory / FILES).mkdir()
    environment = {"jax": "here"}
    double(CacheFiles(directory / FILES, json.dumps(environment, sort_keys=True)))
    manifest = Manifest("cpu", environment, {}, "", {}, {})
    manifest.write(directory)
    return directory


@pytest.fixture
def copied(one_program, tmp_path) -> Path:
    """A directory with one program, whose manifest is right."""
    path = Path(shutil.copytree(one_program, tmp_path / "copied"))
    write_manifest(path)
    return path


def write_manifest(path: Path) -> str:
    digests = {file.name: sha256(file.read_bytes()).hexdigest() for file in (path / FILES).iterdir()}
    return replace(open_built(str(path)).manifest, digests=digests).write(path)


def finds(path: Path) -> bool:
    return ProgramStore(open_built(str(path)), single_placement()).load("double") is not None


def test_a_file_that_was_changed_is_not_unpickled(copied, caplog):
    assert finds(copied)
    [program] = (copied / FILES).glob("*.program")
    content = program.read_bytes()
    program.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not finds(copied) and "is not the file that was built" in caplog.text
    program.write_bytes(content)
    assert finds(copied)
    program.unlink()
    assert not finds(copied)


def test_a_program_that_the_manifest_does_not_name_is_not_read(copied):
    manifest = open_built(str(copied)).manifest
    replace(manifest, digests={}).write(copied)
    assert not finds(copied)


def test_nothing_is_written_or_deleted_where_programs_were_built(copied):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    files = open_built(str(copied))
    assert (double(files)(jnp.ones(9)) == 2).all()
    ProgramStore(files, single_placement(), ["other facts"]).save_number("a", 1)
    for name in files.manifest.digests:
        files.delete(name)
    files.delete_excess()
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["", FILES, MANIFEST])
def test_what_others_may_write_is_refused(copied, name):
    (copied / name).chmod(0o777)
    with pytest.raises(BadConfig, match=r"programs=.*others may write"):
        open_built(str(copied))


def test_the_digest_holds_for_all(copied):
    digest = write_manifest(copied)
    assert open_built(str(copied), digest.upper()).manifest.digests
    with pytest.raises(BadConfig, match=r"programs_sha256='00' is not the digest of .*, which is " + digest):
        open_built(str(copied), "00")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "holds no programs that can be read .*No such file"),
        (b"{", "is damaged; build the programs again"),
        (b"[]", "is damaged"),
        (b'{"format": 1}', "is damaged"),
        (b'{"format": 7}', "has format 7 and this jaxserve reads 1"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_an_error(copied, content, error):
    (copied / MANIFEST).unlink()
    if content is not None:
        (copied / MANIFEST).write_bytes(content)
    with pytest.raises(BadConfig, match=error):
        open_built(str(copied))


def test_a_digest_needs_programs_and_programs_a_directory(tmp_path):
    with pytest.raises(BadConfig, match="give programs"):
        EngineConfig(programs_sha256="00")
    with pytest.raises(BadConfig, match="is no directory here; `jaxserve build"):
        open_built(str(tmp_path / "missing"))


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_a_machine_that_is_not_known_is_an_error_that_lists_those_that_are():
    with pytest.raises(BadConfig, match=r"target='v9-1' .* v6e-4, .* h100x1"):
        find_target("v9-1")
    assert all(find_target(name).name == name for name in TARGETS)


def test_a_machine_with_too_few_devices_is_refused_before_the_model_is_looked_for(tmp_path):
    with pytest.raises(BadConfig, match=r"needs 8 devices, and target='v6e-4' has 4"):
        build_programs(EngineConfig(model="missing", tensor_parallel_size=8), tmp_path / "to", target="v6e-4")
    assert not list(tmp_path.iterdir())


def test_many_builds_for_gpus_change_one_name_of_jax_once(monkeypatch):
    monkeypatch.setattr(xla_bridge, "canonicalize_platform", lambda name: f"JAX's {name}")
    targets._let_gpu_mean_cuda()
    first = xla_bridge.canonicalize_platform
    targets._let_gpu_mean_cuda()
    assert xla_bridge.canonicalize_platform is first
    assert (first("gpu"), first("cpu")) == ("cuda", "JAX's cpu")
