"""References to items of kept responses, which stand in the input in place of the items themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxserve import InvalidParameter
from server.errors import preview
from server.responses.items import Item
from server.responses.store import StoredResponse

REFERENCE = "item_reference"


def is_reference(item: Item) -> bool:
    """Tell whether an input item names another one. Its type may be left out."""
    kind = item.get("type")
    return kind == REFERENCE or (kind is None and "role" not in item and "id" in item)


def find_holders(
    items: Sequence[Item], find: Callable[[str], StoredResponse | None]
) -> dict[str, StoredResponse | None]:
    """Return the kept responses that references name, by the item's id; None for those that name nothing."""
    ids = (item.get("id") for item in items if is_reference(item))
    return {item_id: find(item_id) for item_id in ids if isinstance(item_id, str)}


def resolve_references(items: Sequence[Item], holders: Mapping[str, StoredResponse | None]) -> list[Item]:
    """Return the items with those that are referred to in their places.

    holders: item id → the kept response in whose output it is, as `find_holders` returns them. No item is taken twice,
    so that a small request cannot come to more than the store holds.

    Raises InvalidParameter if a reference names no item, or one that another has named.
    """
    resolved: list[Item] = []
    named: set[str] = set()
    outputs: dict[str, dict[str, Item]] = {}  # of each response, which is read once
    for number, item in enumerate(items):
        if not is_reference(item):
            resolved.append(item)
            continue
        place, item_id = f"input[{number}].id", item.get("id")
        holder = holders.get(item_id) if isinstance(item_id, str) else None
        if holder is None or not isinstance(item_id, str):
            message = (
                f"{place} must be the id of an item in the output of a response that is kept, got {preview(item_id)}; "
                "send the item itself, as clients do with store: false."
            )
            raise InvalidParameter(message, "input")
        if item_id in named:
            raise InvalidParameter(f"{place} names {preview(item_id)} for a second time; name each item once.", "input")
        named.add(item_id)
        if holder.id not in outputs:
            outputs[holder.id] = holder.read_items()
        resolved.append(outputs[holder.id][item_id])
    return resolved
