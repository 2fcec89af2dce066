"""GrammarStore: the compiled grammars of one model, shared by the threads that prepare requests and by the engine."""

import threading
from collections.abc import Sequence

from jaxserve.config import EngineConfig
from jaxserve.errors import EngineStopped
from jaxserve.output_constraints import GrammarSpec
from jaxserve.structured.compiler import CompiledGrammar, GrammarCompiler
from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.text.tokenizer import Tokenizer


class GrammarStore:
    """Compiled grammars. The compiler is made when the first grammar is needed. Several threads may use a store."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int], vocab_size: int, config: EngineConfig) -> None:
        """Make an empty store.

        eos_ids      the end-of-sequence tokens, the primary one first
        vocab_size   the number of logits
        config       limits of compiling and keeping grammars
        """
        self._config = config
        self._tokenizer, self._eos_ids, self._vocab_size = tokenizer, eos_ids, vocab_size
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None
        self._is_closed = False

    def compile(self, expression: GrammarExpr, param: str) -> CompiledGrammar:
        """Check and compile an expression, or return the grammar of an equal one. It may take seconds.

        param   the request's field that it comes from

        Raises InvalidParameter if it cannot be enforced, Unsupported if the tokens of this model can follow no grammar,
        EngineStopped after `close`.
        """
        return self._get_compiler().compile(expression, param)

    def get(self, spec: GrammarSpec) -> CompiledGrammar:
        """Return a grammar that `compile` has returned; one that comes from another process is compiled now.

        Raises EngineStopped after `close`.
        """
        return self._get_compiler().get(spec)

    @property
    def num_cached(self) -> int:
        """The number of grammars in the cache."""
        return 0 if self._compiler is None else self._compiler.num_cached

    @property
    def has_broken_workers(self) -> bool:
        """Whether no worker can be started any more."""
        return self._compiler is not None and self._compiler.has_broken_workers

    @property
    def num_restarts(self) -> int:
        """The number of worker processes that were replaced because a grammar broke them."""
        return 0 if self._compiler is None else self._compiler.num_restarts

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        with self._lock:
            self._is_closed = True
            compiler = self._compiler
        if compiler is not None:
            compiler.close()

    def _get_compiler(self) -> GrammarCompiler:
        with self._lock:
            if self._is_closed:
                raise EngineStopped("The model is closed; no grammar can be compiled any more.")
            if self._compiler is None:
                self._compiler = GrammarCompiler(
                    build_grammar_tokenizer(self._tokenizer, self._eos_ids, self._vocab_size),
                    timeout_s=self._config.grammar_compile_timeout_s,
                    cache_entries=self._config.grammar_cache_entries,
                    cache_bytes=self._config.grammar_cache_bytes,
                )
            return self._compiler


def special_token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the special tokens of a tokenizer, text → id."""
    return {tokenizer.piece(token_id): token_id for token_id in sorted(tokenizer.special_ids)}


def build_grammar_tokenizer(tokenizer: Tokenizer, eos_ids: Sequence[int], vocab_size: int) -> GrammarTokenizer:
    """Build the vocabulary on which grammars run.

    eos_ids      the end-of-sequence tokens, the primary one first
    vocab_size   the number of logits; ids beyond the tokenizer's tokens cannot be generated
    """
    tokens = None
    if tokenizer.piece_decoder is not None:
        tokens = [tokenizer.token_bytes(token_id) or b"" for token_id in range(min(tokenizer.vocab_size, vocab_size))]
    return GrammarTokenizer(tokens, special_token_ids(tokenizer), eos_ids, vocab_size)
