"""Schemas from packages: JSON-Schema-Test-Suite, and the large ones that come with check-jsonschema.

Pinned by SHA-256, fetched once into the user's cache. Without a network the test is skipped; under CI it fails.
"""

import hashlib
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from jaxserve.config import cache_dir
from jaxserve.weights.wheels import find_pip_command

SUITE = ("jsonschema==4.26.0", "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326")
LARGE = ("check-jsonschema==0.39.0", "14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b")


def iter_suite(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file, case) for the files in a folder of the suite, such as "draft7". A case has a schema and tests."""
    with tarfile.open(_archive(*SUITE, "--no-binary")) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            path = PurePosixPath(member.name)
            if path.suffix == ".json" and "/".join(path.parts[1:-1]) == f"json/tests/{folder}":
                file = archive.extractfile(member)
                assert file is not None
                yield from ((path.stem, case) for case in json.load(file))


def large_schemas() -> dict[str, str]:
    """Return name → text of a schema."""
    with zipfile.ZipFile(_archive(*LARGE, "--only-binary")) as archive:
        names = [name for name in archive.namelist() if "/builtin_schemas/vendor/" in name and name.endswith(".json")]
        return {PurePosixPath(name).stem: archive.read(name).decode() for name in sorted(names)}


@cache
def _archive(requirement: str, sha256: str, kind: str) -> Path:
    folder = cache_dir("corpora")
    for file in sorted(folder.glob("*")) if folder.exists() else ():
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return file
    command = [
        *find_pip_command(),
        "download",
        "--no-deps",
        kind,
        ":all:",
        "--quiet",
        "--dest",
        str(folder),
        requirement,
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        for file in folder.glob("*"):
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
                return file
    reason = f"{requirement} could not be fetched: {(process.stderr.strip() or 'another file than expected')[-300:]}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
