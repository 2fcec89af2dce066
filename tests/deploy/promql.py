"""Reads which series a PromQL query selects, and looks them up among samples of a scrape.

Only what our queries use is understood: selectors with = and =~, functions, aggregations and numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

WORDS = {"and", "or", "unless", "bool", "offset", "by", "without"}
STRING = re.compile(r'"[^"]*"')
LABELS_OF_RESULT = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*+)\s*+(?:\{([^}]*)\})?+(?!\s*\()")
MATCHER = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')


def fill_variables(query: str) -> str:
    """Put into a query of the dashboard what Grafana puts for its variables."""
    for name, text in (("__rate_interval", "5m"), ("instance", ".*"), ("model", ".*"), ("engine", ".*")):
        query = query.replace(f"${name}", text)
    assert "$" not in query
    return query


@dataclass(frozen=True)
class Selector:
    """A metric with patterns of its labels."""

    name: str
    patterns: tuple[tuple[str, str], ...]

    def matches(self, sample: Sample, labels: Mapping[str, str]) -> bool:
        """Tell whether a sample that has these labels is selected."""
        is_named = sample.name == self.name
        return is_named and all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in self.patterns)


def read_selectors(query: str) -> tuple[Selector, ...]:
    """Return the selectors of a query, in their order."""
    query = LABELS_OF_RESULT.sub(" ", query)
    query = re.sub(r"\[[^\]]*\]", " ", query)
    selectors = []
    for name, matchers in SELECTOR.findall(query):
        if name not in WORDS:
            rows = MATCHER.findall(matchers)
            selectors.append(
                Selector(name, tuple((label, text if sign == "=~" else re.escape(text)) for label, sign, text in rows))
            )
    return tuple(selectors)


def read_result_labels(query: str) -> set[str]:
    """Return the labels that aggregations of a query name."""
    return {label.strip() for labels in LABELS_OF_RESULT.findall(query) for label in labels.split(",")}


@dataclass(frozen=True)
class Scrape:
    """The samples of a scrape. added: labels that Prometheus gives to all of them."""

    samples: Sequence[Sample]
    added: Mapping[str, str]

    @classmethod
    def from_text(cls, text: str, **added: str) -> "Scrape":
        """Return the samples of an answer of /metrics, and Prometheus' own `up`."""
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return cls([*samples, Sample("up", {}, 1.0)], added)

    def find_faults(self, query: str) -> list[str]:
        """List the selectors of a query that select nothing, and the labels that none of them has."""
        faults, known = [], set(self.added)
        selectors = read_selectors(query)
        for selector in selectors:
            chosen = [sample for sample in self.samples if selector.matches(sample, {**self.added, **sample.labels})]
            faults += [] if chosen else [f"{selector} selects nothing"]
            known |= {label for sample in chosen for label in sample.labels}
        faults += [f"nothing has the label {label}" for label in read_result_labels(query) - known]
        return faults if selectors else ["it selects nothing at all"]
