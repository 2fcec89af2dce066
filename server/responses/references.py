"""References to items of kept responses, which stand in the input in place of the items themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxserve import InvalidParameter
from server.errors import preview
from server.responses.items import Item
from server.responses.store import StoredResponse

REFERENCE = "item_reference"


def is_reference(item: Item) -> bool:
    """Tell whether an input item names another one. Its type may be left out."""
    kind = item.get("type")
    return kind == REFERENCE or (kind is None and "role" not in item and "id" in item)


def resolve_references(
    items: Sequence[Item], find: Callable[[str], StoredResponse | None]
) -> tuple[list[Item], list[StoredResponse]]:
    """Return the items with those that are referred to in their places, and the responses that have them.

    find: returns the kept response in whose output an item is, by the item's id; None if there is none. No item is
    taken twice, so that a small request cannot come to more than the store holds.

    Raises InvalidParameter if a reference names no item, or one that another has named.
    """
    resolved: list[Item] = []
    holders: dict[str, StoredResponse] = {}
    for number, item in enumerate(items):
        if not is_reference(item):
            resolved.append(item)
            continue
        place, item_id = f"input[{number}].id", item.get("id")
        holder = find(item_id) if isinstance(item_id, str) else None
        if holder is None or not isinstance(item_id, str):
            message = (
                f"{place} must be the id of an item in the output of a response that is kept, got {preview(item_id)}; "
                "send the item itself, as clients do with store: false."
            )
            raise InvalidParameter(message, "input")
        if item_id in holders:
            raise InvalidParameter(f"{place} names {preview(item_id)} for a second time; name each item once.", "input")
        holders[item_id] = holder
        resolved.append(holder.find_item(item_id))
    return resolved, list(holders.values())
