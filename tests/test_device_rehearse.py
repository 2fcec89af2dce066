"""scripts/device rehearse: it lowers what the parts of scripts/device run compile. No compiler for GPUs is needed."""

from contextlib import nullcontext

import jax
import pytest

from jaxserve.parallel.placement import MemoryFacts, single_placement
from scripts.device_checks import command, rehearse
from scripts.device_checks.contract import CASES


class SmallDevice:
    """The CPU, as if it had few bytes."""

    def __init__(self, total_bytes):
        self._facts = MemoryFacts(platform="cpu", total_bytes=total_bytes, free_bytes=total_bytes)

    def as_default(self):
        return nullcontext()

    def memory(self, weight_bytes):
        return self._facts


def add_one():
    """A program with 4,000 bytes of arguments and as many of results."""
    return jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1000,), "float32"))


def refuse():
    raise ValueError("no such instruction")


def test_every_part_of_a_run_is_rehearsed_but_the_peer():
    assert set(rehearse.PARTS) == set(command.SECONDS) - {"peer"}


@pytest.mark.parametrize("part", rehearse.PARTS)
def test_a_part_has_programs_of_different_names(part):
    names = [name for name, _ in rehearse.list_lowerings(part, single_placement(), 1)]
    assert names and len(set(names)) == len(names)


def test_attention_is_rehearsed_for_every_case():
    names = [name for name, _ in rehearse.list_lowerings("contract", single_placement(), 1)]
    assert all(f"cpu, {case.name}, bfloat16" in names for case in CASES)


def test_the_programs_of_steps_lower():
    [lower] = [
        lower
        for name, lower in rehearse.list_lowerings("llama1b", single_placement(), 1)
        if "Forward(rows=8, tokens=None" in name
    ]
    assert "stablehlo.dot_general" in lower().as_text()


def test_a_program_passes_if_it_compiles_and_fits():
    record = rehearse.compile_one(add_one, SmallDevice(2**20))
    assert record["outcome"] == "passed" and record["bytes"] >= 8000
    assert "passed" in rehearse.line_of({"part": "machine", "program": "add"} | record)


@pytest.mark.parametrize(("lower", "why"), [(add_one, "bytes of 7999"), (refuse, "ValueError: no such instruction")])
def test_a_program_that_does_not_fit_or_compile_fails_and_says_why(lower, why):
    record = rehearse.compile_one(lower, SmallDevice(7999))
    assert record["outcome"] == "failed" and why in record["why"]
    assert why in rehearse.line_of({"part": "machine", "program": "add"} | record)


@pytest.mark.parametrize("words", [["rehearse", "coffee"], ["coffee"], []])
def test_unknown_words_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(words)
    assert "usage: device" in capsys.readouterr().err
