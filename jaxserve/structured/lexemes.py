"""Where the text of a grammar may be cut into lexemes, so that longest-match lexing loses no text of the grammar.

llguidance's lexer takes the longest lexeme that fits, and never goes back. That is exact if, whatever has been written,
all ways to read it that are still possible agree on whether the next character goes on in a lexeme or begins one. So:

* Every occurrence of a character class is a position. A link says that one position may follow another, and across
  which joints: the gaps of a concatenation, or the loop of a repetition.
* The sets of positions that the same text can lead to are found as those of an automaton are. Rules are entered and
  left without remembering from where, which makes the sets too large but never too small; characters are compared by
  their first byte, since lexemes are matched byte by byte.
* All links that can be taken from such a set on the same byte must be inside a lexeme, or all between two. Where one is
  between two because of recursion, the others' joints are cut, and all that contains them is written as rules.

In the worst case every character is a lexeme of its own.
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

# Of links and positions followed: about half a second. What takes longer is parsed character by character.
MAX_WORK = 1_000_000
Boundary = tuple[Production, int]  # a concatenation and the index of what stands before the gap, or a repetition and 0


@dataclass(frozen=True, slots=True)
class _Link:
    """Any of `firsts` may follow any of `lasts`, across these joints. accepts: the first bytes of `firsts`."""

    lasts: frozenset[int]
    firsts: frozenset[int]
    joints: tuple[Boundary, ...]
    accepts: int


class LexemeSplit:
    """Which nodes of a grammar are matched by one lexeme.

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
        for node in _all_nodes(rules):
            self._parents |= dict.fromkeys(children(node), node)
            if isinstance(node, RuleRef):
                self._references[node.name].append(node)
        self._links_across: dict[Boundary, list[_Link]] = {}
        self._agreeing: dict[int, list[_Link]] = {}  # identity of a link → all that must agree with it
        recursive = _recursive_rules(rules)
        if recursive:  # otherwise the whole grammar is one regular expression
            self._split(root, recursive)

    def is_lexeme(self, node: Production) -> bool:
        """Whether one lexeme matches the whole node, if it is not empty."""
        return node not in self._composite

    def groups(self, concatenation: Concatenation) -> Iterator[tuple[Production, ...]]:
        """The items, those together that one lexeme matches."""
        start = 0
        for index in range(len(concatenation.items)):
            if index + 1 == len(concatenation.items) or (concatenation, index) in self._cuts:
                yield concatenation.items[start : index + 1]
                start = index + 1

    def _split(self, root: str, recursive: set[str]) -> None:
        links = _links(self._rules, self.nullable_rules, root)
        if links is None:  # too many of them
            self._cut_all()
            return
        for link in links.all:
            for joint in link.joints:
                self._links_across.setdefault(joint, []).append(link)
        if not self._compare(links):
            self._cut_all()
            return
        for name in recursive:
            self._make_composite(self._rules[name])

    def _compare(self, links: "_Links") -> bool:
        """Finds the links that must agree. False: that takes too long."""
        work = 0
        waiting = [frozenset[int]()]  # the beginning of the text
        seen = set(waiting)
        while waiting:
            positions = waiting.pop()
            leaving = list({id(link): link for position in positions for link in links.behind[position]}.values())
            leaving = leaving if positions else [links.start]
            for byte_set in _atoms({links.bytes_of[first] for link in leaving for first in link.firsts}):
                possible = [link for link in leaving if link.accepts & byte_set]
                self._agree(possible)
                firsts = (first for link in possible for first in link.firsts)
                reached = frozenset(first for first in firsts if links.bytes_of[first] & byte_set)
                work += len(leaving) + len(reached)
                if reached not in seen:
                    seen.add(reached)
                    waiting.append(reached)
            work += sum(len(link.firsts) for link in leaving)
            if work > MAX_WORK:
                return False
        return True

    def _agree(self, links: list[_Link]) -> None:
        """Puts the links into one set, all of which are inside a lexeme or none is."""
        sets = {id(found): found for link in links if (found := self._agreeing.get(id(link))) is not None}
        largest = max(sets.values(), key=len, default=[])
        for joined in sets.values():
            if joined is not largest:
                largest += joined
                self._agreeing |= {id(link): largest for link in joined}
        new = [link for link in links if id(link) not in self._agreeing]
        largest += new
        self._agreeing |= {id(link): largest for link in new}

    def _make_composite(self, node: Production) -> None:
        """Writes the node as rules, and therefore all that contains it."""
        waiting: list[Production | Boundary] = [node]
        while waiting:
            found = waiting.pop()
            if isinstance(found, tuple):
                waiting += self._cut(found)
            elif found not in self._composite:
                self._composite.add(found)
                waiting += self._around(found)

    def _around(self, node: Production) -> Iterator[Production | Boundary]:
        """What follows from a node's being composite: the same of its parent, and cuts around it."""
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

    def _cut(self, joint: Boundary) -> Iterator[Production | Boundary]:
        """What follows from a cut: its node is composite, and links that must agree are cut, too."""
        if joint in self._cuts:
            return
        self._cuts.add(joint)
        yield joint[0]
        for link in self._links_across.get(joint, ()):
            agreeing = self._agreeing.get(id(link), [])
            for other in agreeing:
                yield from other.joints
            agreeing.clear()

    def _cut_all(self) -> None:
        """Makes every character a lexeme of its own."""
        for node in _all_nodes(self._rules):
            if not isinstance(node, CharClass):
                self._composite.add(node)
            if isinstance(node, Concatenation):
                self._cuts |= {(node, gap) for gap in range(len(node.items) - 1)}


