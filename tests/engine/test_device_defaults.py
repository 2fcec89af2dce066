"""One table says how large batches and pages are by default on a kind of device."""

import pytest

from jaxserve.engine.device_defaults import DEFAULTS, MAX_PAGE_SIZE, choose_page_size, find_defaults


@pytest.mark.parametrize(
    ("platform", "kind", "rows", "chunk"),
    [
        ("cpu", "cpu", 32, 256),
        ("tpu", "TPU v5 lite", 128, 1024),
        ("tpu", "TPU v5", 128, 2048),
        ("tpu", "TPU v6 lite", 128, 2048),
        ("gpu", "NVIDIA H200 141GB HBM3e", 256, 2048),
        ("gpu", "NVIDIA A100-SXM4-80GB", 256, 1024),
        ("gpu", "NVIDIA L4", 64, 512),
        ("gpu", "NVIDIA L40S", 64, 512),
        ("rocket", "Saturn V", 256, 2048),
    ],
)
def test_a_kind_of_device_has_its_own_sizes(platform, kind, rows, chunk):
    defaults = find_defaults(platform, kind)
    assert (defaults.max_num_seqs, defaults.chunk_tokens) == (rows, chunk)


def test_every_line_has_a_reason_and_can_be_found():
    assert all(defaults.reason for _, _, defaults in DEFAULTS)
    assert [find_defaults(platform, kind) for platform, kind, _ in DEFAULTS] == [each for _, _, each in DEFAULTS]


@pytest.mark.parametrize(
    ("least", "bytes_per_token", "size"),
    [(32, 4096, 32), (32, 1024, 32), (32, 512, 64), (128, 4096, 128), (32, 1, MAX_PAGE_SIZE), (16, 0, MAX_PAGE_SIZE)],
)
def test_fewer_key_heads_have_more_tokens_in_a_page(least, bytes_per_token, size):
    assert choose_page_size(find_defaults("tpu", "TPU v5 lite"), least, bytes_per_token) == size
    assert choose_page_size(find_defaults("gpu", "NVIDIA H200"), least, bytes_per_token) == least
