"""Compiled programs are kept where only we can put them."""

import pytest

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
