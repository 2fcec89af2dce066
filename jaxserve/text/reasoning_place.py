"""At which token an answer's reasoning ends, by the dialect that it is written in: for grammars and budgets."""

from jaxserve.structured.guide import Thinking
from jaxserve.text.dialect import ReasoningDialect
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.thinking import MaybeMarked, marker_ids, until, until_final
from jaxserve.text.tokenizer import Tokenizer

HARMONY_FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"


def beginning(reasoning: ReasoningDialect | HarmonyDialect, tokenizer: Tokenizer, inside: bool) -> Thinking:
    """The start of an answer. inside: it begins within the reasoning; else it may open a section, or do without."""
    if isinstance(reasoning, HarmonyDialect):
        return until_final(tokenizer)
    section = until(tokenizer, reasoning.close)
    return section if inside else MaybeMarked.of(tokenizer, reasoning.open, section)


def end_of_reasoning(reasoning: ReasoningDialect | HarmonyDialect, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end it, wherever it stands."""
    return marker_ids(tokenizer, HARMONY_FINAL if isinstance(reasoning, HarmonyDialect) else reasoning.close[0])
