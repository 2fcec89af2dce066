"""The text that a template writes is distinguished from literals that it only compares with."""

import pytest

from jaxserve.text.template_text import extract_template_text


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("<think>{{ x }}</think>", "<think>…</think>"),
        ("{{ '<a>' + x + '</a>' }}", "<a>…</a>"),
        ("{{ '<a>' ~ x.strip('<b>') ~ y|replace('<c>', '') }}", "<a>……"),
        ("{% set end = '</a>' %}{{ '<a>' + end }}", "<a></a>"),
        ("{% set end = '</a>' %}{% set end = '</b>' %}{{ '<a>' + end }}", "<a>…"),
        ("{% set text = '<a>' + x %}{{ text }}", "<a>……"),
        ("{% if '<a>' in x or x == '<b>' or x.startswith('<c>') %}<d>{% else %}<e>{% endif %}", "<d><e>"),
        ("{{ x.split('</a>')[-1].lstrip('<b>') }}", "…"),
        ("{{ '<a>' if x.endswith('<b>') else '<c>' }}", "<a><c>"),
        ("{% for x in messages %}<a>{% else %}<b>{% endfor %}{# <c> #}", "<a><b>"),
        ("{% macro m(t) %}<m>{{ t }}{% endmacro %}{{ m('<a>' ~ x) }}", "<m>…<a>…"),
        ("{% set block %}<a>{% endset %}{% generation %}<b>{% endgeneration %}", "<a><b>"),
    ],
)
def test_its_own_words_in_their_order(source, written):
    assert extract_template_text(source).text == written


def test_the_variables_that_it_reads():
    words = extract_template_text(
        "{% set mine = tools %}{{ mine }}{{ enable_thinking }}{% for m in messages %}{% endfor %}"
    )
    assert words.variables == {"tools", "enable_thinking", "messages"}
