"""The special tokens that encoding with add_special_tokens puts around a text."""

import tokenizers
from tokenizers import processors


def frame_with(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Makes `backend` put these tokens before and after a text; None puts nothing."""
    around = dict.fromkeys(token for token in (bos, eos) if token is not None)
    template = [token for token in (bos, "$A", eos) if token is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, backend.token_to_id(token)) for token in around]
    )
