"""Token ids of a text, or of a pair of texts as one sequence, cut so that the tokens stay that a tokenizer adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Encoding

from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The token ids of one or two texts.

    token_ids      The ids.
    second_start   The position of the first token of the second type; None: there is one type.
    """

    token_ids: Sequence[int]
    second_start: int | None = None


def encode_texts(
    tokenizer: Tokenizer,
    first: str,
    second: str | None = None,
    *,
    max_tokens: int | None = None,
    side: Literal["left", "right"] = "right",
    add_special_tokens: bool = True,
) -> EncodedTexts:
    """Return the ids of a text, or of a pair of texts as one sequence.

    max_tokens   The most tokens, those that the tokenizer adds included: of two texts the longer one is cut first.
    side         The side on which a text is cut.
    """
    backend = tokenizer.backend
    texts = [first] if second is None else [first, second]
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    num_added = backend.num_special_tokens_to_add(second is not None) if add_special_tokens else 0
    if max_tokens is not None:
        _truncate(encodings, max(0, max_tokens - num_added), side)
    other = encodings[1] if second is not None else None
    whole = backend.post_process(encodings[0], other, add_special_tokens)
    return EncodedTexts(whole.ids, _find_second(whole.type_ids))


def _truncate(encodings: Sequence[Encoding], room: int, side: Literal["left", "right"]) -> None:
    """Cut encodings so that they have at most `room` tokens together, the longer one first."""
    lengths = [len(encoding.ids) for encoding in encodings]
    if len(encodings) == 2 and sum(lengths) > room:
        shorter = min(min(lengths), room // 2)
        kept = [shorter if length == min(lengths) else room - shorter for length in lengths]
        lengths = kept if lengths[0] != lengths[1] else [room - room // 2, room // 2]
    elif len(encodings) == 1:
        lengths = [min(lengths[0], room)]
    for encoding, length in zip(encodings, lengths, strict=True):
        encoding.truncate(length, direction=side)


def _find_second(type_ids: Sequence[int]) -> int | None:
    return type_ids.index(1) if 1 in type_ids else None
