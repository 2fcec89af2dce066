"""The encrypted_content of reasoning items.

It exists so that a client which stores nothing can give the reasoning back. Here the item's content holds the same
text, so it is only encoded, with a mark that tells it from other servers'.
"""

import base64
import binascii

MARK = "jaxserve."


def seal_reasoning(text: str) -> str:
    """Return the encrypted_content of a reasoning text."""
    return MARK + base64.b64encode(text.encode()).decode()


def open_reasoning(sealed: str) -> str | None:
    """Return the text of an encrypted_content; None if it does not come from `seal_reasoning`."""
    if not sealed.startswith(MARK):
        return None
    try:
        return base64.b64decode(sealed.removeprefix(MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
