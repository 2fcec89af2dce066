"""Sizes of published models, as config.json on the hub has them, and their numbers of parameters.

Those of Qwen 3.5 are the text parts of vision models, with the sizes that transformers' config classes have.
Gemma 4 are the text parts of multimodal models, of which the pages give 30.7, 25.2 and 11.95 billion parameters, and of
E2B and E4B, with what is heard and seen, 5.1 and 8.
Ministral 3 is the text part of a vision model, of which the page gives 3.4 billion and no exact number.
Keys that concern no size (dropout, initializer_range, cache flags) are left out.
"""

from typing import Any

from tests.models.published.dense import DENSE
from tests.models.published.experts import EXPERTS
from tests.models.published.latent import LATENT
from tests.models.published.recurrent import RECURRENT

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = DENSE | EXPERTS | LATENT | RECURRENT
