"""The cache of fetched models and compiled programs on this machine: list, fetch and delete."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxserve.config import DEFAULT_MODEL, cache_dir
from jaxserve.errors import BadConfig, StartupError
from jaxserve.weights.fetch import SMOLLM2, ProgressCallback, resolve_model

PROGRAMS = "programs"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A fetched model, or the compiled programs of one machine and version.

    name         What `jaxserve serve` takes for the model; "programs" for compiled programs.
    kind         What it is.
    path         Where it lies.
    num_bytes    Its size on disk.
    modified_s   When it was last changed, in seconds since 1970.
    files        The names of a hub model's GGUF files.
    """

    name: str
    kind: Literal["model", "programs"]
    path: Path
    num_bytes: int
    modified_s: float
    files: tuple[str, ...] = ()


def pull_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    token: str | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Fetch a model if it is not on this machine, and return its path.

    model          a hub id, a path, or the default model's name
    revision       branch, tag or commit of a hub model
    download_dir   directory for fetched models; None is the user's cache directory
    token          token for the hub
    progress       called with (phase, done, total)

    Raises StartupError if it cannot be fetched.
    """
    return resolve_model(model, revision=revision, download_dir=download_dir, token=token, progress=progress)


def list_cache(download_dir: str | None = None) -> list[CacheEntry]:
    """List what is in the cache: models first, each kind sorted by name."""
    entries = [*_own_models(download_dir), *_hub_models(download_dir), *_programs()]
    return sorted(entries, key=lambda entry: (entry.kind, entry.name.lower()))


def remove_from_cache(name: str, download_dir: str | None = None) -> None:
    """Delete a model by its name, or all compiled programs.

    Raises BadConfig if nothing has that name, StartupError if a file cannot be deleted.
    """
    entries = list_cache(download_dir)
    matching = [entry for entry in entries if entry.name == name]
    if not matching:
        known = ", ".join(dict.fromkeys(entry.name for entry in entries)) or "nothing"
        raise BadConfig(f"{name!r} is not in the cache; there is {known}.")
    for entry in matching:
        try:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
        except OSError as error:
            raise StartupError(f"Cannot delete {entry.path}: {error.strerror or error}.") from error


def _own_models(download_dir: str | None) -> Iterator[CacheEntry]:
    file = (Path(download_dir) if download_dir else cache_dir("models")) / SMOLLM2.name
    if file.is_file():
        yield _entry(DEFAULT_MODEL, "model", file)


def _hub_models(download_dir: str | None) -> Iterator[CacheEntry]:
    """Yield the models of the hub's cache that have weights in a format that can be read."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(download_dir)
    except (CacheNotFound, ValueError, OSError):  # no such directory, or none of the hub's
        return
    for repo in cache.repos:
        files = {file.file_name for revision in repo.revisions for file in revision.files}
        ggufs = tuple(sorted(name for name in files if name.endswith(".gguf")))
        if repo.repo_type == "model" and (ggufs or any(name.endswith(".safetensors") for name in files)):
            size, modified = repo.size_on_disk, repo.last_modified
            yield CacheEntry(repo.repo_id, "model", Path(repo.repo_path), size, modified, ggufs)


def _programs() -> Iterator[CacheEntry]:
    directory = cache_dir(PROGRAMS)
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            yield _entry(PROGRAMS, "programs", path)


def _entry(name: str, kind: Literal["model", "programs"], path: Path) -> CacheEntry:
    paths = [path] if path.is_file() else [Path(folder) / file for folder, _, files in os.walk(path) for file in files]
    stats = [file.stat() for file in paths if file.exists()]
    modified = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
    return CacheEntry(name, kind, path, sum(stat.st_size for stat in stats), modified)
