"""Every schema of the corpora is enforced, or refused with the keyword that cannot be; the counts may only improve.

JSON-Schema-Test-Suite lists instances that are valid or not. Those that a grammar accepts are valid, except for
`oneOf`, which is read as `anyOf`. Valid ones that it does not accept are explained by the reasons below.
"""

import json
import re
from collections import Counter
from typing import Any

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import JsonSchema, JsonWhitespace
from jaxserve.structured.schema_keywords import ENFORCED_KEYWORDS, HAS_NO_EFFECT
from jaxserve.structured.unenforced_formats import find_unenforced_formats
from tests.structured import corpora
from tests.structured.byte_tokenizer import accepts, matcher_of

pytestmark = pytest.mark.assets

KEYWORDS = {*ENFORCED_KEYWORDS, *HAS_NO_EFFECT}

# (enforced, refused), then instances (accepted as valid, refused as invalid, narrowed away, accepted as of anyOf)
COUNTS = {
    "draft2020-12": ((186, 177), (417, 235, 31, 6)),
    "draft2019-09": ((192, 164), (423, 237, 17, 6)),
    "draft6": ((172, 59), (356, 233, 17, 6)),
    "draft4": ((123, 36), (268, 180, 11, 4)),
    "draft7": ((179, 70), (382, 233, 17, 6)),
    "draft2020-12/optional/format": ((14, 0), (200, 160, 12, 0)),
}

# Reasons for which a valid instance is not accepted, with a pattern for its file, description or text
NARROWER = {
    "undeclared keys are closed out": r"additional properties are allowed|other properties|property absent",
    "declared keys come in their order": r"allOf \| allOf|allOf with base schema|anyOf complex types|property order",
    "whole numbers are written without a point": r"float|1\.0|0\.0|zero fractional",
    "format is enforced": r"only an annotation by default",
    "there are no leap seconds": r"leap second",
    "no quoted local parts, no IPv6 in addresses": r"quoted string|IPv6-address-literal",
    "no metaschemas, and $ref has neighbours unless $schema says that it has none": r"no validation|maxItems ignored",
}


def keyword_of(error: InvalidParameter) -> str:
    """The keyword that a refusal names; '' when it says that nothing is valid."""
    if re.search("no JSON value is valid|Unsatisfiable schema", str(error)):
        return ""
    quoted = [name for name in re.findall(r"'([^']*)'", str(error)) if name in KEYWORDS]
    assert quoted, f"this refusal names no keyword: {error}"
    return quoted[0]


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("folder", COUNTS)
def test_what_is_accepted_is_valid(folder, record_property):
    schemas, instances, refusals = Counter(), Counter(), Counter()
    wrong = []
    for file, case in corpora.iter_suite(folder):
        schema = JsonSchema(json.dumps(case["schema"]), JsonWhitespace(is_compact=True))
        try:
            matcher = matcher_of(schema)
        except InvalidParameter as error:
            schemas["refused"] += 1
            refusals[keyword_of(error)] += 1
            continue
        if find_unenforced_formats(schema):  # which the reply names
            schemas["annotated"] += 1
            continue
        schemas["enforced"] += 1
        for test in case["tests"]:
            text, about = compact(test["data"]), f"{file} | {case['description']} | {test['description']}"
            accepted = accepts(matcher, text)
            instances[(test["valid"], accepted)] += 1
            if accepted and not test["valid"] and file != "oneOf":
                wrong.append(f"accepted: {about}: {text} under {compact(case['schema'])}")
            reasons = (re.search(reason, f"{about} | {text}") for reason in NARROWER.values())
            if test["valid"] and not accepted and not any(reasons):
                wrong.append(f"not accepted: {about}: {text} under {compact(case['schema'])}")
    counts = (
        (schemas["enforced"], schemas["refused"]),
        tuple(instances[key] for key in ((True, True), (False, False), (True, False), (False, True))),
    )
    print(folder, counts, refusals.most_common())
    record_property(folder, counts)
    assert not wrong, "\n".join(wrong)
    (enforced, refused), (good, bad, narrowed, loose) = counts
    (least_enforced, most_refused), (least_good, least_bad, most_narrowed, most_loose) = COUNTS[folder]
    assert enforced >= least_enforced and refused <= most_refused
    assert good >= least_good and bad >= least_bad and narrowed <= most_narrowed and loose <= most_loose


def test_large_schemas_are_enforced_or_refused_by_name():
    enforced, refused = [], {}
    for name, text in corpora.large_schemas().items():
        try:
            matcher_of(JsonSchema(text))
            enforced.append(name)
        except InvalidParameter as error:
            refused[name] = "size" if "larger than" in str(error) else keyword_of(error)
    print(enforced, refused)
    assert {name for name, reason in refused.items() if reason == "size"} == {"azure-pipelines", "renovate"}
    assert len(enforced) >= 7 and all(refused.values())
