"""A second start finds its programs: nothing is compiled, nothing is traced, and every bit is the same."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine import programs, step
from jaxserve.engine.build import build
from jaxserve.engine.compile import compile_all, compile_counter
from jaxserve.engine.fault_injection import limit_disk
from jaxserve.engine.program_files import PROGRAM_SUFFIX, CacheFiles
from jaxserve.engine.programs import ProgramStore
from jaxserve.engine.request import Request
from jaxserve.faults import Faults
from jaxserve.parallel.placement import single_placement
from jaxserve.private_files import make_private_directory
from jaxserve.sampling_params import SamplingParams

PROMPT = tuple(range(5, 25))


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory):
    """Starts an engine over the module's own directory; says what it compiled and what it answers."""
    directory = tmp_path_factory.mktemp("kept")

    def start(**settings):
        before = compile_counter.counters()["compilations"]
        small = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 16, "num_gpu_blocks_override": 9}
        built = build(EngineConfig(model=str(tiny_model), compilation_cache_dir=str(directory), **small | settings))
        compiled = compile_counter.counters()["compilations"] - before
        answers = _answers(built.engine)
        built.engine.close()
        return compiled, answers, built

    start.directory = directory
    start.first = start()
    return start


def _answers(engine):
    """Tokens and log-probabilities of a greedy and a drawn request, in full precision."""
    for number, params in enumerate(({"temperature": 0.0}, {"temperature": 1.0, "logprobs": 3})):
        params = SamplingParams(**params, max_tokens=9)
        engine.add(Request(number, PROMPT, params, seed=number, max_total_tokens=len(PROMPT) + 9))
    outputs = []
    while engine.has_work:
        outputs += [(o.request_id, o.token_ids, o.logprobs) for o in engine.step()]
    return outputs


def test_a_second_start_compiles_and_traces_nothing_and_answers_the_same(start, monkeypatch):
    monkeypatch.setattr(step, "merge_params", None)  # without which no step can be traced
    compiled, answers, built = start()
    assert (compiled, answers) == (0, start.first[1])
    assert start.first[0] > 0 and len(answers) > 0
    assert "compiled, " in built.description["programs"]


def test_what_is_damaged_is_made_again(start):
    directory = next(start.directory.iterdir())
    short, changed = sorted(directory.glob(f"*{PROGRAM_SUFFIX}"))[:2]
    short.write_bytes(short.read_bytes()[:1000])
    entry = bytearray(changed.read_bytes())
    entry[5000] ^= 1
    changed.write_bytes(entry)
    assert start()[:2] == (2, start.first[1])
    assert start()[:2] == (0, start.first[1])


def test_another_setting_is_another_program(start):
    compiled, _, built = start(num_gpu_blocks_override=10)
    assert compiled > 0
    assert built.cache_size.num_pages == 10


def doubled(store, log=None):
    """A program with a donated argument, through the store."""

    def lower():
        if log is not None:
            log.append("traced")
        return jax.jit(lambda x: x * 2, donate_argnums=0).lower(jax.ShapeDtypeStruct((100_000,), jnp.float32))

    return compile_all({"double": lower}, store, None)["double"]


@pytest.fixture
def store(tmp_path):
    return lambda *facts: ProgramStore(CacheFiles(tmp_path), single_placement(), facts)


def test_a_found_program_takes_over_what_is_donated_and_copies_nothing(store):
    doubled(store())
    program = store().load("double")
    x = jax.device_put(np.ones(100_000, np.float32)) + 1
    place = x.unsafe_buffer_pointer()
    y = program(x)
    assert x.is_deleted() and y.unsafe_buffer_pointer() == place
    assert (np.asarray(y) == 4).all()


def test_other_facts_trace_again_but_do_not_compile_what_is_the_same(store):
    traced = []
    doubled(store("one"), traced)
    before = compile_counter.counters()["compilations"]
    doubled(store("other"), traced)
    assert traced == ["traced"] * 2
    doubled(store("other"), traced)
    assert traced == ["traced"] * 2
    assert compile_counter.counters()["compilations"] == before


