"""Where the text of a grammar may be split into lexemes, so that longest-match lexing loses no text of the grammar.

llguidance's lexer takes the longest lexeme that fits, and never goes back. That is exact if, whatever has been written,
all ways to parse it that are still possible agree on whether the next character continues a lexeme or begins one. So:

* Every occurrence of a character class is a position, as in Glushkov's automaton. A transition says that one position
  may follow another, and which boundaries lie between: gaps of a concatenation, or the loop of a repetition.
* The sets of positions that one text can lead to are found by the subset construction. Rules are entered and left
  without remembering from where, which makes the sets too large but never too small; characters are compared by their
  first byte, since lexemes are matched byte by byte.
* All transitions that can be taken from such a set on the same byte must be inside a lexeme, or all between two. Where
  one is between two because of recursion, the boundaries of the others are cut, and all that contains them is written
  as rules.

In the worst case every character is a lexeme of its own. Source: Glushkov, "The abstract theory of automata", 1961.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_

from jaxserve.structured.productions import (
    CharClass,
    Concatenation,
    Production,
    Repetition,
    RuleRef,
    Rules,
    children,
    is_nullable,
    solve_fixpoint,
    walk,
)

# Transitions and positions followed: about half a second. Beyond it, every character becomes a lexeme.
MAX_WORK = 1_000_000
Boundary = tuple[Production, int]  # a concatenation and the index of the item before the gap, or a repetition and 0


@dataclass(frozen=True, slots=True)
class _Transition:
    """A step from any of the positions `sources` to any of `targets`, across the boundaries.

    accepts   the first bytes of `targets`, as a bit set
    """

    sources: frozenset[int]
    targets: frozenset[int]
    boundaries: tuple[Boundary, ...]
    accepts: int


class LexemeSplit:
    """The division of a grammar into lexemes: which nodes one lexeme matches.

    rules            the grammar, name → right-hand side
    root             the name of its first rule

    nullable_rules   whether each rule derives the empty text
    """

    def __init__(self, rules: Rules, root: str) -> None:
        self.nullable_rules = solve_fixpoint(rules, False, is_nullable)
        self._rules = rules
        self._composite: set[Production] = set()  # written as rules
        self._cuts: set[Boundary] = set()
        self._parents: dict[Production, Production] = {}
        self._rule_of: dict[Production, str] = {node: name for name, node in rules.items()}
        self._references: dict[str, list[Production]] = {name: [] for name in rules}
        for node in _walk_rules(rules):
            self._parents |= dict.fromkeys(children(node), node)
            if isinstance(node, RuleRef):
                self._references[node.name].append(node)
        self._transitions_across: dict[Boundary, list[_Transition]] = {}
        self._agreeing: dict[int, list[_Transition]] = {}  # identity of a transition → all that must agree with it
        recursive = _find_recursive_rules(rules)
        if recursive:  # otherwise the whole grammar is one regular expression
            self._split(root, recursive)

    def is_lexeme(self, node: Production) -> bool:
        """Whether one lexeme matches the whole node, unless its text is empty."""
        return node not in self._composite

    def groups(self, concatenation: Concatenation) -> Iterator[tuple[Production, ...]]:
        """Yield the items of a concatenation, those in one tuple that one lexeme matches together."""
        start = 0
        for index in range(len(concatenation.items)):
            if index + 1 == len(concatenation.items) or (concatenation, index) in self._cuts:
                yield concatenation.items[start : index + 1]
                start = index + 1

    def _split(self, root: str, recursive: set[str]) -> None:
        automaton = _build_automaton(self._rules, self.nullable_rules, root)
        if automaton is None:  # too large
            self._cut_all()
            return
        for transition in automaton.transitions:
            for boundary in transition.boundaries:
                self._transitions_across.setdefault(boundary, []).append(transition)
        if not self._find_agreeing(automaton):
            self._cut_all()
            return
        for name in recursive:
            self._make_composite(self._rules[name])

    def _find_agreeing(self, automaton: "_PositionAutomaton") -> bool:
        """Find the transitions that must agree. False: that takes too long."""
        work = 0
        queue = [frozenset[int]()]  # the beginning of the text
        seen = set(queue)
        while queue:
            positions = queue.pop()
            outgoing = [transition for position in positions for transition in automaton.outgoing[position]]
            outgoing = list({id(transition): transition for transition in outgoing}.values())
            outgoing = outgoing if positions else [automaton.start]
            first_bytes = {automaton.bytes_of[target] for transition in outgoing for target in transition.targets}
            for byte_set in _partition_bytes(first_bytes):
                possible = [transition for transition in outgoing if transition.accepts & byte_set]
                self._join_agreeing(possible)
                targets = (target for transition in possible for target in transition.targets)
                reached = frozenset(target for target in targets if automaton.bytes_of[target] & byte_set)
                work += len(outgoing) + len(reached)
                if reached not in seen:
                    seen.add(reached)
                    queue.append(reached)
            work += sum(len(transition.targets) for transition in outgoing)
            if work > MAX_WORK:
                return False
        return True

    def _join_agreeing(self, transitions: list[_Transition]) -> None:
        """Put transitions into one set, all of which are inside a lexeme or none is."""
        agreeing = (self._agreeing.get(id(transition)) for transition in transitions)
        sets = {id(members): members for members in agreeing if members is not None}
        largest = max(sets.values(), key=len, default=[])
        for members in sets.values():
            if members is not largest:
                largest += members
                self._agreeing |= {id(transition): largest for transition in members}
        new = [transition for transition in transitions if id(transition) not in self._agreeing]
        largest += new
        self._agreeing |= {id(transition): largest for transition in new}

    def _make_composite(self, node: Production) -> None:
        """Mark a node to be written as rules, and therefore all that contains it."""
        queue: list[Production | Boundary] = [node]
        while queue:
            item = queue.pop()
            if isinstance(item, tuple):
                queue += self._cut(item)
            elif item not in self._composite:
                self._composite.add(item)
                queue += self._around(item)

    def _around(self, node: Production) -> Iterator[Production | Boundary]:
        """Yield what follows from a node's being composite: its parent is, and the boundaries around it are cut."""
        if node in self._rule_of:
            yield from self._references[self._rule_of[node]]
        parent = self._parents.get(node)
        if parent is None:
            return
        yield parent
        if isinstance(parent, Repetition):
            yield parent, 0
        elif isinstance(parent, Concatenation):
            index = parent.items.index(node)
            yield from ((parent, gap) for gap in (index - 1, index) if 0 <= gap < len(parent.items) - 1)

    def _cut(self, boundary: Boundary) -> Iterator[Production | Boundary]:
        """Cut a boundary, and yield what follows: its node is composite, and transitions that must agree are cut."""
        if boundary in self._cuts:
            return
        self._cuts.add(boundary)
        yield boundary[0]
        for transition in self._transitions_across.get(boundary, ()):
            agreeing = self._agreeing.get(id(transition), [])
            for other in agreeing:
                yield from other.boundaries
            agreeing.clear()

    def _cut_all(self) -> None:
        """Make every character a lexeme of its own."""
        for node in _walk_rules(self._rules):
            if not isinstance(node, CharClass):
                self._composite.add(node)
            if isinstance(node, Concatenation):
                self._cuts |= {(node, gap) for gap in range(len(node.items) - 1)}


