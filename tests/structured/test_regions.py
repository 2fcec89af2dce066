"""The content of a structural tag's region ends where its end marker begins."""

import json

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.structured.patterns import can_continue_with
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import accepts, ids_of, matcher_of


def tag(content, end):
    format = {"type": "tag", "begin": "<a>", "content": content, "end": end}
    return matcher_of(StructuredOutputs(structural_tag=json.dumps({"format": format})))


def regex(pattern):
    return {"type": "regex", "pattern": pattern}


def grammar(text):
    return {"type": "grammar", "grammar": text}


@pytest.mark.parametrize(
    ("content", "end", "good", "bad"),
    [
        (regex(".*"), "</a>", ["<a></a>", "<a>x<y</a>"], ["<a>x", "<a>x</a></a>", "<a>\n</a>"]),
        (regex("[a-z]+"), "end", ["<a>xend", "<a>enend"], ["<a>end", "<a>x"]),
        (regex("[0-9]*"), "0", ["<a>0", "<a>120"], ["<a>100"]),
        (regex("[a-z]+"), ["</a>", "z"], ["<a>x</a>", "<a>xz"], ["<a>xzz", "<a></a>"]),
        (regex("(ab)*"), "a", ["<a>a"], ["<a>ab"]),
        (regex(".*"), "</call>", ["<a>x</call>"], ["<a>x</call>y"]),
        (regex("[a-z]{2}"), "a", ["<a>bca"], ["<a>b"]),
        (grammar('root ::= "(" root ")" | [a-z]+'), "</a>", ["<a>(x)</a>", "<a>xy</a>"], ["<a>(x</a>"]),
        (grammar('root ::= "(" root ")" | [a-z]*'), ")", [], []),
        (grammar("root ::= [^<]+"), "</a>", ["<a>x\ny</a>"], ["<a></a>"]),
    ],
)
def test_a_region_can_end(content, end, good, bad):
    try:
        matcher = tag(content, end)
    except InvalidParameter as error:
        assert not good and "may go on with" in str(error)
        return
    assert [accepts(matcher, ids_of(text)) for text in good + bad] == [True] * len(good) + [False] * len(bad)


@pytest.mark.parametrize("text", ["root ::= [a-z<>/]+", 'root ::= "(" root ")" | [a-z<>/]+'])
def test_a_grammar_that_could_swallow_its_end_is_refused(text):
    with pytest.raises(InvalidParameter, match=r"the grammar's text may go on with '<'.*choose another end"):
        tag(grammar(text), "</a>")


@pytest.mark.parametrize(
    ("pattern", "char", "may"),
    [
        ("a*", "a", True),
        ("a*", "b", False),
        ("a|abc", "b", True),
        ("ab", "b", False),
        ("", "a", False),
        (".*", "/", True),
    ],
)
def test_whether_a_regex_may_go_on(pattern, char, may):
    assert can_continue_with(pattern, char) is may
