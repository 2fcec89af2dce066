"""Programs that `jaxserve build` has compiled: a directory with a manifest, from which a start loads them.

The manifest, programs.json, says for what machine, versions and settings the programs are, and has the SHA-256 of every
file. A file is compared with it before anything in it is unpickled. Whoever writes the manifest can run code here, so
the directory must be this user's or root's alone (private_files.py); where it came over a channel that others can
change, the digest of the manifest, which the builder has shown, holds for all of it.

Needs no JAX, so that a command line can report a wrong directory without waiting for its import.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jaxserve.errors import BadConfig
from jaxserve.private_files import NotPrivate, check_private_directory, read_private_file

log = logging.getLogger(__name__)

MANIFEST, FILES = "programs.json", "programs"  # the names in the directory
FORMAT = 1
FEATURES = "processor features"  # a fact that is a list of words


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a directory of built programs.

    target         The name of the machine that they are for.
    environment    Facts about that machine and about versions, by name. If one differs, no program can be used.
    settings       What the programs depend on besides, by name, in words.
    fingerprint    A hash of all that they depend on besides the environment.
    cache          The setting of the cache's size that they were built with, which depends on the machine by default.
    digests        The SHA-256 of every file.
    """

    target: str
    environment: Mapping[str, str]
    settings: Mapping[str, str]
    fingerprint: str
    cache: Mapping[str, int]
    digests: Mapping[str, str]

    def write(self, directory: Path) -> str:
        """Write the manifest and return its SHA-256. Raises OSError if it cannot be written."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()
        (directory / MANIFEST).write_bytes(content)
        return sha256(content).hexdigest()


class BuiltFiles:
    """The files of a built directory, for a program store: they are read if they are those of the manifest.

    machine   As in ProgramFiles.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self.machine = name_machine(manifest.environment)

    def read(self, name: str) -> bytes | None:
        """Return a file's contents, or None; that one is missing, changed, or may be written by others is logged."""
        digest = self.manifest.digests.get(name)
        if digest is None:
            return None
        path = self.directory / FILES / name
        try:
            content = read_private_file(path)
        except (OSError, NotPrivate) as error:
            log.warning("a built program cannot be read: %s", error)
            return None
        if sha256(content).hexdigest() != digest:
            log.warning("%s is not the file that was built; it is not used.", path)
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Do nothing: what has been built is not changed."""

    def delete(self, name: str) -> None:
        """Do nothing."""

    def delete_excess(self) -> None:
        """Do nothing."""

    def tuning_directory(self) -> None:
        """Return None: nothing is written here."""


def name_machine(environment: Mapping[str, str]) -> str:
    """Return what stands in the names of programs for the machine and the versions."""
    return json.dumps(environment, sort_keys=True)


def open_built(directory: str, digest: str | None = None) -> BuiltFiles:
    """Return the files of a built directory.

    digest   The SHA-256 that its manifest must have; None: any.

    Raises BadConfig if there are none, if others may change them, or if the manifest has another digest.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise BadConfig(f"programs={directory!r} is no directory here; `jaxserve build MODEL DIR` writes one.")
    try:
        path = check_private_directory(path)
        check_private_directory(path / FILES)
        content = read_private_file(path / MANIFEST)
    except NotPrivate as error:
        raise BadConfig(f"programs={directory!r}: {error}") from None
    except OSError as error:
        raise BadConfig(
            f"programs={directory!r} holds no programs that can be read ({error.strerror or error}: {error.filename});"
            " name a directory that `jaxserve build` has written."
        ) from None
    found = sha256(content).hexdigest()
    if digest is not None and digest.lower() != found:
        raise BadConfig(
            f"programs_sha256={digest!r} is not the digest of {path / MANIFEST}, which is {found}: these are not the"
            " programs that were meant; fetch them again, or give the digest that `jaxserve build` has shown."
        )
    return BuiltFiles(path, _parse(directory, content))


def _parse(directory: str, content: bytes) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(content)
        version = values.pop("format")
        if version == FORMAT:
            return Manifest(**values)
    except (ValueError, TypeError, KeyError, AttributeError):
        version = None
    if version is None:
        raise BadConfig(f"programs={directory!r}: {MANIFEST} is damaged; build the programs again.")
    raise BadConfig(
        f"programs={directory!r}: {MANIFEST} has format {version} and this jaxserve reads {FORMAT}; build the programs"
        " again with this version."
    )


def describe_differences(built: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return what differs between the facts of built programs and those of this start, each in words."""
    lines = []
    for name in dict.fromkeys((*built, *here)):
        before, now = built.get(name, "not there"), here.get(name, "not there")
        if before != now:
            is_list = name == FEATURES and name in built and name in here
            lines.append(_describe_words(name, before, now) if is_list else f"{name}: built for {before}, here {now}")
    return lines


def _describe_words(name: str, built: str, here: str) -> str:
    missing, more = set(built.split()) - set(here.split()), set(here.split()) - set(built.split())
    parts = [f"{verb} {' '.join(sorted(words))}" for verb, words in (("lacks", missing), ("has also", more)) if words]
    return f"{name}: this machine {' and '.join(parts)}"
