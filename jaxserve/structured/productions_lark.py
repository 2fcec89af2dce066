"""Productions → a grammar in llguidance's Lark dialect that derives the same texts in spite of longest-match lexing."""

from collections.abc import Sequence

from jaxserve.structured.lark_builder import EMPTY, quantifier, quote_text
from jaxserve.structured.lexemes import LexemeSplit
from jaxserve.structured.productions import (
    Alternation,
    CharClass,
    Concatenation,
    Production,
    Repetition,
    RuleRef,
    Rules,
    is_nullable,
)

NOT_EMPTY = "/(?s:.)+/"


def productions_to_lark(rules: Rules, root: str) -> str:
    """Write a grammar in Lark whose rule `start` is the root."""
    return _ProductionsWriter(rules, root).write(root)


class _ProductionsWriter:
    """Writes one grammar, made of rules (lower case), lexemes (T…) and parts of lexemes (P… and, for rules, R…)."""

    def __init__(self, rules: Rules, root: str) -> None:
        self._rules = rules
        self._split = LexemeSplit(rules, root)
        self._number_of = {name: number for number, name in enumerate(rules)}
        self._names: dict[tuple[str, str], str] = {}  # (kind, definition) → name
        self._waiting: list[tuple[str, str]] = []  # (name in the grammar, rule)
        self._queued: set[str] = set()

    def write(self, root: str) -> str:
        """Return the text of the grammar."""
        lines = [f"start: {self._expression(RuleRef(root)) if self._is_flat(root) else self._reference(root)}"]
        while self._waiting:
            name, rule = self._waiting.pop()
            node = self._rules[rule]
            lines.append(f"{name}: {self._pattern(node) if self._is_flat(rule) else self._expression(node)}")
        return "\n".join([*lines, *(f"{name}: {definition}" for (_, definition), name in self._names.items())])

    def _is_flat(self, rule: str) -> bool:
        return self._split.is_lexeme(self._rules[rule])

    def _reference(self, rule: str) -> str:
        """Return the name under which a rule is written: as a part of lexemes, or as a rule."""
        name = f"{'R' if self._is_flat(rule) else 'rule_'}{self._number_of[rule]}"
        if name not in self._queued:
            self._queued.add(name)
            self._waiting.append((name, rule))
        return name

    def _expression(self, node: Production) -> str:
        """Write a node as the right-hand side of a rule."""
        if self._split.is_lexeme(node):
            return self._lexeme((node,))
        match node:
            case Concatenation():
                parts = [
                    self._lexeme(group) if all(map(self._split.is_lexeme, group)) else self._expression(group[0])
                    for group in self._split.groups(node)
                ]
                return " ".join(part for part in parts if part != EMPTY) or EMPTY
            case Alternation(options):
                return self._named("r", " | ".join(map(self._expression, options)))
            case Repetition(item, least, most):
                return self._named("r", self._expression(item)) + quantifier(least, most)
            case RuleRef(name):
                return self._reference(name)
        raise AssertionError("a character is a lexeme")

    def _lexeme(self, nodes: Sequence[Production]) -> str:
        """Write one lexeme for adjacent nodes; an optional one if they may be empty, since a lexeme must not be."""
        pattern = self._pattern(Concatenation(tuple(nodes)))
        if pattern == EMPTY:
            return EMPTY
        if not all(is_nullable(node, self._split.nullable_rules) for node in nodes):
            return self._named("T", pattern)
        return self._named("T", f"{self._named('P', pattern)} & {NOT_EMPTY}") + "?"

    def _pattern(self, node: Production) -> str:
        """Write a node as a part of a lexeme's definition."""
        match node:
            case CharClass():
                return _class(node)
            case Concatenation(items):
                return " ".join(self._patterns(items)) or EMPTY
            case Alternation(options):
                return self._named("P", " | ".join(map(self._pattern, options)))
            case Repetition(item, least, most):
                return EMPTY if most == 0 else self._named("P", self._pattern(item)) + quantifier(least, most)
            case RuleRef(name):
                return self._reference(name)

    def _patterns(self, items: Sequence[Production]) -> list[str]:
        """Write items as parts of a lexeme: runs of single characters as one string, and nothing for empty items."""
        patterns: list[str] = []
        run = ""
        for item in [*items, None]:
            if isinstance(item, CharClass) and (char := _single_char(item)) is not None:
                run += char
                continue
            if run:
                patterns.append(quote_text(run))
                run = ""
            pattern = EMPTY if item is None else self._pattern(item)
            if pattern != EMPTY:
                patterns.append(pattern)
        return patterns

    def _named(self, kind: str, definition: str) -> str:
        """Return the name of a definition; names rather than groups, as llguidance limits nested parentheses."""
        return self._names.setdefault((kind, definition), f"{kind}{len(self._names)}")


def _single_char(node: CharClass) -> str | None:
    """The only character of a class, if it has no other."""
    [(low, high), *others] = node.ranges
    return chr(low) if low == high and not others else None


def _class(node: CharClass) -> str:
    char = _single_char(node)
    if char is not None:
        return quote_text(char)
    members = (f"\\x{{{low:x}}}" + (f"-\\x{{{high:x}}}" if high > low else "") for low, high in node.ranges)
    return f"/[{''.join(members)}]/"
