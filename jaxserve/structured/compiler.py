"""What was asked for → a compiled grammar: checked where it can do no harm, compiled once, and kept."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from llguidance import LLMatcher

from jaxserve.errors import GenerationFailed, InvalidParameter, RequestError
from jaxserve.structured.grammar_expr import GrammarExpr, to_json
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.patterns import matches_nothing
from jaxserve.structured.sandboxed_compile import PARSER_LIMITS, estimate_min_bytes, grammar_error, write_valid_grammar
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.workers.pool import MIB, TaskKilled, TaskLimits, WorkerPool

KIB = 1 << 10
MODULE = "jaxserve.structured.sandboxed_compile"
MAX_CHARS_UNCHECKED = 4 * KIB
MAX_LOGGED_FORMATS, MAX_NAME_CHARS = 1000, 100
log = logging.getLogger(__name__)


class CompiledGrammar:
    """A grammar that fits the model's tokens. Any number of answers may follow it at once.

    param        the request's field that asked for it
    make         a matcher at the beginning of the grammar, with a lexer of its own
    num_bytes    of memory that it takes
    unenforced   formats of its schemas that are annotations
    """

    def __init__(
        self,
        param: str,
        create_matcher: Callable[[], LLMatcher],
        matcher: LLMatcher,
        num_bytes: int,
        unenforced_formats: tuple[str, ...] = (),
    ) -> None:
        self.param = param
        self.num_bytes = num_bytes
        self.unenforced_formats = unenforced_formats
        self._make = create_matcher
        self._matcher = matcher
        self._lock = threading.Lock()

    def new_matcher(self, *, with_new_lexer: bool = False) -> LLMatcher:
        """A fresh place at the beginning of the grammar, for one answer.

        Copies of a matcher share its lexer, which keeps every state that any of them has reached: some day it is full.
        With a new one, the grammar is compiled once more, and answers that begin from now on share that.
        """
        with self._lock:
            if with_new_lexer:
                self._matcher = self._make()
            return self._matcher.deep_copy()


class GrammarCompiler:
    """Compiles for one model. Everything here blocks: call it from threads that may wait.

    timeout_s, memory_bytes      what the check of one grammar may use
    cache_entries, cache_bytes   what is kept, oldest use out first; refusals are kept as well
    """

    def __init__(
        self,
        vocabulary: GrammarTokenizer,
        *,
        timeout_s: float = 5.0,
        memory_bytes: int = 1024 * MIB,
        cache_entries: int = 256,
        cache_bytes: int = 512 * MIB,
    ) -> None:
        self._vocabulary = vocabulary
        self._limits = TaskLimits(timeout_s, memory_bytes)
        self._pool = WorkerPool((MODULE,))
        self._cache = _Cache(cache_entries, cache_bytes)
        self._lock = threading.Lock()
        self._logged_formats: set[str] = set()

    def compile(self, expr: GrammarExpr, param: str = "structured_outputs") -> CompiledGrammar:
        """The grammar of what was asked. Raises InvalidParameter, which names `param`; Unsupported on this model."""
        return self._cache.get((expr, param), lambda: self._compile(expr, param))

    @property
    def num_restarts(self) -> int:
        """Helpers that were replaced because a grammar broke them."""
        return self._pool.num_restarts

    def close(self) -> None:
        """Kills the helpers. Idempotent."""
        self._pool.close()

    def _compile(self, what: GrammarExpr, param: str) -> CompiledGrammar:
        tokenizer = self._vocabulary.get_ll_tokenizer()
        text, num_bytes, unenforced = self._check(what, param)
        self._log_once(unenforced)
        make = partial(LLMatcher, tokenizer, text, log_level=0, limits=PARSER_LIMITS)
        matcher = make()
        if matcher.is_error():
            raise grammar_error(matcher.get_error(), param)
        if matches_nothing(matcher):  # and the first mask is there for all copies
            raise InvalidParameter(f"{param} cannot be enforced: no text matches the grammar.", param)
        if matcher.is_error():
            raise grammar_error(matcher.get_error(), param)
        return CompiledGrammar(param, make, matcher, num_bytes, tuple(unenforced))

    def _log_once(self, formats: Sequence[str]) -> None:
        """Names formats that are not enforced, each the first time that it is met."""
        with self._lock:
            new = [name for name in formats if name not in self._logged_formats]
            self._logged_formats |= set(new[: MAX_LOGGED_FORMATS - len(self._logged_formats)])
        if new and len(self._logged_formats) < MAX_LOGGED_FORMATS:
            names = ", ".join(repr(name[:MAX_NAME_CHARS]) for name in new)
            log.warning("JSON Schema formats that are not enforced, as they are not known here: %s", names)

    def _check(self, what: GrammarExpr, param: str) -> tuple[str, int, Sequence[str]]:
        special_tokens = self._vocabulary.special_tokens
        if _is_harmless(what):
            text = write_valid_grammar(what, special_tokens, param)
            return text, estimate_min_bytes(text), ()
        data = {"shape": to_json(what), "special_tokens": special_tokens, "param": param}
        try:
            return self._pool.run(f"{MODULE}:sandboxed_compile", data, self._limits)
        except TaskKilled as killed:
            raise InvalidParameter(f"{param} is too complex a grammar: {killed}.", param) from None
        except GenerationFailed as failed:
            why = "it needs too much memory" if "MemoryError" in str(failed) else "its check broke off"
            raise InvalidParameter(f"{param} is too complex a grammar: {why}.", param) from None


def _is_harmless(what: GrammarExpr) -> bool:
    """Whether its check is sure to be quick, so that no helper needs to be started for it."""
    if not isinstance(what, StructuredOutputs) or what.whitespace_pattern is not None:
        return False
    return bool(what.json_object) or (what.choice is not None and sum(map(len, what.choice)) < MAX_CHARS_UNCHECKED)


class _Cache:
    """Grammars and refusals by what was asked. Whoever asks for what is being made waits for it."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Future[CompiledGrammar]] = OrderedDict()
        self._sizes: dict[Any, int] = {}

    def get(self, key: Any, make: Callable[[], CompiledGrammar]) -> CompiledGrammar:
        with self._lock:
            found = self._kept.get(key)
            future: Future[CompiledGrammar] = found or Future()
            self._kept[key] = future
            self._kept.move_to_end(key)
        if found is None:
            self._fill(key, future, make)
        try:
            return future.result()
        except RequestError as error:
            raise type(error)(str(error), error.param) from None  # never one exception in two threads

    def _fill(self, key: Any, future: Future[CompiledGrammar], make: Callable[[], CompiledGrammar]) -> None:
        try:
            grammar = make()
            size = grammar.num_bytes
        except InvalidParameter as error:
            future.set_exception(error)
            size = 2 * len(repr(key))  # of a refusal, only the question takes room
        except BaseException as error:  # the next one who asks may have better luck
            with self._lock:
                self._kept.pop(key, None)
            future.set_exception(error)
            return
        else:
            future.set_result(grammar)
        with self._lock:
            self._sizes[key] = size
            while len(self._kept) > self._max_entries or sum(self._sizes.values()) > self._max_bytes:
                oldest, _ = self._kept.popitem(last=False)
                self._sizes.pop(oldest, None)
