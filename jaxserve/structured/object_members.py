"""Members of an object as a grammar: in declared order, optional ones left out or not, then those not declared."""

from collections.abc import Sequence

from llguidance import regex_to_lark

from jaxserve.errors import InvalidParameter
from jaxserve.structured.lark_builder import EMPTY, LarkBuilder, quantifier, quote_text
from jaxserve.structured.parameter_schema import ObjectMembers
from jaxserve.structured.patterns import can_match
from jaxserve.structured.text_patterns import to_fullmatch_pattern


def write_members(
    lark: LarkBuilder,
    members: Sequence[tuple[str, bool]],
    other: str | None,
    num_others: tuple[int, int | None],
    comma: str = "",
) -> str:
    """An expression for members: (the expression of each, whether it must be there).

    other        the expression of one that is not declared; None: there is none
    num_others   how many of them: (fewest, most)
    comma        the expression of what stands between two members; "": nothing
    """
    fewest, most = num_others
    if other is None or most == 0:
        if fewest:
            raise InvalidParameter("no JSON value is valid under the schema.")
        first = after = EMPTY
    else:
        more = lark.rule(f"{comma} {other}")
        after = more + quantifier(fewest, most)
        rest = more + quantifier(max(fewest - 1, 0), None if most is None else most - 1) if most != 1 else EMPTY
        first = lark.rule(f"{other} {rest}") + ("" if fewest else "?")
    if not comma:
        items = [item if is_required else f"{lark.rule(item)}?" for item, is_required in members]
        return " ".join([*items, after])
    for item, is_required in reversed(members):  # first: nothing stands before it; after: a member does
        first = lark.rule(f"{item} {after}" if is_required else f"{item} {after} | {first}")
        next_item = lark.rule(f"{comma} {item}")
        after = lark.rule(f"{next_item} {after}" if is_required else f"{next_item}? {after}")
    return first


def undeclared_names(
    alternatives: Sequence[ObjectMembers], members: ObjectMembers, names: str
) -> list[tuple[str, object]]:
    """Pairs of a terminal's expression for names that are declared nowhere, and the schema of their values.

    alternatives: kinds of objects of which it is one. names: a regex that they match. What would match two patterns is
    left out.
    """
    declared = dict.fromkeys(name for each in alternatives for name in each.declared)
    none_of = f" & ~({' | '.join(quote_text(name) for name in declared if name)})" if any(declared) else ""
    patterns = {
        pattern: f"/{regex_to_lark(to_fullmatch_pattern(pattern, '#'))}/"
        for pattern, _ in members.undeclared
        if pattern is not None
    }
    found = []
    for pattern, schema in members.undeclared:
        wrong = "".join(f" & ~{text}" for other, text in patterns.items() if other != pattern)
        right = "" if pattern is None else f" & {patterns[pattern]}"
        terminal = f"/{regex_to_lark(names)}/{right}{wrong}{none_of}"
        if not (right or wrong) or can_match(terminal):
            found.append((terminal, schema))
    return found
