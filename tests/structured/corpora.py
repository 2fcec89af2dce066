"""Schemas that travel in package registries: JSON-Schema-Test-Suite, and the large ones that check-jsonschema brings.

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


def suite(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, case) of the files right in this folder of the suite, such as "draft7"; a case has a schema and tests."""
    with tarfile.open(_archive(*SUITE, "--no-binary")) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            path = PurePosixPath(member.name)
            if path.suffix == ".json" and "/".join(path.parts[1:-1]) == f"json/tests/{folder}":
                file = archive.extractfile(member)
                assert file is not None
                yield from ((path.stem, case) for case in json.load(file))


def large() -> dict[str, str]:
    """Name → text of a schema."""
    with zipfile.ZipFile(_archive(*LARGE, "--only-binary")) as archive:
        names = [name for name in archive.namelist() if "/builtin_schemas/vendor/" in name and name.endswith(".json")]
        return {PurePosixPath(name).stem: archive.read(name).decode() for name in sorted(names)}


@cache
def _archive(requirement: str, sha256: str, kind: str) -> Path:
    home = cache_dir("corpora")
    for file in sorted(home.glob("*")) if home.exists() else ():
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return file
    command = [*find_pip_command(), "download", "--no-deps", kind, ":all:", "--quiet", "--dest", str(home), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        for file in home.glob("*"):
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
                return file
    reason = f"{requirement} could not be fetched: {(done.stderr.strip() or 'another file than expected')[-300:]}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
