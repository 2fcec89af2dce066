"""HTTP headers of a reply that say something about the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from quart import Response

if TYPE_CHECKING:
    from jaxserve import Ready

UNENFORCED_HEADER, IGNORED_TOOLS_HEADER = "x-jaxserve-unenforced", "x-jaxserve-ignored-tools"
MAX_NAMES, MAX_NAME_CHARS = 20, 64


def add_names_header(response: Response, header: str, names: Iterable[str]) -> Response:
    """List names in a header, each once, and return the response. Without names there is no header.

    At most MAX_NAMES are named. What cannot stand in an HTTP token (RFC 9110, section 5.6.2) is percent-encoded.
    """
    tokens = [quote(name[:MAX_NAME_CHARS], safe="!#$&'*+^`|") for name in dict.fromkeys(names)][:MAX_NAMES]
    if tokens:
        response.headers[header] = ", ".join(tokens)
    return response


def add_unenforced_header(response: Response, jobs: Sequence[Ready], others: Iterable[str] = ()) -> Response:
    """Name in a header what the answer need not follow, and return the response.

    These are the `format`s of JSON schemas that are not enforced, and `others`.
    """
    formats = (name for job in jobs for name in job.unenforced_formats)
    return add_names_header(response, UNENFORCED_HEADER, (*formats, *others))
