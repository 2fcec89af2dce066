"""PoolingParams: what a request of a model that pools may ask for beside its texts."""

from dataclasses import dataclass
from typing import Literal

from jaxserve.errors import InvalidParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingParams:
    """The parameters of a request that is embedded, scored or classified.

    truncate_prompt_tokens   At most this many tokens of a text are read, those that the tokenizer adds included; -1 is
                             the model's length; None: a text that is too long is refused.
    truncation_side          The side on which a text is cut.
    dimensions               The length to which an embedding is cut; None: it is whole.
    normalize                An embedding gets length 1; None: as the model's files say.
    priority                 As in SamplingParams.

    Raises InvalidParameter if a value is out of its range.
    """

    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] = "right"
    dimensions: int | None = None
    normalize: bool | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        kept = self.truncate_prompt_tokens
        if kept is not None and kept != -1 and kept < 1:
            raise InvalidParameter(
                f"truncate_prompt_tokens has to be -1, or 1 or more; it is {kept}.", "truncate_prompt_tokens"
            )
        if self.truncation_side not in ("left", "right"):
            raise InvalidParameter(
                f"truncation_side has to be left or right; it is {self.truncation_side!r}.", "truncation_side"
            )
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidParameter(f"dimensions has to be 1 or more; it is {self.dimensions}.", "dimensions")