def test_a_hit_is_counted_and_shown(store):
    doubled(store())
    before, shown = compile_counter.counters(), []
    compile_all({"double": None}, store(), lambda *report: shown.append(report))
    assert shown == [("compile 1 cached", 1, 1)]
    after = compile_counter.counters()
    assert after["compilation_cache_hits"] == before["compilation_cache_hits"] + 1
    assert after["compilations"] == before["compilations"]


def test_a_disk_that_takes_nothing_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = ProgramStore(CacheFiles(tmp_path / "file"), single_placement())
    for _ in range(2):
        assert (doubled(store)(jnp.ones(100_000)) == 2).all()
    assert caplog.text.count("cannot be") == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_costs_one_warning_and_leaves_nothing_behind(number, store, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "replace", os.replace)
    limit_disk(Faults([f"disk_full@{number}"]))
    for _ in range(2):
        full = store()
        assert (doubled(full)(jnp.ones(100_000)) == 2).all()
        full.save_number("scratch", 7)
    assert (caplog.text.count("cannot be kept"), caplog.text.count("No space left")) == (1, 1)
    assert len(list(tmp_path.iterdir())) == number - 1


def test_files_are_ours_alone_and_nothing_half_written_stays(store, tmp_path):
    doubled(store())
    assert len(list(tmp_path.iterdir())) == 2
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_program_that_someone_else_may_write_is_not_loaded(store, tmp_path, caplog):
    doubled(store())
    for path in tmp_path.iterdir():
        path.chmod(0o666)
    assert store().load("double") is None
    assert "others may write" in caplog.text


def test_a_link_in_place_of_a_program_is_not_followed(store, tmp_path):
    doubled(store())
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"moved-{path.name}")
        path.symlink_to(tmp_path / f"moved-{path.name}")
    assert store().load("double") is None


def test_what_was_used_longest_ago_goes_when_the_store_is_full(tmp_path):
    for machine in ("this", "other"):
        make_private_directory(tmp_path / machine)
    for age, name in enumerate(("other/a.program", "this/b.program123", "this/c.name", "this/d.program")):
        (tmp_path / name).write_bytes(b" " * 100)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "this" / "theirs").write_bytes(b" " * 1000)
    kept = CacheFiles(tmp_path / "this")
    kept.delete_excess(max_bytes=400)
    assert len(list(tmp_path.glob("*/*"))) == 5
    kept.delete_excess(max_bytes=250)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["a.program", "b.program123", "theirs"]


def test_no_clock_deletes_anything_and_what_is_in_use_stays(tmp_path):
    directory = make_private_directory(tmp_path / "this")
    used = CacheFiles(directory)
    doubled(ProgramStore(used, single_placement()))
    for path in directory.iterdir():
        os.utime(path, (0, 0))
    used.delete_excess()
    used.delete_excess(max_bytes=0)
    assert len(list(directory.iterdir())) == 2
    CacheFiles(directory).delete_excess(max_bytes=0)
    assert not list(directory.iterdir())


def test_whichever_file_cannot_be_written_is_made_by_a_later_start(tmp_path, monkeypatch):
    for number in itertools.count(1):
        directory = make_private_directory(tmp_path / str(number))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", os.replace)
            faults = Faults([f"disk_full@{number}:1"])
            limit_disk(faults)
            first = ProgramStore(CacheFiles(directory), single_placement())
            assert (doubled(first)(jnp.ones(100_000)) == 2).all()
            first.save_number("scratch", 7)
        second = ProgramStore(CacheFiles(directory), single_placement())
        assert (doubled(second)(jnp.ones(100_000)) == 2).all()
        assert second.load_number("scratch") in (7, None)
        if len(list(directory.iterdir())) == 3 and second.load_number("scratch") == 7 and number > 3:
            break
        assert ProgramStore(CacheFiles(directory), single_placement()).load("double") is not None
    assert number == 4


@pytest.mark.parametrize("change", ["version", "flags", "sources", "python"])
def test_another_version_flag_or_source_is_another_program(change, store, monkeypatch):
    doubled(store())
    assert store().load("double") is not None
    if change == "version":
        monkeypatch.setattr(programs.jax, "__version__", "0.0.1")
    elif change == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    elif change == "sources":
        monkeypatch.setattr(programs, "hash_sources", lambda: "other")
    else:
        monkeypatch.setattr(programs.sys, "version_info", (3, 99))
    assert store().load("double") is None
