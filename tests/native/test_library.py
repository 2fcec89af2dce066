"""The native kernels are compiled once, kept, and missed with a reason."""

import os

import pytest

from jaxserve.attention import list_backends
from jaxserve.engine.fault_injection import limit_disk
from jaxserve.errors import BadConfig
from jaxserve.faults import Faults
from jaxserve.native import library


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxserve" / "native"


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(library, "find_compiler", lambda: None)
    monkeypatch.setattr(library, "load_kernels", library.load_kernels.__wrapped__)
    monkeypatch.setattr(library, "is_usable", library.is_usable.__wrapped__)


def test_without_a_compiler_auto_takes_another_way(no_compiler):
    assert list_backends("auto", "cpu")[0].name == "cpu"


def test_without_a_compiler_a_native_backend_asked_for_by_name_is_refused(no_compiler):
    with pytest.raises(BadConfig, match=r"jaxserve\[native\]"):
        list_backends("native", "cpu")


def test_a_compiler_that_fails_is_quoted(own_cache):
    with pytest.raises(BadConfig, match="do not compile with false"):
        library._compile_library(("false",))
    assert not list(own_cache.iterdir())


@pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
def test_a_library_is_compiled_once_and_kept(own_cache):
    first = library._compile_library(library.find_compiler())
    written = first.stat().st_mtime_ns
    assert library._compile_library(library.find_compiler()) == first
    assert first.stat().st_mtime_ns == written
    assert [file.name for file in own_cache.iterdir()] == [first.name]


@pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
def test_a_full_disk_costs_a_warning_and_the_kernels(own_cache, monkeypatch, caplog):
    monkeypatch.setattr(os, "replace", os.replace)
    monkeypatch.setattr(library, "load_kernels", library.load_kernels.__wrapped__)
    limit_disk(Faults(["disk_full@1"]))
    assert library.is_usable.__wrapped__() is False
    assert caplog.text.count("kernels are not used") == caplog.text.count("No space left") == 1
    assert not list(own_cache.iterdir())
    with pytest.raises(BadConfig, match="cannot be kept"):
        list_backends("native", "cpu")


def test_a_folder_that_others_may_write_is_refused(own_cache):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    with pytest.raises(BadConfig, match="others may write"):
        library._compile_library(("cc",))
