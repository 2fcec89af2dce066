"""Sizes of the tiny models that scripts/make_tiny_model writes, of each architecture, as transformers 5 calls them."""

from typing import Any

from scripts.tiny_configs.common import COMMON
from scripts.tiny_configs.dense import DENSE
from scripts.tiny_configs.experts import EXPERTS
from scripts.tiny_configs.latent import LATENT
from scripts.tiny_configs.recurrent import RECURRENT

# What each architecture has beside COMMON; None: that key of COMMON is none of its own.
ARCHITECTURES: dict[str, dict[str, Any]] = {**DENSE, **EXPERTS, **LATENT, **RECURRENT}

__all__ = ["ARCHITECTURES", "COMMON"]
