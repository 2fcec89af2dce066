"""Some of two hundred schemas of every kind; scripts/check_structured asks for all of them, several times."""

import asyncio
from collections import Counter

import httpx
import pytest

from scripts.structured_checks.cases import Case, judge, make_cases
from tests.end_to_end.contract.api_client import CHAT

pytestmark = pytest.mark.assets


async def test_every_answer_is_valid_or_says_that_it_was_cut(http):
    """Sixteen at a time, at temperature 1: constrained rows start and end beside one another."""
    places = asyncio.Semaphore(16)

    async def verdict(client: httpx.AsyncClient, case: Case) -> str:
        async with places:
            reply = await client.post(CHAT, json=case.body(seed=1, max_tokens=160))
        assert reply.status_code == 200, (case.name, reply.text)
        return judge(case, reply.json()["choices"][0])

    async with httpx.AsyncClient(base_url=http.base_url, headers=http.headers, timeout=300) as client:
        found = Counter(await asyncio.gather(*(verdict(client, case) for case in make_cases()[::8])))
    assert found.keys() <= {"valid", "length"}
    assert found["valid"] >= 15
