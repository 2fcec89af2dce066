"""Where a constraint meets an answer's reasoning: what stands before it, and at which token the reasoning ends."""

from jaxserve.structured.guide import Thinking
from jaxserve.structured.shapes import Either, Literal, Optional, Sequence, Shape, Text
from jaxserve.text.dialect import ReasoningDialect
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.thinking import MaybeMarked, marker_ids, until, until_final
from jaxserve.text.tokenizer import Tokenizer

Reasoning = ReasoningDialect | HarmonyDialect
HARMONY_END = "<|end|>"
HARMONY_FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"


def content_shape(reasoning: Reasoning | None, shape: Shape) -> Shape:
    """Content of this shape, with what the dialect writes before any content."""
    return reasoning.content(shape) if isinstance(reasoning, HarmonyDialect) else shape


def behind_reasoning(reasoning: Reasoning, shape: Shape) -> Shape:
    """An answer that begins with a reasoning section, or does without one, and then has this shape."""
    if isinstance(reasoning, HarmonyDialect):
        opening, closing = f"{reasoning.channel}analysis{reasoning.message}", (HARMONY_END,)
    else:
        opening, closing = reasoning.open[0], reasoning.close
    section = (Literal(opening), Text(closing), Either(tuple(map(Literal, closing))))
    return Sequence((Optional(Sequence(section)), shape))


def beginning(reasoning: Reasoning, tokenizer: Tokenizer, inside: bool) -> Thinking:
    """The reasoning at the start of an answer. inside: the answer begins within it, else it may or may not follow."""
    if isinstance(reasoning, HarmonyDialect):
        return until_final(tokenizer)
    section = until(tokenizer, reasoning.close)
    return section if inside else MaybeMarked.of(tokenizer, reasoning.open, section)


def end_of_reasoning(reasoning: Reasoning, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end it, wherever it stands."""
    return marker_ids(tokenizer, HARMONY_FINAL if isinstance(reasoning, HarmonyDialect) else reasoning.close[0])
