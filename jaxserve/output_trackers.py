"""OutputTrackers: make, of a request's plain values, the objects that follow its output token by token."""

from jaxserve.engine.request import Request
from jaxserve.grammar_store import GrammarStore
from jaxserve.output_constraints import GrammarSpec, ReasoningSpec
from jaxserve.structured.compiler import CompiledGrammar
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.reasoning import ReasoningState
from jaxserve.text.stop_cursor import StopCursor
from jaxserve.text.tokenizer import Tokenizer


class OutputTrackers:
    """The factory for the engine of one model (engine.request.TrackerFactory). It is called on the engine's thread."""

    def __init__(self, tokenizer: Tokenizer, dialect: OutputDialect, grammars: GrammarStore) -> None:
        self._tokenizer, self._dialect, self._grammars = tokenizer, dialect, grammars

    def get_grammar(self, spec: GrammarSpec) -> CompiledGrammar:
        """Return a compiled grammar: the planner has compiled it, and the request's output stream keeps it."""
        return self._grammars.get(spec)

    def start_reasoning(self, spec: ReasoningSpec) -> ReasoningState:
        """Return the state before the first token of an output with reasoning."""
        return self._dialect.start_reasoning(self._tokenizer, inside=spec.is_inside, is_constrained=spec.is_constrained)

    def start_stop_cursor(self, request: Request) -> StopCursor | None:
        """Return the position at which the outputs of a beam search begin; None if it has no stop strings."""
        control_tokens = self._dialect.control_tokens if request.is_parsed else None
        return StopCursor.from_params(self._tokenizer, request.params, request.prompt_ids, control_tokens)
