"""The files of the chat page, read once from the package. No other file is served; these need no API key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE_FOLDER = Path(__file__).parent / "page"
ASSETS_PREFIX = "/assets/"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
REVALIDATE = "no-cache"  # a browser may cache it, and asks each time whether it is still the same
IMMUTABLE = "public, max-age=31536000, immutable"  # for files with a version in their name


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served."""

    body: bytes
    headers: Mapping[str, str]

    def matches_etag(self, if_none_match: str | None) -> bool:
        """Tell whether a browser that sends this If-None-Match has the file already."""
        tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
        return self.headers["ETag"] in tags or "*" in tags


def read_asset(file: Path) -> Asset:
    """Read a file of the page, and make its headers.

    Raises FileNotFoundError if the installation lacks the file, KeyError if files of its type are not served.
    """
    body = file.read_bytes()
    headers = {
        "Content-Type": CONTENT_TYPES[file.suffix],
        "Cache-Control": IMMUTABLE if file.parent.name == "vendor" else REVALIDATE,
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "X-Content-Type-Options": "nosniff",
    }
    if file.suffix == ".html":
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        headers["Referrer-Policy"] = "no-referrer"
    return Asset(body, headers)


def _read_all() -> dict[str, Asset]:
    """Read all files by their URL paths; there are none if the page is not part of the installation."""
    index, folder = PAGE_FOLDER / "index.html", PAGE_FOLDER / "assets"
    assets = {"/": read_asset(index)} if index.is_file() else {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in CONTENT_TYPES:
            assets[ASSETS_PREFIX + file.relative_to(folder).as_posix()] = read_asset(file)
    return assets


ASSETS: Mapping[str, Asset] = _read_all()
