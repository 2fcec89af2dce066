"""A grammar is compiled once, gives each sequence a matcher of its own, and errors name the request's field."""

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxserve.errors import EngineStopped, GenerationFailed, InvalidParameter, Unsupported
from jaxserve.structured import compiler as compiler_module
from jaxserve.structured import sandboxed_compile
from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.structured.grammar_expr import SequenceExpr, TextLiteral, to_json
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.guide import Guide
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.workers.pool import TaskFailed, TaskLimits, WorkerPool
from jaxserve.workers.process import TaskKilled
from tests.structured.byte_tokenizer import EOS, SIZE, accepts, allowed, byte_tokenizer


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(byte_tokenizer())
    yield compiler
    compiler.close()


def test_matchers_of_one_grammar_are_independent(compiler):
    grammar = compiler.compile(StructuredOutputs(regex="ab|cd"))
    first, second = grammar.new_matcher(), grammar.new_matcher()
    assert first.consume_token(ord("a"))
    assert (allowed(first), allowed(second)) == ({ord("b")}, {ord("a"), ord("c")})


def test_equal_constraints_share_one_grammar(compiler):
    assert compiler.compile(StructuredOutputs(regex="x+")) is compiler.compile(StructuredOutputs(regex="x+"))
    assert compiler.compile(StructuredOutputs(regex="x+")) is not compiler.compile(StructuredOutputs(regex="x*"))


def test_two_threads_that_ask_at_once_share_one_compilation(compiler):
    barrier, given = threading.Barrier(4), []

    def ask() -> None:
        barrier.wait()
        given.append(compiler.compile(StructuredOutputs(regex="[0-9]{3}")))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, given))) == 1 and len(given) == 4


def test_a_refusal_names_the_field_that_asked(compiler):
    for _ in range(2):
        for param in ("structured_outputs", "response_format"):
            with pytest.raises(InvalidParameter, match="unclosed group") as caught:
                compiler.compile(StructuredOutputs(regex="(a"), param)
            assert caught.value.param == param


def test_a_literal_means_the_special_tokens_that_it_spells(compiler):
    matcher = compiler.compile(SequenceExpr((TextLiteral("<call>x"),))).new_matcher()
    assert allowed(matcher) == {257}
    assert accepts(matcher, [257, ord("x")])


def test_a_choice_never_means_a_special_token(compiler):
    matcher = compiler.compile(StructuredOutputs(choice=("<call>", "<eos>"))).new_matcher()
    assert allowed(matcher) == {ord("<")}
    assert accepts(matcher, "<call>") and matcher.consume_tokens(list(b"<call>")) and allowed(matcher) == {EOS}


def test_a_tokenizer_without_bytes_is_refused():
    compiler = GrammarCompiler(GrammarTokenizer(None, {}, [0], 10))
    with pytest.raises(Unsupported, match="bytes of their own"):
        compiler.compile(StructuredOutputs(json_object=True))


def test_a_refusal_keeps_nothing_of_those_who_have_asked_for_it(compiler):
    """Frames of a traceback would keep their requests, of each one that asks again."""
    asked: list[weakref.ref[Any]] = []

    def ask() -> None:
        request = threading.Event()
        asked.append(weakref.ref(request))
        with pytest.raises(InvalidParameter):
            compiler.compile(StructuredOutputs(regex="(unclosed"))

    for _ in range(3):
        ask()
    gc.collect()
    assert [reference() for reference in asked] == [None] * 3


def regex(number):
    return StructuredOutputs(regex=f"a{{{number}}}")


def test_the_least_recently_used_grammar_is_dropped_first():
    compiler = GrammarCompiler(byte_tokenizer(), cache_entries=2)
    try:
        first, second = compiler.compile(regex(1)), compiler.compile(regex(2))
        assert compiler.compile(regex(1)) is first
        assert compiler.num_cached == 2
        compiler.compile(regex(3))
        assert compiler.num_cached == 2
        assert compiler.compile(regex(1)) is first
        assert compiler.compile(regex(2)) is not second
    finally:
        compiler.close()


def test_a_grammar_dropped_while_it_is_compiled_takes_no_room():
    """Its size would count for ever, until all others were dropped for it."""
    cache, begun, go_on = compiler_module._GrammarCache(1, 1000), threading.Event(), threading.Event()

    def compile_slowly():
        begun.set()
        assert go_on.wait(20)
        return SimpleNamespace(num_bytes=10)

    slow = threading.Thread(target=cache.get, args=("slow", compile_slowly))
    slow.start()
    assert begun.wait(20)
    cache.get("quick", lambda: SimpleNamespace(num_bytes=20))
    go_on.set()
    slow.join()
    assert (len(cache), cache._sizes) == (1, {"quick": 20})


