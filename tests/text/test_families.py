"""Real tokenizers and templates of more than twenty families: what they speak is found, and read as it was meant."""

import pytest

from jaxserve.text.detection import detect_reasoning_parser, detect_tool_parser, facts_of
from tests.text.families import FAMILIES, templates_of, tokenizer_of

pytestmark = pytest.mark.assets


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_their_dialects_are_found(family):
    facts = facts_of(tokenizer_of(family), templates_of(family), {"model_type": family.model_type})
    found = detect_tool_parser(facts), detect_reasoning_parser(facts)
    assert [one.name for one in found] == [family.tool_parser, family.reasoning_parser], found
