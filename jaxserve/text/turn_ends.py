"""Find the token by which a chat template ends an assistant message, if the checkpoint's files name another one.

Conversions often keep the base model's end token (<|endoftext|>) with a template that ends turns with <|im_end|>: the
model then writes <|im_end|>, and generation does not stop.
"""

from collections.abc import Collection
from dataclasses import dataclass

from jaxserve.errors import InvalidParameter
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.tokenizer import Tokenizer

_ANSWER = "Xyzzy"
_QUESTION = {"role": "user", "content": "Plugh"}
_ANSWERED = [_QUESTION, {"role": "assistant", "content": _ANSWER}]


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """A token that ends outputs in addition to those that the checkpoint's files name.

    token_id   Its id.
    token      Its text.
    known      The texts of the tokens that the files name.
    """

    token_id: int
    token: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        files = f"the files name {' and '.join(self.known)}" if self.known else "the files name none"
        return f"{self.token} (the chat template ends answers with it; {files})"


def find_turn_end(tokenizer: Tokenizer, templates: ChatTemplates, known: Collection[int]) -> TurnEnd | None:
    """Return the token by which the template ends an assistant message; None if it is known, or not one token.

    known: the ids that end outputs anyway.

    Where no token ends the last message of a conversation, the token after an earlier one counts, which begins the next
    turn.
    """
    added = tokenizer.backend.get_added_tokens_decoder()
    for messages, max_ends in ((_ANSWERED, None), ([*_ANSWERED, _QUESTION], 1)):
        ends = _ends(tokenizer, templates, messages)[:max_ends]
        if any(id in known for id in ends):
            return None
        if ends:
            names = tuple(sorted(filter(None, map(tokenizer.piece, known))))
            return TurnEnd(ends[-1], added[ends[-1]].content, names)
    return None


def _ends(tokenizer: Tokenizer, templates: ChatTemplates, messages: list[dict[str, str]]) -> list[int]:
    """Return the added tokens after the message, up to the first ordinary word or token that begins a turn."""
    try:
        text = templates.select(has_tools=False).render(messages, add_generation_prompt=False)
    except InvalidParameter:
        return []
    before, _, after = text.partition(_ANSWER)
    added = tokenizer.backend.get_added_tokens_decoder()
    header = tokenizer.encode(before.rpartition(_QUESTION["content"])[2], add_special_tokens=False)
    starts = [id for id in header if id in added][1:]  # the first ends the question
    ends: list[int] = []
    for id in tokenizer.encode(after.lstrip(), add_special_tokens=False):
        if id in starts or (id not in added and tokenizer.decode([id]).strip()):
            break
        ends.append(id)
    return [id for id in ends if id in added]
