"""What a grammar in llguidance's Lark dialect is made of: terminals and rules, defined once, and special tokens."""

import json
import re
from collections.abc import Iterable, Mapping

from jaxserve.structured.schema_merge import JsonGrammar

EMPTY = '""'
ANY_TEXT = "/(?s:.*)/"


class LarkBuilder:
    """Collects the terminals and rules that one grammar needs. special_tokens: text → id.

    grammars   those that it refers to
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
        """All definitions so far."""
        lines = [f"{name}: {definition}" for definition, name in [*self._rules.items(), *self._terminals.items()]]
        lines += [f"{name}: {definition}" for name, definition in self._named_rules.items()]
        return lines + [f"lazy_{terminal.lower()}[lazy]: {terminal}" for terminal in self._lazy_terminals]

    def has_special_token(self, text: str) -> bool:
        return self._special is not None and self._special.search(text) is not None

    def literal(self, text: str) -> str:
        """An expression for this text, in which the text of a special token means the token."""
        parts, end = [], 0
        for found in self._special.finditer(text) if self._special else ():
            parts += [quote_text(text[end : found.start()]), f"<[{self._special_tokens[found.group()]}]>"]
            end = found.end()
        return " ".join(filter(None, [*parts, quote_text(text[end:])])) or EMPTY

    def json(self, grammar: JsonGrammar) -> str:
        """What a grammar for JSON allows."""
        return "%json " + json.dumps(grammar.schema) if grammar.lark is None else self.nested(grammar.lark)

    def nested(self, grammar: str) -> str:
        """All that another grammar, a text in Lark, allows."""
        self.grammars.append({"name": f"grammar_{len(self.grammars)}", "lark_grammar": grammar})
        return "@" + self.grammars[-1]["name"]

    def choice(self, texts: Iterable[str]) -> str:
        """One of these texts, in ordinary tokens."""
        texts = tuple(texts)
        filled = [text for text in dict.fromkeys(texts) if text]
        if not filled:
            return EMPTY
        name = self.terminal(" | ".join(map(quote_text, filled)))
        return name if "" not in texts else f"{name}?"

    def text_until(self, marker: str, markers: Iterable[str], text: str = ANY_TEXT) -> str:
        """Text up to this one of the markers, and the marker. text: a terminal's expression for the text."""
        others = [other for other in markers if not other.startswith(marker)]
        text += self.excluding(other for other in others if other in marker)
        without = self.excluding(other for other in others if other not in marker)
        special = self._special.search(marker) if self._special else None
        if special is None:
            return self._lazy(f"(({text}) {quote_text(marker)}){without}")
        before = quote_text(marker[: special.start()])
        return f"{self.terminal(f'(({text}) {before}){without}')} {self.literal(marker[special.start() :])}"

    def excluding(self, markers: Iterable[str]) -> str:
        """The condition that none of these is in the text; special tokens never are."""
        plain = [marker for marker in markers if not self.has_special_token(marker)]
        return f" & ~({ANY_TEXT} ({' | '.join(map(quote_text, plain))}) {ANY_TEXT})" if plain else ""

    def terminal(self, definition: str) -> str:
        return self._terminals.setdefault(definition, f"T{len(self._terminals)}")

    def rule(self, definition: str) -> str:
        """A rule of its own, since llguidance reads only so many parentheses inside each other."""
        return self._rules.setdefault(definition, f"r{len(self._rules)}")

    def reserve_rule(self) -> str:
        """The name of a rule that is defined later, so that its definition may refer to it."""
        name = f"named{len(self._named_rules)}"
        self._named_rules[name] = EMPTY
        return name

    def define_rule(self, name: str, definition: str) -> None:
        """Define a rule whose name was reserved."""
        self._named_rules[name] = definition

    def _lazy(self, definition: str) -> str:
        """A rule whose terminal ends as soon as it can."""
        terminal = self.terminal(definition)
        self._lazy_terminals[terminal] = None
        return f"lazy_{terminal.lower()}"


def quote_text(text: str) -> str:
    """As Lark's strings are JSON's, but for the control character that JSON allows."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else ""


def quantifier(least: int, most: int | None) -> str:
    """How often something is repeated."""
    return {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}.get(
        (least, most), f"{{{least},{'' if most is None else most}}}"
    )
