"""JSON text that came with a request, parsed within limits of size and depth."""

import json
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.exact_json import load_exact_json

MAX_BYTES = 1 << 20


def parse_bounded_json(text: str, name: str, max_depth: int) -> Any:
    """Parse JSON text without changing the value of any number.

    name   of the text in errors

    Raises InvalidParameter if the text is not JSON, is larger than MAX_BYTES, holds half a surrogate pair, or is nested
    deeper than `max_depth` objects and arrays.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidParameter(f"{name} is larger than {MAX_BYTES} bytes.")
    too_deep = InvalidParameter(f"{name} is nested deeper than {max_depth} levels.")
    try:
        value = load_exact_json(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise too_deep from None
    except UnicodeEncodeError:
        raise InvalidParameter(f"{name} holds half a surrogate pair.") from None
    except ValueError as error:
        raise InvalidParameter(f"{name} is not JSON: {error}.") from None
    if _depth(value) > max_depth:
        raise too_deep
    return value


def _depth(value: Any) -> int:
    """The number of nested objects and arrays."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
