"""Models on the Hugging Face hub, through huggingface_hub and its cache.

Its own environment variables hold: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT. The package is imported on first
use. Only numbers and text are asked for: safetensors, JSON, tokenizer files and templates, or one GGUF file.
"""

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from jaxserve.errors import BadConfig, StartupError
from jaxserve.weights import gguf_files

log = logging.getLogger(__name__)

ProgressCallback: TypeAlias = Callable[[str, float, float], None]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
HUB_ID = re.compile(rf"{NAME_PATTERN}/{NAME_PATTERN}")
HUB_FILE = re.compile(rf"({NAME_PATTERN}/{NAME_PATTERN})/((?:{NAME_PATTERN}/)*{NAME_PATTERN}\.gguf)")
HUB_QUANT = re.compile(rf"({NAME_PATTERN}/{NAME_PATTERN}):({NAME_PATTERN})")
ALLOW_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "tokenizer.model.v*", "*.txt", "*.tiktoken"]
# Copies for other programs. Folders that begin with a digit are modules of sentence-transformers, such as 1_Pooling.
IGNORE_PATTERNS = ["[!0-9]*/*.json", "[!0-9]*/*.safetensors", "[!0-9]*/*.txt", "[!0-9]*/*.model*", "consolidated*"]


def is_hub_name(model: str) -> bool:
    """Return whether this is org/name, org/name/file.gguf or org/name:QUANT."""
    return any(pattern.fullmatch(model) for pattern in (HUB_ID, HUB_FILE, HUB_QUANT))


@dataclass(frozen=True, slots=True)
class _HubAccess:
    """Token, revision and cache directory: what every request to the hub needs beside a name."""

    revision: str | None
    cache_dir: str | None
    progress: ProgressCallback | None
    token: str | None


def download_model(
    model: str,
    revision: str | None,
    cache_dir: str | None,
    progress: ProgressCallback | None = None,
    token: str | None = None,
) -> Path:
    """Return the snapshot's directory, or the .gguf file, in the hub's cache; from the cache alone when offline.

    token: for the hub; None: HF_TOKEN, or what its own login has stored.
    """
    access = _HubAccess(revision, cache_dir, progress, token)
    if match := HUB_FILE.fullmatch(model):
        return _download_parts(match[1], match[2], access)
    if match := HUB_QUANT.fullmatch(model):
        names = _list_gguf_files(match[1], access)
        return _download_parts(match[1], gguf_files.choose_file(match[1], match[2], names), access)
    from huggingface_hub import snapshot_download

    with _translate_errors(model, revision):
        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                allow_patterns=ALLOW_PATTERNS,
                ignore_patterns=IGNORE_PATTERNS,
                tqdm_class=_make_tqdm_class(progress),
            )
        )
    if any(folder.glob("*.safetensors")):
        return folder
    return _download_single_gguf(model, access)


def _download_single_gguf(model: str, access: _HubAccess) -> Path:
    """Download the single GGUF model of a repository without safetensors."""
    names = _list_gguf_files(model, access)
    if (name := gguf_files.find_only_model(names)) is not None:
        return _download_parts(model, name, access)
    if missing := gguf_files.describe_missing_parts(names):
        raise BadConfig(f"The hub model {model} lacks parts of its .gguf model: {missing}.")
    if names:
        raise BadConfig(
            f"The hub model {model} has {len(names)} .gguf files; {gguf_files.describe_choices(model, names)}."
        )
    raise BadConfig(f"The hub model {model} has neither .safetensors nor .gguf files; other formats are not read.")


def _list_gguf_files(model: str, access: _HubAccess) -> list[str]:
    """List the GGUF files of a repository: those on the hub, or those in the cache when offline."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    with _translate_errors(model, access.revision):
        if not is_offline_mode():
            try:
                files = HfApi(token=access.token).model_info(model, revision=access.revision).siblings or []
                return [file.rfilename for file in files if file.rfilename.endswith(".gguf")]
            except HFValidationError:
                raise
            except HfHubHTTPError as error:
                if error.response.status_code < 500:  # an answer, and it was no
                    raise
            except Exception as error:  # no connection, in the words of whichever HTTP library the hub's package uses
                log.info("the hub does not answer, its cache is asked: %s", error)
        folder = Path(
            snapshot_download(model, revision=access.revision, cache_dir=access.cache_dir, local_files_only=True)
        )
        return [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]


def _download_parts(model: str, name: str, access: _HubAccess) -> Path:
    """Download a file and, if it is a part of a model, all others; return the first part."""
    first, *_ = [_download_file(model, part, access) for part in gguf_files.list_parts(name)]
    return first


def _download_file(model: str, name: str, access: _HubAccess) -> Path:
    from huggingface_hub import hf_hub_download

    with _translate_errors(f"{model}/{name}", access.revision):
        return Path(
            hf_hub_download(
                model,
                name,
                revision=access.revision,
                cache_dir=access.cache_dir,
                token=access.token,
                tqdm_class=_make_tqdm_class(access.progress),
            )
        )


@contextmanager
def _translate_errors(model: str, revision: str | None) -> Iterator[None]:
    """Translate the hub's exceptions into one sentence each."""
    from huggingface_hub import errors

    where = model if revision is None else f"{model} at revision {revision!r}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise BadConfig(
            f"The hub model {where} asks for consent first: give it there, then set HF_TOKEN or --hf-token."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadConfig(f"The hub has no {where}.") from error
    except errors.RepositoryNotFoundError as error:
        raise BadConfig(
            f"{where} is no directory here, and the hub has no such model (or it is private: set HF_TOKEN or"
            " --hf-token)."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise BadConfig(f"The hub has no file {where}.") from error
    except (errors.HFValidationError, ValueError) as error:
        raise BadConfig(f"{where} is neither a directory, nor a .gguf file, nor a valid hub id: {error}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise StartupError(
            f"The hub cannot be reached (or HF_HUB_OFFLINE is set) and {where} is not in its cache; "
            "check the network, or name a model on this machine."
        ) from error
    except (OSError, RuntimeError) as error:
        raise StartupError(f"Fetching {where} from the hub failed: {str(error).splitlines()[0][:300]}") from error


def _make_tqdm_class(progress: ProgressCallback | None) -> type[Any]:
    """Make a tqdm class that draws nothing and reports bytes; the hub keeps two bars of bytes and moves one or both."""
    from tqdm import tqdm

    bars: list[Any] = []

    class Bar(tqdm):
        monitor_interval = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"file": io.StringIO(), "disable": False})
            if options.get("unit") == "B":
                bars.append(self)

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if progress and self in bars:
                progress("download", max(bar.n for bar in bars), max(bar.total or 0 for bar in bars))
            return shown

        def display(self, *args: Any, **options: Any) -> bool:
            return True

    return Bar
