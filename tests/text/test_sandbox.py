"""Templates can do what they can in Hugging Face, and nothing that grows without bound or shows an address."""

import itertools
import time
from types import SimpleNamespace

import pytest

from jaxserve.text import bounded_filters, deadline
from jaxserve.text.sandbox import describe_error, render_template

HOSTILE = [
    "{{ 9**9999999 }}",
    "{{ (9**9)**(9**9) if true }}",
    "{% set n = namespace(x=2**4000) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ [1] * 10**10 }}",
    "{{ 'a'|center(10**10) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (9999999999, 1) }}",
    "{{ '%9999999999d'|format(1) }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 9999999999) }}",
    "{{ strftime_now('%9999999999d') }}",
    "{{ 'a'|indent(10**10, true) }}",
    "{{ [1]|tojson(indent=10**10) }}",
    "{{ 1.5|round(10**10, 'floor') }}",
    "{{ [1]|batch(10**10, 'x')|list }}",
    "{{ [1]|slice(10**10)|list }}",
    "{{ range(10**10)|list }}",
    "{{ lipsum(10**5) }}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x|replace('a', 'aa') %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = [n.x, n.x]|join %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x.join(['a', 'b']) + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x]|sum(start=[]) %}{% endfor %}",
    "{% set x %}{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxx{% endfor %}{% endfor %}{% endset %}",
    "{% macro m() %}{% for i in range(99999) %}{% for j in range(9999) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}"
    "{% endmacro %}{{ m() }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]
ADDRESSES = ["{{ 'a'.upper }}", "{{ range }}", "{{ cycler(1) }}", "{{ [1]|map('string') }}", "{{ [raise_exception] }}"]
ESCAPES = ["{{ ''.__class__.__mro__ }}", "{{ ''|attr('__class__') }}", "{{ cycler.__init__.__globals__ }}"]


@pytest.mark.parametrize("source", HOSTILE)
def test_nothing_grows_without_bound(source):
    begin = time.perf_counter()
    with pytest.raises(Exception) as caught:
        render_template(source, {})
    assert describe_error(caught.value)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("source", [*ADDRESSES, *ESCAPES, "{% include 'x' %}", "{{ 1 / 0 }}", "{{ missing.x.y }}"])
def test_no_address_no_path_and_no_python_comes_out(source):
    try:
        shown = render_template(source, {})
    except Exception as error:
        shown = describe_error(error)
    assert "0x" not in shown and "/" not in shown and "class" not in shown.replace("__class__", "")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),
        ("    {% set x = 1 %}\n{{ x }}", "1"),
        ("{{ {'b': 'é<&', 'a': [1, none]}|tojson }}", '{"b": "é<&", "a": [1, null]}'),
        ("{{ {'b': 1, 'a': 2}|tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ 'é'|tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{% set ns = namespace(n=0) %}{% for x in [1, 2] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "3"),
        ("{{ 'a' ~ 1 ~ none ~ [2] }}{{ 'x' * 3 }}{{ 7 % 4 }}", "a1None[2]xxx3"),
        ("{{ '%s-%02d' % ('a', 3) }}{{ 2 ** 10 }}", "a-031024"),
        ("{{ '{}:{x}'.format(1, x=2) }}{{ ' a '.strip() }}{{ 'a,b'.split(',')|join('+') }}", "1:2aa+b"),
        ("{{ missing }}{{ missing is defined }}{{ 'abc'[1:] }}{{ dict(a=1).items()|list }}", "Falsebc[('a', 1)]"),
        ("{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}", "xy"),
        ("{% macro m(a) %}<{{ a }}{{ caller() if caller }}>{% endmacro %}{% call m(1) %}b{% endcall %}", "<1b>"),
        ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(2) ~ m(a=3) }}", "<2><3>"),
        ("{{ [{'a': 1}, {'a': 2}]|map(attribute='a')|list }}{{ [3, 1]|sort|first }}", "[1, 2]1"),
        ("{{ 'x'|indent(2, true) }}{{ '<'|upper|trim }}", "  x<"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source, text):
    assert render_template(source, {}) == text


def test_the_output_has_a_limit():
    assert render_template("{{ 'x' * n }}", {"n": 100}, max_chars=100) == "x" * 100
    with pytest.raises(Exception, match="too"):
        render_template("{% for i in range(11) %}0123456789{% endfor %}", {}, max_chars=100)


FOREVER = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) if loop.depth < 3 }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
]


@pytest.mark.parametrize("source", FOREVER)
def test_what_takes_too_long_is_stopped(source):
    with pytest.raises(Exception, match="takes too long"):
        render_template(source, {}, timeout_s=0.1)
    assert render_template("{% for x in 'abc' %}{{ x }}{% endfor %}", {}, timeout_s=10) == "abc"


def test_a_limit_around_several_renderings_is_one_for_all(monkeypatch):
    clock = itertools.count()  # a look at it takes a second
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with deadline.limit_time(50):
        for _ in range(5):
            with pytest.raises(Exception, match="takes too long"):
                render_template(FOREVER[0], {}, timeout_s=40)
    assert 50 < next(clock) < 70


ITEMS, CHARS = ("text", "text|select", "text|map('upper')|list"), ("text",)
WORK = {
    **dict.fromkeys(
        ("list", "join", "unique", "min", "max", "batch(9)|list", "slice(2)|list", "reverse", "sum"), ITEMS
    ),
    **dict.fromkeys(("sort", "groupby(0)", "reject|list", "map('upper')|list", "selectattr('x')|list"), ITEMS),
    **dict.fromkeys(("wordwrap", "title", "pprint", "urlencode", "striptags", "wordcount"), CHARS),
}


@pytest.mark.parametrize("use", WORK)
def test_one_call_of_a_filter_does_not_work_without_end(use, monkeypatch):
    """A call is not interrupted, so what it reads is limited, whether it is a text, a list or a generator."""
    monkeypatch.setattr(bounded_filters, "_MOST_ITEMS", dict.fromkeys(bounded_filters._MOST_ITEMS, 100))
    monkeypatch.setattr(bounded_filters, "MAX_FILTERED_ITEMS", 100)
    monkeypatch.setattr(bounded_filters, "MAX_SLOW_CHARS", 100)
    for items in WORK[use]:
        source = "{% set r = " + f"({items})|{use}" + " %}done" if use != "sum" else "{{ ([1] * n)|sum ~ 'done' }}"
        assert render_template(source, {"text": "ab" * 50, "n": 100}).endswith("done")
        with pytest.raises(bounded_filters.TooLarge, match="more than 100"):
            render_template(source, {"text": "ab" * 50 + "c", "n": 101})


LOOP = "{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{{ loop.nextitem }}"


@pytest.mark.parametrize(
    ("items", "text"),
    [("[5, 6]", "1/2,62/2"), ("{'a': 1}", "1/1"), ("missing", "none"), ("[5, 6]|map('string')", "1/2,62/2")],
)
def test_loops_still_know_where_they_are(items, text):
    assert render_template("{% for x in " + items + " %}" + LOOP + "{% else %}none{% endfor %}", {}) == text


def test_half_a_character_is_refused():
    with pytest.raises(UnicodeEncodeError) as caught:
        render_template(r"{{ '\ud800' }}", {})
    assert "lone surrogate" in describe_error(caught.value)


def test_the_reason_is_the_template_s_own_and_short():
    for message, shown in [("roles must alternate", "roles must alternate"), ("x" * 5000, "x" * 1000 + "…")]:
        with pytest.raises(Exception, match=r"roles|x") as caught:
            render_template("{{ raise_exception(message) }}", {"message": message})
        assert describe_error(caught.value) == shown
