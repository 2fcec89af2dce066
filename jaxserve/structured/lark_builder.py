"""Parts of a grammar in llguidance's dialect of Lark: terminals and rules, each defined once, and special tokens."""

import json
import re
from collections.abc import Iterable, Mapping

from jaxserve.structured.schema_merge import JsonGrammar

EMPTY = '""'  # expression for the empty text
ANY_TEXT = "/(?s:.*)/"  # terminal's expression for any text


class LarkBuilder:
    """The terminals and rules of one grammar while it is built. Methods return expressions that refer to them.

    special_tokens   text → id

    grammars         other grammars that it refers to, as llguidance takes them
    """

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self.grammars: list[dict[str, str]] = []
        self._special_tokens = special_tokens
        longest_first = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._terminals: dict[str, str] = {}  # definition → name
        self._rules: dict[str, str] = {}
        self._named_rules: dict[str, str] = {}  # name → definition
        self._lazy_terminals: dict[str, None] = {}

    def definitions(self) -> list[str]:
        """Return the lines that define all terminals and rules so far."""
        lines = [f"{name}: {definition}" for definition, name in [*self._rules.items(), *self._terminals.items()]]
        lines += [f"{name}: {definition}" for name, definition in self._named_rules.items()]
        return lines + [f"lazy_{terminal.lower()}[lazy]: {terminal}" for terminal in self._lazy_terminals]

    def has_special_token(self, text: str) -> bool:
        """Whether a text contains the text of a special token."""
        return self._special is not None and self._special.search(text) is not None

    def literal(self, text: str) -> str:
        """Return an expression for a text, in which the text of a special token means the token."""
        parts, end = [], 0
        for match in self._special.finditer(text) if self._special else ():
            parts += [quote_text(text[end : match.start()]), f"<[{self._special_tokens[match.group()]}]>"]
            end = match.end()
        return " ".join(filter(None, [*parts, quote_text(text[end:])])) or EMPTY

    def json(self, grammar: JsonGrammar) -> str:
        """Return an expression for what a grammar for JSON derives."""
        return "%json " + json.dumps(grammar.schema) if grammar.lark is None else self.nested(grammar.lark)

    def nested(self, grammar: str) -> str:
        """Return an expression for what another grammar, a text in Lark, derives."""
        self.grammars.append({"name": f"grammar_{len(self.grammars)}", "lark_grammar": grammar})
        return "@" + self.grammars[-1]["name"]

    def choice(self, texts: Iterable[str]) -> str:
        """Return an expression for one of these texts, in ordinary tokens."""
        texts = tuple(texts)
        nonempty = [text for text in dict.fromkeys(texts) if text]
        if not nonempty:
            return EMPTY
        name = self.terminal(" | ".join(map(quote_text, nonempty)))
        return name if "" not in texts else f"{name}?"

    def text_until(self, marker: str, markers: Iterable[str], text: str = ANY_TEXT) -> str:
        """Return an expression for a text that ends at this one of the markers, marker included.

        text   a terminal's expression for the text
        """
        others = [other for other in markers if not other.startswith(marker)]
        text += self.excluding(other for other in others if other in marker)
        without = self.excluding(other for other in others if other not in marker)
        special = self._special.search(marker) if self._special else None
        if special is None:
            return self._lazy(f"(({text}) {quote_text(marker)}){without}")
        before = quote_text(marker[: special.start()])
        return f"{self.terminal(f'(({text}) {before}){without}')} {self.literal(marker[special.start() :])}"

    def excluding(self, markers: Iterable[str]) -> str:
        """Return the part of a terminal that excludes texts with one of the markers in them.

        Special tokens among the markers are left out: ordinary text never matches them.
        """
        plain = [marker for marker in markers if not self.has_special_token(marker)]
        return f" & ~({ANY_TEXT} ({' | '.join(map(quote_text, plain))}) {ANY_TEXT})" if plain else ""

    def terminal(self, definition: str) -> str:
        """Return the name of the terminal with this definition."""
        return self._terminals.setdefault(definition, f"T{len(self._terminals)}")

    def rule(self, definition: str) -> str:
        """Return the name of the rule with this definition.

        Expressions become rules rather than groups, because llguidance limits the nesting of parentheses.
        """
        return self._rules.setdefault(definition, f"r{len(self._rules)}")

    def reserve_rule(self) -> str:
        """Return the name of a rule that `define_rule` defines later, so that the definition may refer to it."""
        name = f"named{len(self._named_rules)}"
        self._named_rules[name] = EMPTY
        return name

    def define_rule(self, name: str, definition: str) -> None:
        """Define a rule whose name `reserve_rule` returned."""
        self._named_rules[name] = definition

    def _lazy(self, definition: str) -> str:
        """Return the name of a rule whose terminal ends as soon as it can."""
        terminal = self.terminal(definition)
        self._lazy_terminals[terminal] = None
        return f"lazy_{terminal.lower()}"


def quote_text(text: str) -> str:
    """Write a text as a string of Lark: those are JSON's, except that DEL is a control character to llguidance."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else ""


def quantifier(least: int, most: int | None) -> str:
    """Return the suffix that repeats an expression from `least` to `most` times (most None: any number)."""
    return {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}.get(
        (least, most), f"{{{least},{'' if most is None else most}}}"
    )
