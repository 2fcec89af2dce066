"""What a request says about its output beside its sampling parameters, in plain values that any process can read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar that has been checked, so that it can be compiled without limits of time and memory.

    text    The grammar in llguidance's Lark dialect.
    param   The request's field that it comes from, which errors name.
    """

    text: str
    param: str = "structured_outputs"


@dataclass(frozen=True, slots=True)
class ReasoningSpec:
    """The reasoning section of an output, whose end must be known before any text is parsed.

    is_inside        The output begins in the section, which the prompt has opened or the model need not open.
    is_constrained   A grammar holds after the section. Calls that the model begins inside do not end it then, since
                     their first marker would be missing where the grammar begins.
    """

    is_inside: bool
    is_constrained: bool = False
