"""The native kernels are compiled once, kept, and missed with a reason."""

import pytest

from jaxserve.attention import choose_backend
from jaxserve.errors import BadConfig
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
    assert choose_backend("auto", "cpu").name == "cpu"


def test_without_a_compiler_a_native_backend_asked_for_by_name_is_refused(no_compiler):
    with pytest.raises(BadConfig, match=r"jaxserve\[native\]"):
        choose_backend("native", "cpu")


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


def test_a_folder_that_others_may_write_is_refused(own_cache):
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    with pytest.raises(BadConfig, match="others may write"):
        library._compile_library(("cc",))
