"""Compiled programs are kept where only we can put them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jax import jit

from jaxserve.engine import compile
from jaxserve.engine.compile import machine_key, use_compilation_cache
from jaxserve.engine.program_files import CacheFiles
from jaxserve.engine.programs import ProgramStore
from jaxserve.errors import BadConfig
from jaxserve.processor import has_feature, read_processor


@pytest.fixture(autouse=True)
def settings_as_before():
    import jax

    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_directory_is_made_for_us_alone_and_for_this_machine(tmp_path):
    directory = use_compilation_cache(str(tmp_path / "kept"))
    assert directory is not None and directory.name == machine_key()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_write_is_refused(tmp_path):
    (tmp_path / machine_key()).mkdir()
    (tmp_path / machine_key()).chmod(0o777)
    with pytest.raises(BadConfig, match=r"others may write .* chmod go-w"):
        use_compilation_cache(str(tmp_path))


def test_none_switches_it_off_and_an_impossible_place_only_warns(tmp_path, caplog):
    assert use_compilation_cache("none") is None
    (tmp_path / "file").write_text("in the way")
    assert use_compilation_cache(str(tmp_path / "file" / "cache")) is None
    assert "cannot be kept" in caplog.text


def store_on(platform, files):
    return ProgramStore(files, SimpleNamespace(platform=platform, key=(platform,), devices=()))  # type: ignore[arg-type]


def test_what_a_gpus_autotuner_measured_is_kept_beside_the_programs(tmp_path):
    [(option, directory)] = store_on("gpu", CacheFiles(tmp_path)).compiler_options.items()
    assert Path(directory).parent == tmp_path and Path(directory).stat().st_mode & 0o777 == 0o700
    assert jit(lambda x: x + 1).lower(1.0).compile(compiler_options={option: directory})(1.0) == 2  # XLA knows it


def test_nothing_is_tuned_for_another_machine_nor_without_a_directory(tmp_path):
    stores = (store_on("gpu", CacheFiles(tmp_path, "there")), store_on("gpu", None))
    assert all(store.compiler_options == {} for store in stores)
    assert not any(tmp_path.iterdir())


def test_the_sum_of_a_row_on_a_cpu_does_not_depend_on_the_number_of_rows(tmp_path):
    options = store_on("cpu", CacheFiles(tmp_path)).compiler_options
    x_RW = np.random.default_rng(0).normal(size=(64, 896)).astype(np.float32)
    sums = [
        jit(lambda x_RW: x_RW.sum(-1)).lower(x_RW[:rows]).compile(compiler_options=options)(x_RW[:rows])
        for rows in (1, 8, 64)
    ]
    assert len({float(sum_R[0]) for sum_R in sums}) == 1 and len({float(sum_R[-1]) for sum_R in sums}) == 3


CPUINFO = "processor : 0\nmodel name : {model}\nflags : {flags}\ncpu MHz : {mhz}\n"
MACHINE = {"model": "A", "flags": "avx2 fma", "mhz": "1000", "machine": "x86_64", "version": "0.10.2", "backend": "cpu"}


def key_of(monkeypatch, **changes) -> str:
    """Return the name of the directory on a machine like MACHINE, but for these changes."""
    facts = MACHINE | changes
    with monkeypatch.context() as patch:
        patch.setattr(compile.Path, "read_text", lambda *_: CPUINFO.format(**facts))
        patch.setattr(compile.platform, "machine", lambda: facts["machine"])
        patch.setattr(compile.jax, "__version__", facts["version"])
        patch.setattr(compile.jax, "default_backend", lambda: facts["backend"])
        return machine_key()


@pytest.mark.parametrize(
    "change",
    [{"model": "B"}, {"flags": "avx2"}, {"machine": "aarch64"}, {"version": "0.10.3"}, {"backend": "gpu"}],
    ids=lambda change: next(iter(change)),
)
def test_another_processor_or_version_is_another_directory(change, monkeypatch):
    assert key_of(monkeypatch, **change) != key_of(monkeypatch)


def test_the_directory_is_named_by_the_processor_that_built_programs_are_compared_by(monkeypatch):
    keys = set()
    for kind in ("A", "B"):
        monkeypatch.setattr(compile, "read_processor", lambda kind=kind: (kind, ""))
        keys.add(machine_key())
    assert len(keys) == 2
    monkeypatch.undo()
    monkeypatch.setattr(compile.Path, "read_text", lambda *_: CPUINFO.format(**MACHINE))
    assert read_processor() == ("model name A", "avx2 fma")
    assert has_feature("fma") and not has_feature("avx")


def test_the_speed_of_the_moment_is_not_part_of_the_machine(monkeypatch):
    assert key_of(monkeypatch, mhz="2000") == key_of(monkeypatch)


def test_a_machine_that_does_not_describe_its_processor_has_a_directory(monkeypatch):
    def fail(*_):
        raise FileNotFoundError

    monkeypatch.setattr(compile.Path, "read_text", fail)
    monkeypatch.setattr(compile.platform, "processor", lambda: "one")
    first = machine_key()
    monkeypatch.setattr(compile.platform, "processor", lambda: "other")
    assert machine_key() != first