def test_the_cache_is_bounded_in_bytes():
    one = GrammarCompiler(byte_tokenizer())
    size = one.compile(regex(1)).num_bytes
    one.close()
    compiler = GrammarCompiler(byte_tokenizer(), cache_bytes=3 * size)
    try:
        kept = [compiler.compile(regex(number)) for number in range(1, 11)]
        assert compiler.compile(regex(10)) is kept[-1]
        assert compiler.compile(regex(1)) is not kept[0]
    finally:
        compiler.close()


def test_a_worker_imports_no_array_library_and_no_model():
    pool = WorkerPool(("jaxserve.structured.sandboxed_compile",))
    try:
        modules = pool.run("tests.workers.tasks:loaded", None, TaskLimits(30.0))
    finally:
        pool.close()
    assert {name.split(".")[0] for name in modules}.isdisjoint({"jax", "flax", "numpy", "transformers", "server"})
    assert {"jaxserve.engine", "jaxserve.text", "jaxserve.models"}.isdisjoint(modules)


def test_this_process_repeats_only_what_a_worker_has_done(compiler, monkeypatch):
    """What the model's tokens make too complex, or impossible, is found where it can be killed."""
    done = []
    create = compiler_module.create_matcher
    monkeypatch.setattr(compiler_module, "create_matcher", lambda *args: done.append(args[1]) or create(*args))
    for refused in ("start: start", "start: <[100000]>", "start: <nobody>"):
        with pytest.raises(InvalidParameter, match="structured_outputs cannot be enforced"):
            compiler.compile(StructuredOutputs(grammar=f"{refused}\n"))
    assert done == []
    grammar = compiler.compile(StructuredOutputs(regex="repeated once"))
    assert done == [grammar.spec.text]


def test_what_would_take_this_process_too_long_is_refused_by_the_worker(monkeypatch):
    data = {"expr": to_json(StructuredOutputs(regex="a+")), "param": "tools"}
    text, num_bytes, _ = sandboxed_compile.sandboxed_compile(byte_tokenizer(), data)
    assert text and num_bytes
    monkeypatch.setattr(sandboxed_compile, "MAX_REPEATED_CPU_S", -1.0)
    with pytest.raises(TimeoutError):
        sandboxed_compile.sandboxed_compile(byte_tokenizer(), data)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (TaskKilled("it took longer than 5 s"), InvalidParameter, "too complex a grammar: it took longer"),
        (TaskFailed("f raised MemoryError in its worker process."), InvalidParameter, "too much memory"),
        (TaskFailed("f raised TimeoutError in its worker process."), InvalidParameter, "too long to match"),
        (GenerationFailed("The worker process was lost."), GenerationFailed, "was lost"),
    ],
    ids=["time", "memory", "tokens", "lost worker"],
)
def test_what_is_no_fact_about_a_grammar_is_not_cached(compiler, monkeypatch, failure, error, message):
    def fail(*_):
        raise failure

    expr, before = StructuredOutputs(regex=f"not {type(failure).__name__} {message}"), compiler.num_cached
    with monkeypatch.context() as patch:
        patch.setattr(compiler._pool, "run", fail)
        with pytest.raises(error, match=message) as caught:
            compiler.compile(expr, "tools")
    assert getattr(caught.value, "param", "tools") == "tools"
    assert compiler.num_cached == before
    assert compiler.compile(expr, "tools").spec.param == "tools"


def test_a_closed_compiler_still_returns_cached_grammars():
    compiler = GrammarCompiler(byte_tokenizer())
    grammar = compiler.compile(regex(1))
    compiler.close()
    compiler.close()
    assert compiler.compile(regex(1)) is grammar
    with pytest.raises(EngineStopped):
        compiler.compile(regex(2))


def test_a_grammar_that_no_text_matches_is_refused(compiler):
    with pytest.raises(InvalidParameter, match="no text matches"):
        compiler.compile(StructuredOutputs(grammar="start: start"))


def test_a_special_token_that_the_model_does_not_have_is_refused(compiler):
    for unknown in ("<nobody>", "<[100000]>"):
        with pytest.raises(InvalidParameter, match="structured_outputs cannot be enforced") as caught:
            compiler.compile(StructuredOutputs(grammar=f"start: {unknown}"))
        assert "available" not in str(caught.value)


def test_an_answer_that_fills_its_grammar_s_lexer_comes_to_its_end(compiler):
    """These take more states than a lexer may have; what fills it must end neither this answer nor a later one."""
    grammar = compiler.compile(StructuredOutputs(json='{"type":"string","maxLength":9000}'))
    ends_M = np.zeros(-(-SIZE // 32), np.uint32)
    ends_M[EOS >> 5] = 1 << (EOS & 31)
    for letter in "aé":
        answer = Guide(grammar, ends_M)
        for token in f'"{letter * 8000}"'.encode():
            mask_M = answer.mask()
            assert mask_M is not None and mask_M[token >> 5] >> (token & 31) & 1, answer.error
            answer.accept(token)
        assert answer.is_complete and answer.error is None
