"""Context-free grammars over characters: the right-hand sides of rules as trees, and properties computed on them.

Nodes are compared by identity: every occurrence of a character in a grammar is a node of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class CharClass:
    """One character out of sorted, disjoint ranges of code points, both ends included."""

    ranges: tuple[tuple[int, int], ...]

    @property
    def first_bytes(self) -> int:
        """The first bytes of its characters in UTF-8, as a bit set: bit b is byte b."""
        byte_set = 0
        for low, high in self.ranges:
            least, most = _first_utf8_byte(low), _first_utf8_byte(high)
            byte_set |= (1 << most + 1) - (1 << least)
        return byte_set


@dataclass(frozen=True, slots=True, eq=False)
class Concatenation:
    """The items in order; the empty text if there are none."""

    items: tuple["Production", ...]


@dataclass(frozen=True, slots=True, eq=False)
class Alternation:
    """One of the options."""

    options: tuple["Production", ...]


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    """The item from `min` to `max` times (max None: any number)."""

    item: "Production"
    min: int
    max: int | None


@dataclass(frozen=True, slots=True, eq=False)
class RuleRef:
    """A reference to the rule of this name."""

    name: str


Production = CharClass | Concatenation | Alternation | Repetition | RuleRef
Rules = Mapping[str, Production]


def children(node: Production) -> tuple[Production, ...]:
    """Return the nodes directly below a node."""
    match node:
        case Concatenation(items):
            return items
        case Alternation(options):
            return options
        case Repetition(item):
            return (item,)
    return ()


def walk(node: Production) -> Iterator[Production]:
    """Yield a node and all nodes below it, children before their parents."""
    for child in children(node):
        yield from walk(child)
    yield node


def solve_fixpoint(rules: Rules, least: T, evaluate: Callable[[Production, dict[str, T]], T]) -> dict[str, T]:
    """Compute the least fixed point of one equation a rule: value = evaluate(right-hand side, values of all rules).

    rules      name → right-hand side
    least      the value that all rules begin with
    evaluate   must be monotonic, or the iteration may not end
    """
    values = dict.fromkeys(rules, least)
    order, is_changed = _order_callees_first(rules), True
    while is_changed:
        is_changed = False
        for name in order:
            value = evaluate(rules[name], values)
            is_changed |= value != values[name]
            values[name] = value
    return values


def is_nullable(node: Production, nullable_rules: Mapping[str, bool]) -> bool:
    """Whether a node derives the empty text, given whether each rule does."""
    match node:
        case Concatenation(items):
            return all(is_nullable(item, nullable_rules) for item in items)
        case Alternation(options):
            return any(is_nullable(option, nullable_rules) for option in options)
        case Repetition(item, least):
            return least == 0 or is_nullable(item, nullable_rules)
        case RuleRef(name):
            return nullable_rules[name]
    return False


def remove_useless_rules(rules: Rules, root: str) -> dict[str, Production]:
    """Return an equivalent grammar without unproductive parts, which derive no finite text, and unreachable rules.

    It is empty if the root itself derives no finite text.
    """
    productive = solve_fixpoint(rules, False, lambda node, values: _prune(node, values) is not None)
    pruned = {name: _prune(node, productive) for name, node in rules.items() if productive[name]}
    useful: dict[str, Production] = {}
    queue = [root] if productive[root] else []
    while queue:
        name = queue.pop()
        node = pruned[name]
        if name not in useful and node is not None:
            useful[name] = node
            queue += [below.name for below in walk(node) if isinstance(below, RuleRef)]
    return useful


def _prune(node: Production, productive: Mapping[str, bool]) -> Production | None:
    """Return the node without options that derive no finite text; None if it derives none itself."""
    match node:
        case CharClass(ranges):
            return node if ranges else None
        case RuleRef(name):
            return node if productive[name] else None
        case Repetition(item, least, most):
            pruned = _prune(item, productive)
            if pruned is None:
                return None if least else Concatenation(())
            return node if pruned is item else Repetition(pruned, least, most)
        case Concatenation(items):
            parts = [_prune(item, productive) for item in items]
            possible = tuple(part for part in parts if part is not None)
            return Concatenation(possible) if len(possible) == len(items) else None
        case Alternation(options):
            parts = [_prune(option, productive) for option in options]
            possible = tuple(part for part in parts if part is not None)
            return Alternation(possible) if possible else None


def _order_callees_first(rules: Rules) -> list[str]:
    """Return the names, each after the rules that it refers to, except where rules are recursive."""
    order: list[str] = []
    seen: set[str] = set()
    for start in rules:
        stack = [(start, iter((start,)))]
        while stack:
            name, below = stack[-1]
            following = next((called for called in below if called not in seen), None)
            if following is None:
                stack.pop()
                if stack:
                    order.append(name)
            else:
                seen.add(following)
                references = (node.name for node in walk(rules[following]) if isinstance(node, RuleRef))
                stack.append((following, references))
    return order


def _first_utf8_byte(code: int) -> int:
    if code < 0x80:
        return code
    if code < 0x800:
        return 0xC0 | code >> 6
    return 0xE0 | code >> 12 if code < 0x10000 else 0xF0 | code >> 18
