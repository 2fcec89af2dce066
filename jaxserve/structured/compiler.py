"""Grammar expressions → compiled grammars: compiled in a worker process, then once more in this one, and cached.

What this process repeats has been done by the worker within the limits, for the same tokens: it is sure to be cheap.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from llguidance import LLMatcher

from jaxserve.errors import InvalidParameter, RequestError
from jaxserve.output_constraints import GrammarSpec
from jaxserve.structured.grammar_expr import GrammarExpr, to_json
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.sandboxed_compile import create_matcher, estimate_min_bytes, write_valid_grammar
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.workers.pool import MIB, TaskFailed, TaskLimits, WorkerPool
from jaxserve.workers.process import TaskKilled

KIB = 1 << 10
WORKER_MODULE = "jaxserve.structured.sandboxed_compile"
MAX_CHARS_UNCHECKED = 4 * KIB
FAILURES = {"MemoryError": "it needs too much memory", "TimeoutError": "the model's tokens take too long to match"}
MAX_LOGGED_FORMATS, MAX_NAME_CHARS = 1000, 100
log = logging.getLogger(__name__)


class CompiledGrammar:
    """A grammar compiled for the tokens of one model. Any number of sequences may use it at once.

    spec                 the grammar as plain values
    create_matcher       compiles the grammar: a matcher at its beginning, with a lexer of its own
    matcher              the first such matcher
    num_bytes            memory that the grammar takes
    unenforced_formats   JSON Schema formats in it that are annotations
    """

    def __init__(
        self,
        spec: GrammarSpec,
        create_matcher: Callable[[], LLMatcher],
        matcher: LLMatcher,
        num_bytes: int,
        unenforced_formats: tuple[str, ...] = (),
    ) -> None:
        self.spec = spec
        self.num_bytes = num_bytes
        self.unenforced_formats = unenforced_formats
        self._create_matcher = create_matcher
        self._matcher = matcher
        self._lock = threading.Lock()

    @property
    def param(self) -> str:
        """The request's field that the grammar comes from."""
        return self.spec.param

    def new_matcher(self, *, with_new_lexer: bool = False) -> LLMatcher:
        """Return a matcher at the beginning of the grammar, for one sequence.

        Copies of a matcher share its lexer, which keeps every state that any of them has reached, up to a limit. With
        `with_new_lexer` the grammar is compiled once more, and sequences that begin from now on share the new lexer.
        """
        with self._lock:
            if with_new_lexer:
                self._matcher = self._create_matcher()
            return self._matcher.deep_copy()