def find_continuation_bytes(rules: Rules, root: str) -> int:
    """Return the first bytes of what may follow a complete text of the grammar within a longer text of it.

    The result is a bit set: bit b is byte b. It may have too many bytes, never too few.
    """
    automaton = _build_automaton(rules, solve_fixpoint(rules, False, is_nullable), root)
    if automaton is None:
        return (1 << 256) - 1
    outgoing = (transition for position in automaton.final for transition in automaton.outgoing[position])
    return reduce(or_, (transition.accepts for transition in outgoing), 0)


@dataclass(frozen=True, slots=True)
class _PositionAutomaton:
    """The positions of a grammar and the transitions between them.

    bytes_of   position → the first bytes of its characters, as a bit set
    start      leads to the positions that a text can begin at
    final      positions that a text can end at
    outgoing   position → the transitions that leave it
    """

    transitions: list[_Transition]
    bytes_of: list[int]
    start: _Transition
    final: frozenset[int]
    outgoing: list[list[_Transition]]


def _build_automaton(rules: Rules, nullable_rules: Mapping[str, bool], root: str) -> _PositionAutomaton | None:
    """Build the automaton of a grammar; None: it is too large."""
    positions = [node for node in _walk_rules(rules) if isinstance(node, CharClass)]
    position_of: dict[Production, frozenset[int]] = {node: frozenset({index}) for index, node in enumerate(positions)}
    bytes_of = [node.first_bytes for node in positions]

    def at_edge(node: Production, of_rules: dict[str, frozenset[int]], step: int) -> frozenset[int]:
        """The positions that the node can begin (step 1) or end (step -1) at."""
        if isinstance(node, CharClass):
            return position_of[node]
        if isinstance(node, RuleRef):
            return of_rules[node.name]
        edge: frozenset[int] = frozenset()
        for child in children(node)[::step]:
            edge |= at_edge(child, of_rules, step)
            if isinstance(node, Concatenation) and not is_nullable(child, nullable_rules):
                break
        return edge

    def transition(sources: frozenset[int], targets: frozenset[int], boundaries: tuple[Boundary, ...]) -> _Transition:
        return _Transition(sources, targets, boundaries, reduce(or_, (bytes_of[target] for target in targets), 0))

    first_of = solve_fixpoint(rules, frozenset(), lambda node, values: at_edge(node, values, 1))
    last_of = solve_fixpoint(rules, frozenset(), lambda node, values: at_edge(node, values, -1))
    transitions: list[_Transition] = []
    outgoing: list[list[_Transition]] = [[] for _ in positions]
    work = 0
    for before, after, boundaries in _iter_neighbours(rules, nullable_rules):
        sources, targets = at_edge(before, last_of, -1), at_edge(after, first_of, 1)
        transitions.append(transition(sources, targets, boundaries))
        for position in sources:
            outgoing[position].append(transitions[-1])
        work += len(targets) + len(sources) + len(boundaries)
        if work > MAX_WORK:
            return None
    start = transition(frozenset(), first_of[root], ())
    return _PositionAutomaton(transitions, bytes_of, start, last_of[root], outgoing)


