"""The files of the chat page over HTTP: types, caching, what they may do, and that nothing else is served or open."""

import re
from hashlib import sha256
from pathlib import Path

import pytest

from server.assets import ASSETS, ASSETS_PREFIX, CONTENT_TYPES, PAGE_FOLDER

VENDOR = PAGE_FOLDER / "assets" / "vendor"
OURS = [file for file in sorted((PAGE_FOLDER / "assets").iterdir()) if file.is_file()]
KEYS = {"api_key": ("sesame",)}
ELSEWHERE = [
    *("/assets", "/assets/", "/assets/docs.html", "/assets/nothing.js", "/assets//main.js", "/assets/vendor/"),
    *(
        "/assets/../docs.html",
        "/assets/%2e%2e/docs.html",
        "/assets/..%2fdocs.html",
        "/assets/main.js/",
        "/assets/MAIN.JS",
    ),
    *("/assets/vendor/SHA256SUMS", "/assets/{name}"),
]


@pytest.mark.parametrize("path", sorted(ASSETS))
async def test_every_file_has_its_type_and_needs_no_key(make_api, path: str) -> None:
    answer = await make_api(**KEYS).get(path)
    suffix = ".html" if path == "/" else Path(path).suffix
    assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPES[suffix])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in answer.headers["Cache-Control"] if "/vendor/" in path else "no-cache"


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_nothing_else_is_served_and_nothing_else_is_open(make_api, path: str) -> None:
    assert (await make_api().get(path)).status == 404
    assert (await make_api(**KEYS).get(path)).status == 401


@pytest.mark.parametrize("path", sorted(ASSETS))
async def test_a_browser_that_has_a_file_is_not_sent_it_again(api, path: str) -> None:
    tag = (await api.get(path)).headers["ETag"]
    again = await api.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status, again.text, again.headers["ETag"]) == (304, "", tag)
    assert (await api.get(path, headers={"If-None-Match": '"other"'})).status == 200


async def test_the_page_may_run_and_fetch_only_what_this_server_has(api) -> None:
    policy = (await api.get("/")).headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in policy


async def test_all_that_the_page_names_is_there(api) -> None:
    text = (await api.get("/")).text
    named = re.findall(r'(?:src|href)="(assets/[^"]+)"', text)
    assert len(named) >= 6
    for file in OURS:
        named += ["assets/" + found for found in re.findall(r'from "\./([^"]+)"', file.read_text(encoding="utf-8"))]
    assert not [name for name in named if "/" + name not in ASSETS]


def test_nothing_names_another_host() -> None:
    for file in [PAGE_FOLDER / "index.html", *OURS]:
        urls = set(re.findall(r"https?://[^\s\"'`)]+", file.read_text(encoding="utf-8")))
        assert urls <= {"http://www.w3.org/2000/svg"}, file.name


def test_what_others_wrote_is_what_they_published_with_its_licence_and_small() -> None:
    sums = dict(reversed(line.split()) for line in (VENDOR / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    files = sorted(VENDOR.glob("*.js"))
    assert {file.name: sha256(file.read_bytes()).hexdigest() for file in files} == sums
    assert all(file.with_name(file.name.removesuffix(".min.js") + ".LICENSE").is_file() for file in files)
    assert sum(file.stat().st_size for file in files) < 400_000


def test_html_is_parsed_in_one_file_alone() -> None:
    assert [file.name for file in OURS if "innerHTML" in file.read_text(encoding="utf-8")] == ["markdown.js"]


def test_every_file_is_of_a_length_that_is_read_at_a_sitting() -> None:
    assert all(len(file.read_text(encoding="utf-8").splitlines()) < 300 for file in [PAGE_FOLDER / "index.html", *OURS])
    assert all(ASSETS_PREFIX + file.name in ASSETS for file in OURS)