class GrammarCompiler:
    """Compiler of grammars for one model. Its methods block: call them from threads that may wait.

    tokenizer                    the model's tokens
    timeout_s, memory_bytes      limits of one grammar in a worker process
    cache_entries, cache_bytes   limits of the cache, least recently used out first; refusals are cached as well, except
                                 those for a limit of time or memory
    """

    def __init__(
        self,
        tokenizer: GrammarTokenizer,
        *,
        timeout_s: float = 5.0,
        memory_bytes: int = 1024 * MIB,
        cache_entries: int = 256,
        cache_bytes: int = 512 * MIB,
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = TaskLimits(timeout_s, memory_bytes)
        self._pool = WorkerPool((WORKER_MODULE,), setup=(f"{WORKER_MODULE}:load_tokenizer", tokenizer.to_json()))
        self._cache = _GrammarCache(cache_entries, cache_bytes)
        self._lock = threading.Lock()
        self._by_spec: WeakValueDictionary[GrammarSpec, CompiledGrammar] = WeakValueDictionary()
        self._logged_formats: set[str] = set()

    def compile(self, expr: GrammarExpr, param: str = "structured_outputs") -> CompiledGrammar:
        """Compile an expression, or return the cached grammar of an equal one.

        Raises InvalidParameter, which names `param`, if the expression is invalid, too complex, or matches no text;
        Unsupported if the model's tokenizer has no bytes for its tokens or no end token; GenerationFailed if the worker
        process was lost by no fault of the grammar; EngineStopped after `close`.
        """
        try:
            return self._cache.get((expr, param), lambda: self._compile(expr, param))
        except TaskKilled as error:  # not cached: on a machine with less load it may be compiled
            raise InvalidParameter(f"{param} is too complex a grammar: {error}.", param) from None
        except TaskFailed as error:
            why = next((why for name, why in FAILURES.items() if name in str(error)), "its check broke off")
            raise InvalidParameter(f"{param} is too complex a grammar: {why}.", param) from None

    @property
    def num_cached(self) -> int:
        """The number of cached grammars and refusals."""
        return len(self._cache)

    def get(self, spec: GrammarSpec) -> CompiledGrammar:
        """Return a grammar that has been checked.

        It is compiled only if the one that `compile` returned has been dropped, or was returned by another process.
        """
        grammar = self._by_spec.get(spec)
        return self._build(spec, estimate_min_bytes(spec.text), ()) if grammar is None else grammar

    @property
    def has_broken_workers(self) -> bool:
        """Whether no worker can be started any more."""
        return self._pool.is_broken

    @property
    def num_restarts(self) -> int:
        """Number of worker processes that were replaced because a grammar exceeded their limits."""
        return self._pool.num_restarts

    def close(self) -> None:
        """Kill the worker processes. Idempotent; cached grammars stay available."""
        self._pool.close()

    def _compile(self, expr: GrammarExpr, param: str) -> CompiledGrammar:
        self._tokenizer.get_ll_tokenizer()  # raises if the model's tokens can follow no grammar
        text, num_bytes, unenforced = self._write_grammar(expr, param)
        self._log_unenforced(unenforced)
        return self._build(GrammarSpec(text, param), num_bytes, tuple(unenforced))

    def _build(self, spec: GrammarSpec, num_bytes: int, unenforced_formats: tuple[str, ...]) -> CompiledGrammar:
        """Compile a grammar that has been checked. Raises InvalidParameter if no text matches it."""
        create = partial(create_matcher, self._tokenizer.get_ll_tokenizer(), spec.text, spec.param)
        grammar = CompiledGrammar(spec, create, create(), num_bytes, unenforced_formats)
        self._by_spec[spec] = grammar
        return grammar

    def _log_unenforced(self, formats: Sequence[str]) -> None:
        """Log formats that are not enforced, each of them once."""
        with self._lock:
            new = [name for name in formats if name not in self._logged_formats]
            self._logged_formats |= set(new[: MAX_LOGGED_FORMATS - len(self._logged_formats)])
        if new and len(self._logged_formats) < MAX_LOGGED_FORMATS:
            names = ", ".join(repr(name[:MAX_NAME_CHARS]) for name in new)
            log.warning("JSON Schema formats that are not enforced, as they are not known here: %s", names)

    def _write_grammar(self, expr: GrammarExpr, param: str) -> tuple[str, int, Sequence[str]]:
        """Return the grammar's text, its size in bytes of memory, and the formats that it does not enforce."""
        special_tokens = self._tokenizer.special_tokens
        if _is_cheap(expr):
            text = write_valid_grammar(expr, special_tokens, param)
            return text, estimate_min_bytes(text), ()
        data = {"expr": to_json(expr), "param": param}
        return self._pool.run(f"{WORKER_MODULE}:sandboxed_compile", data, self._limits)


def _is_cheap(expr: GrammarExpr) -> bool:
    """Whether its check is sure to be quick, so that no worker process needs to be started for it."""
    if not isinstance(expr, StructuredOutputs) or expr.whitespace_pattern is not None:
        return False
    return bool(expr.json_object) or (expr.choice is not None and sum(map(len, expr.choice)) < MAX_CHARS_UNCHECKED)


class _GrammarCache:
    """Compiled grammars and refusals by expression. Several threads that ask for one key wait for one compilation.

    A refusal is kept as an exception that was never raised: one that was holds the frames of whoever has asked for it,
    and those of everybody who asks again, with all their requests.

    max_entries, max_bytes   beyond these the least recently used entries are dropped
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._lock = threading.Lock()
        self._futures: OrderedDict[Any, Future[CompiledGrammar | InvalidParameter]] = OrderedDict()
        self._sizes: dict[Any, int] = {}

    def __len__(self) -> int:
        """Return the number of entries, those that are being compiled included."""
        return len(self._futures)

    def get(self, key: Any, compile: Callable[[], CompiledGrammar]) -> CompiledGrammar:
        """Return the grammar of a key, compiled if it is not cached. Raises the error with which it was refused.

        Only InvalidParameter is cached; after any other error the next caller tries again.
        """
        with self._lock:
            cached = self._futures.get(key)
            future: Future[CompiledGrammar | InvalidParameter] = cached or Future()
            self._futures[key] = future
            self._futures.move_to_end(key)
        if cached is None:
            self._fill(key, future, compile)
        try:
            result = future.result()
        except RequestError as error:
            # A new exception, because one object must not be raised in two threads.
            raise type(error)(str(error), error.param) from None
        if isinstance(result, InvalidParameter):
            raise type(result)(str(result), result.param)
        return result

    def _fill(
        self,
        key: Any,
        future: Future[CompiledGrammar | InvalidParameter],
        compile: Callable[[], CompiledGrammar],
    ) -> None:
        try:
            grammar = compile()
            size = grammar.num_bytes
        except InvalidParameter as error:
            future.set_result(type(error)(str(error), error.param))
            size = 2 * len(repr(key))  # a refusal keeps only its key in memory
        except BaseException as error:  # not cached: the next request tries again
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)
            return
        else:
            future.set_result(grammar)
        with self._lock:
            if self._futures.get(key) is not future:
                return  # dropped while it was compiled
            self._sizes[key] = size
            while len(self._futures) > self._max_entries or sum(self._sizes.values()) > self._max_bytes:
                oldest, _ = self._futures.popitem(last=False)
                self._sizes.pop(oldest, None)
