"""Machines that are not there: what is known of them adds up. Describing them needs compilers, and is not done."""

import pytest

from jaxserve.engine.device_defaults import DEFAULTS, find_defaults
from jaxserve.parallel.gpus import GPUS
from jaxserve.parallel.targets import TARGETS, TargetPlacement


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS.keys())
def test_a_gpu_multiplies_as_published_at_a_clock_that_it_has(gpu):
    assert 0.9 * gpu.clock_ghz < gpu.product_hz / 1e9 < 1.01 * gpu.clock_ghz


@pytest.mark.parametrize(("name", "architecture"), [("h200", "sm_90a"), ("b200", "sm_100a"), ("l4", "sm_89")])
def test_ptxas_knows_a_gpu_by_its_capability(name, architecture):
    assert GPUS[name].architecture == architecture


def test_every_gpu_is_a_machine_of_one_two_four_or_eight():
    gpus = {name: target for name, target in TARGETS.items() if target.platform == "gpu"}
    assert set(gpus) == {f"{gpu}x{num}" for gpu in GPUS for num in (1, 2, 4, 8)}
    assert all(gpus[f"{gpu.name}x8"].memory_bytes == gpu.memory_bytes for gpu in GPUS.values())
    assert all(f'"{gpu.device_kind}"' in gpus[f"{gpu.name}x1"].description for gpu in GPUS.values())


@pytest.mark.parametrize(
    "target", [each for each in TARGETS.values() if each.platform != "cpu"], ids=lambda each: each.name
)
def test_every_absent_machine_has_all_facts(target):
    assert all(number > 0 for number in (target.memory_bytes, target.bytes_per_s, target.flops_per_s))
    assert target.description and (target.link_bytes_per_s > 0 or target.num_devices == 1)
    assert bool(target.clock_hz) == (target.platform == "tpu") and bool(target.architecture) == (
        target.platform == "gpu"
    )


@pytest.mark.parametrize(("name", "share"), [("v6e-1", 1.0), ("h200x1", 0.75)])
def test_a_program_may_use_what_jax_takes_of_the_memory(name, share):
    target = TARGETS[name]
    facts = TargetPlacement((), target=target).memory(10**9, scratch_bytes=5)
    assert facts.total_bytes == int(share * target.memory_bytes)
    assert (facts.free_bytes, facts.scratch_bytes) == (facts.total_bytes - 10**9, 5)


@pytest.mark.parametrize(
    ("name", "link_gigabytes", "num_links"),
    [("v6e-1", 100, 0), ("v5e-4", 50, 2), ("v5e-8", 50, 2), ("v6e-4", 100, 2), ("v6e-8", 100, 2), ("v5p-8", 100, 2)],
)
def test_a_chip_sends_over_the_links_that_a_corner_of_its_slice_has(name, link_gigabytes, num_links):
    assert TARGETS[name].link_bytes_per_s == 1e9 * link_gigabytes * num_links


@pytest.mark.parametrize("name", ["a100", "l4"])
def test_gpus_with_defaults_of_their_own_are_known_by_the_names_of_the_targets(name):
    own = next(defaults for _, words, defaults in DEFAULTS if words == name.upper())
    assert find_defaults("gpu", GPUS[name].device_kind) == own
