"""Members of an object in Lark: declared ones in order, each there or not if it is optional, then undeclared ones."""

from collections.abc import Sequence

from llguidance import regex_to_lark

from jaxserve.structured.lark_builder import EMPTY, LarkBuilder, quantifier, quote_text
from jaxserve.structured.parameter_schema import ObjectMembers
from jaxserve.structured.patterns import can_match
from jaxserve.structured.text_patterns import to_fullmatch_pattern
from jaxserve.structured.uninhabited import no_valid_value


def write_members(
    lark: LarkBuilder,
    members: Sequence[tuple[str, bool]],
    other: str | None,
    num_others: tuple[int, int | None],
    comma: str = "",
) -> str:
    """Return an expression for the members of an object.

    members      (expression, whether it is required) of each declared member
    other        expression of an undeclared member; None: there are none
    num_others   (least, most) of these; most None: any number
    comma        expression of what stands between two members; "": nothing

    Raises InvalidParameter if undeclared members are required and there are none.
    """
    least, most = num_others
    if other is None or most == 0:
        if least:
            raise no_valid_value()
        first = after = EMPTY
    else:
        more = lark.rule(f"{comma} {other}")
        after = more + quantifier(least, most)
        rest = more + quantifier(max(least - 1, 0), None if most is None else most - 1) if most != 1 else EMPTY
        first = lark.rule(f"{other} {rest}") + ("" if least else "?")
    if not comma:
        items = [item if is_required else f"{lark.rule(item)}?" for item, is_required in members]
        return " ".join([*items, after])
    for item, is_required in reversed(members):  # first: what may come first; after: what may follow a member
        first = lark.rule(f"{item} {after}" if is_required else f"{item} {after} | {first}")
        next_item = lark.rule(f"{comma} {item}")
        after = lark.rule(f"{next_item} {after}" if is_required else f"{next_item}? {after}")
    return first


def undeclared_names(
    alternatives: Sequence[ObjectMembers], members: ObjectMembers, names: str
) -> list[tuple[str, object]]:
    """Return (a terminal's expression for names that are not declared, the merged schema of their values).

    alternatives   all kinds of objects that there may be: names that one of them declares are excluded
    members        the members of this kind; names that match several of its patterns are excluded
    names          a pattern that the names match

    Raises InvalidParameter if a pattern of names has anchors inside.
    """
    declared = dict.fromkeys(name for kind in alternatives for name in kind.declared)
    none_of = f" & ~({' | '.join(quote_text(name) for name in declared if name)})" if any(declared) else ""
    patterns = {pattern: f"/{regex_to_lark(to_fullmatch_pattern(pattern, '#'))}/" for pattern in members.patterns}
    terminals = []
    for pattern, schema in members.undeclared:
        excluded = "".join(f" & ~{text}" for other, text in patterns.items() if other != pattern)
        matched = "" if pattern is None else f" & {patterns[pattern]}"
        terminal = f"/{regex_to_lark(names)}/{matched}{excluded}{none_of}"
        if not (matched or excluded) or can_match(terminal):
            terminals.append((terminal, schema))
    return terminals