def _iter_neighbours(
    rules: Rules, nullable_rules: Mapping[str, bool]
) -> Iterator[tuple[Production, Production, tuple[Boundary, ...]]]:
    """Yield (a node, a node whose text may follow directly, the boundaries between them)."""
    for node in _walk_rules(rules):
        if isinstance(node, Repetition) and (node.max is None or node.max > 1):
            yield node.item, node.item, ((node, 0),)
        if not isinstance(node, Concatenation):
            continue
        for index, before in enumerate(node.items):
            for end in range(index + 1, len(node.items)):
                yield before, node.items[end], tuple((node, gap) for gap in range(index, end))
                if not is_nullable(node.items[end], nullable_rules):
                    break


def _find_recursive_rules(rules: Rules) -> set[str]:
    """Return the rules that refer to themselves, directly or not, and those that refer to such a rule."""
    return {name for name, is_regular in solve_fixpoint(rules, False, _is_regular).items() if not is_regular}


def _is_regular(node: Production, regular_rules: dict[str, bool]) -> bool:
    """Whether a node refers only to rules that are known to need no recursion."""
    return all(regular_rules[below.name] for below in walk(node) if isinstance(below, RuleRef))


def _walk_rules(rules: Rules) -> Iterator[Production]:
    for node in rules.values():
        yield from walk(node)


def _partition_bytes(byte_sets: set[int]) -> list[int]:
    """Return the coarsest partition of the union of some sets in which each set is a union of parts."""
    parts: list[int] = []
    for new in byte_sets:
        split = [piece for part in parts for piece in (part & new, part & ~new) if piece]
        for part in parts:
            new &= ~part
        parts = [*split, new] if new else split
    return parts
