"""Compiled programs are kept where only we can put them."""

import pytest

from jaxserve.engine import compile
from jaxserve.engine.compile import machine_key, use_compilation_cache
from jaxserve.errors import BadConfig


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
