"""ParserRow: the dialect of a parser name, and the signs in a checkpoint by which it is detected."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class TemplateSign:
    """A text in a chat template by which a dialect is detected. Values are shown as … (template_text.py).

    description   What was found, for the log.
    patterns      Regexes, all of which the text must match.
    model_types   Only these, where the template alone does not distinguish them from others; empty: any.
    """

    description: str
    patterns: tuple[str, ...]
    model_types: tuple[str, ...] = ()

    def is_in(self, text: str, model_type: str) -> bool:
        """Return whether a template that writes this text has the sign."""
        if self.model_types and model_type not in self.model_types:
            return False
        return all(re.search(pattern, text) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class ParserRow(Generic[D]):
    """A parser name, its dialect, and how it is detected.

    name          The name of the parser, which is vLLM's.
    dialect       Its dialect; None: outputs are not parsed by one.
    signs         Each of these in the chat template shows the dialect.
    token         A token of the vocabulary that shows it where the template does not show the form of calls.
    model_types   The model_types of config.json that show it where nothing else does.
    """

    name: str
    dialect: D | None
    signs: tuple[TemplateSign, ...] = ()
    token: str = ""
    model_types: tuple[str, ...] = ()


def row(
    name: str, dialect: D | None, *signs: TemplateSign | str, token: str = "", model_types: Sequence[str] = ()
) -> ParserRow[D]:
    """Make a row; a text among the signs is a literal that the template writes."""
    signs_ = tuple(sign if isinstance(sign, TemplateSign) else literal(sign) for sign in signs)
    return ParserRow(name, dialect, signs_, token, tuple(model_types))


def literal(text: str, *model_types: str) -> TemplateSign:
    """Return the sign that is one literal, for any or only for these model_types."""
    return TemplateSign(text, (re.escape(text),), model_types)


def pattern(description: str, *patterns: str) -> TemplateSign:
    """Return the sign that is several regexes."""
    return TemplateSign(description, patterns)
