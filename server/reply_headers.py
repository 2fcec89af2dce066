"""HTTP headers of a reply that say something about the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from quart import Response

if TYPE_CHECKING:
    from jaxserve import Ready

UNENFORCED_HEADER = "x-jaxserve-unenforced"
MAX_NAMES, MAX_NAME_CHARS = 20, 64


def add_unenforced_header(response: Response, jobs: Sequence[Ready]) -> Response:
    """Name in a header the `format`s of JSON schemas that are not enforced, and return the response.

    At most MAX_NAMES are named. What cannot stand in an HTTP token (RFC 9110, section 5.6.2) is percent-encoded.
    """
    names = dict.fromkeys(name for job in jobs for name in job.unenforced_formats)
    if names:
        tokens = [quote(name[:MAX_NAME_CHARS], safe="!#$&'*+^`|") for name in names][:MAX_NAMES]
        response.headers[UNENFORCED_HEADER] = ", ".join(tokens)
    return response
