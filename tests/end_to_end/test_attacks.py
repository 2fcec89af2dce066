"""Hostile requests, one after another, at a real server: others are served meanwhile and nothing is left of them.

The whole table with its times is `scripts/bench attacks`; here are the rows that would stop the server for seconds if
what they ask for were done on the event loop, with a limit that a loaded machine keeps.
"""

import pytest

from scripts.benchmarks.attacks import list_attacks, reference_tokens, run_attack
from tests.end_to_end.running_server import SMALL_SERVER_FLAGS, RunningServer
from tests.models.tiny import write

VOCAB_SIZE = 300
MAX_LIVE_MS, MAX_RSS_MIB = 4000, 300  # one of these took 12,500 ms and 1,400 MiB
ATTACKS = {attack.name: attack for attack in list_attacks(VOCAB_SIZE)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = write(tmp_path_factory.mktemp("model"), "llama", seed=3)
    with RunningServer(model, *SMALL_SERVER_FLAGS) as server:
        server.expected = reference_tokens(server.url)
        yield server


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_else_waits_and_nothing_changes(server, name):
    cost = run_attack(ATTACKS[name], server.url, server.pid, server.expected)
    assert cost.status in (200, 400)
    assert cost.same_tokens
    assert cost.max_live_ms < MAX_LIVE_MS
    assert cost.rss_mib < MAX_RSS_MIB