def find_continuation_bytes(rules: Rules, root: str) -> int:
    """The first bytes with which a whole text of the grammar may go on: bit b is byte b. Some may be too many."""
    links = _links(rules, solve_fixpoint(rules, False, is_nullable), root)
    if links is None:
        return (1 << 256) - 1
    return reduce(or_, (link.accepts for position in links.end for link in links.behind[position]), 0)


@dataclass(frozen=True, slots=True)
class _Links:
    """The positions of a grammar and how they follow each other.

    bytes_of   position → the first bytes of its characters
    start      leads to the positions that a text can begin at
    end        positions that a text can end at
    behind     position → the links that leave it
    """

    all: list[_Link]
    bytes_of: list[int]
    start: _Link
    end: frozenset[int]
    behind: list[list[_Link]]


def _links(rules: Rules, nullable_rules: Mapping[str, bool], root: str) -> _Links | None:
    """None: there are too many."""
    positions = [node for node in _all_nodes(rules) if isinstance(node, CharClass)]
    place_of: dict[Production, frozenset[int]] = {node: frozenset({index}) for index, node in enumerate(positions)}
    bytes_of = [node.first_bytes for node in positions]

    def at_edge(node: Production, of_rules: dict[str, frozenset[int]], step: int) -> frozenset[int]:
        """The positions that the node can begin (step 1) or end (step -1) at."""
        if isinstance(node, CharClass):
            return place_of[node]
        if isinstance(node, RuleRef):
            return of_rules[node.name]
        found: frozenset[int] = frozenset()
        for child in children(node)[::step]:
            found |= at_edge(child, of_rules, step)
            if isinstance(node, Concatenation) and not is_nullable(child, nullable_rules):
                break
        return found

    def link_to(lasts: frozenset[int], firsts: frozenset[int], joints: tuple[Boundary, ...]) -> _Link:
        return _Link(lasts, firsts, joints, reduce(or_, (bytes_of[position] for position in firsts), 0))

    first_of = solve_fixpoint(rules, frozenset(), lambda node, values: at_edge(node, values, 1))
    last_of = solve_fixpoint(rules, frozenset(), lambda node, values: at_edge(node, values, -1))
    links: list[_Link] = []
    behind: list[list[_Link]] = [[] for _ in positions]
    work = 0
    for before, after, joints in _neighbours(rules, nullable_rules):
        lasts, firsts = at_edge(before, last_of, -1), at_edge(after, first_of, 1)
        links.append(link_to(lasts, firsts, joints))
        for position in lasts:
            behind[position].append(links[-1])
        work += len(firsts) + len(lasts) + len(joints)
        if work > MAX_WORK:
            return None
    return _Links(links, bytes_of, link_to(frozenset(), first_of[root], ()), last_of[root], behind)


def _neighbours(
    rules: Rules, nullable_rules: Mapping[str, bool]
) -> Iterator[tuple[Production, Production, tuple[Boundary, ...]]]:
    """(what ends, what then begins, the joints between)"""
    for node in _all_nodes(rules):
        if isinstance(node, Repetition) and (node.max is None or node.max > 1):
            yield node.item, node.item, ((node, 0),)
        if not isinstance(node, Concatenation):
            continue
        for index, before in enumerate(node.items):
            for end in range(index + 1, len(node.items)):
                yield before, node.items[end], tuple((node, gap) for gap in range(index, end))
                if not is_nullable(node.items[end], nullable_rules):
                    break


def _recursive_rules(rules: Rules) -> set[str]:
    """Rules that lead back to themselves, and those that need such a rule."""
    return {name for name, is_flat in solve_fixpoint(rules, False, _is_flat).items() if not is_flat}


def _is_flat(node: Production, flat_rules: dict[str, bool]) -> bool:
    """Whether it needs only rules that are known to need no recursion."""
    return all(flat_rules[below.name] for below in walk(node) if isinstance(below, RuleRef))


def _all_nodes(rules: Rules) -> Iterator[Production]:
    for node in rules.values():
        yield from walk(node)


def _atoms(sets: set[int]) -> list[int]:
    """The largest sets of bytes of which each of the sets holds all or nothing, but for those that none holds."""
    atoms: list[int] = []
    for new in sets:
        parts = [part for atom in atoms for part in (atom & new, atom & ~new) if part]
        for atom in atoms:
            new &= ~atom
        atoms = [*parts, new] if new else parts
    return atoms
