"""Steps that were asked for are traced, once, and no others."""

import errno
import os

import jax
import pytest

from jaxserve import EngineConfig
from jaxserve.engine.engine import Engine
from jaxserve.engine.profiler import StepProfiler, make_profiler
from jaxserve.errors import BadConfig


def traces(directory):
    return sorted(path.name for path in directory.rglob("*.xplane.pb"))


@pytest.fixture
def profiled(bench, built, tmp_path):
    """A bench whose engine traces steps 2 and 3."""
    some = bench()
    profiler = StepProfiler(2, 4, tmp_path / "profiles")
    some.engine = Engine(some.scheduler, built.engine.runner, overlap=False, profiler=profiler)
    return some


def test_the_trace_is_written_when_its_last_step_is_over(profiled, tmp_path):
    profiled.add(1, range(20), tokens=8)
    for _ in range(4):
        profiled.step()
        assert not traces(tmp_path)
    profiled.step()
    assert len(traces(tmp_path)) == 1
    profiled.run()
    assert len(traces(tmp_path)) == 1


def test_tokens_are_the_same_with_and_without(profiled, bench):
    plain = bench()
    for some in (plain, profiled):
        some.add(1, range(20), tokens=8)
        some.run()
    assert plain.tokens(1) == profiled.tokens(1)


def test_a_trace_ends_with_its_engine(profiled, built, tmp_path, monkeypatch):
    monkeypatch.setattr(built.engine.runner, "close", lambda: None)  # other tests use it, too
    profiled.add(1, range(20), tokens=3)
    profiled.run()
    assert not traces(tmp_path)
    profiled.engine.close()
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize("call", ["start_trace", "stop_trace"])
def test_a_trace_that_cannot_be_written_costs_a_warning(call, profiled, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "stop_trace":
        monkeypatch.setattr(jax.profiler, "start_trace", lambda *_: None)
    monkeypatch.setattr(jax.profiler, call, fail)
    profiled.add(1, range(20), tokens=8)
    profiled.run()
    assert len(profiled.tokens(1)) == 8
    assert profiled.scheduler.stats.snapshot(num_running=0, num_waiting=0).counters["engine_rebuilds"] == 0
    assert (caplog.text.count("WARNING"), caplog.text.count("No space left")) == (1, 1)


def test_the_setting_says_which_steps_and_where(tmp_path):
    assert make_profiler(EngineConfig()) is None
    assert EngineConfig(profile_steps="100:110").profiled_steps == (100, 110)


@pytest.mark.parametrize("steps", ["", "5", "5:", ":5", "7:7", "9:3", "-1:4", "a:b", "1:2:3"])
def test_steps_that_are_none_are_refused(steps):
    with pytest.raises(BadConfig, match="write first:last, such as 100:110"):
        EngineConfig(profile_steps=steps)
