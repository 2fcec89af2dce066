"""The part of compiling that a request can make expensive. It runs in a worker process, which may be killed.

That is all of it: the worker holds the model's tokens and also does what the server then repeats, because llguidance
has no form of a compiled grammar that one process could send to another.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import GrammarExpr, from_json
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.lark_writer import write_grammar
from jaxserve.structured.patterns import byte_tokenizer, matches_nothing
from jaxserve.structured.resolve import resolve
from jaxserve.structured.unenforced_formats import find_unenforced_formats

# A lexer state is 1 to 2 KB; 250,000 of them, llguidance's default, would be half a gigabyte a sequence. An ambiguous
# grammar costs the square of the items of an Earley row: 90 ms a token at llguidance's default of 2000, 40 ms at 1000.
PARSER_LIMITS = LLParserLimits(max_lexer_states=50_000, max_items_in_row=1000, verbose_errors=False)
MAX_MESSAGE_CHARS = 500
KIB = 1 << 10
MAX_REPEATED_CPU_S = 1.0  # processor time of what the server repeats; 20,000 choices take 0.14 s (49,152 tokens)
NUM_TRIAL_STEPS = 16
LIKELY_FIRST_BYTES = b'{["ta10'
_PROCESS = psutil.Process()


def load_tokenizer(data: dict[str, Any]) -> GrammarTokenizer:
    """Make the model's tokens in a worker process, where they stay. data: GrammarTokenizer.to_json."""
    tokenizer = GrammarTokenizer.from_json(data)
    tokenizer.get_ll_tokenizer()
    return tokenizer


def sandboxed_compile(tokenizer: GrammarTokenizer, data: dict[str, Any]) -> tuple[str, int, tuple[str, ...]]:
    """Compile a grammar expression in a worker process, for the model's tokens, with its first mask.

    data   "expr": the expression as JSON values (grammar_expr.to_json), "param": the request's field, which errors name

    Returns the text of the grammar, the bytes of memory that it takes, and the JSON Schema formats in it that are not
    enforced. Raises InvalidParameter if the expression is invalid, too complex to compile or to follow, or matches no
    text, TimeoutError if the server would take too long to repeat this.
    """
    special_tokens, param = tokenizer.special_tokens, data["param"]
    with _errors_naming(param):
        expr = resolve(from_json(data["expr"]), special_tokens)
        unenforced = find_unenforced_formats(expr)
    text = write_valid_grammar(expr, special_tokens, param)
    rss_before = _PROCESS.memory_info().rss
    trial = LLMatcher(byte_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)
    if not trial.is_error():  # it is one where the grammar names tokens by id, which only the model has
        _try_steps(trial, param)
    started_s = time.process_time()
    create_matcher(tokenizer.get_ll_tokenizer(), text, param)
    if time.process_time() - started_s > MAX_REPEATED_CPU_S:
        raise TimeoutError  # no InvalidParameter, which would be cached: a busy machine takes longer
    return text, max(_PROCESS.memory_info().rss - rss_before, estimate_min_bytes(text)), unenforced


def create_matcher(ll_tokenizer: LLTokenizer, text: str, param: str) -> LLMatcher:
    """Compile a grammar's text for a model's tokens and compute the first mask, which all copies then share.

    Raises InvalidParameter, which names `param`, if llguidance refuses the grammar or if no text matches it.
    """
    matcher = LLMatcher(ll_tokenizer, text, log_level=0, limits=PARSER_LIMITS)
    if matcher.is_error():
        raise grammar_error(matcher.get_error(), param)
    if matches_nothing(matcher):
        raise InvalidParameter(f"{param} cannot be enforced: no text matches the grammar.", param)
    if matcher.is_error():
        raise grammar_error(matcher.get_error(), param)
    return matcher


def _try_steps(matcher: LLMatcher, param: str) -> None:
    """Consume some bytes, so that a grammar that is too complex to follow is refused before the request starts."""
    for _ in range(NUM_TRIAL_STEPS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        likely = (byte for byte in LIKELY_FIRST_BYTES if mask >> byte & 1)
        byte = next(likely, (mask & -mask).bit_length() - 1)
        if byte > 255:
            break
        matcher.consume_token(byte)
    if matcher.is_error() and not matcher.get_error().startswith("NoExtension"):
        raise grammar_error(matcher.get_error(), param)


def estimate_min_bytes(text: str) -> int:
    """Estimate the least memory that a grammar of this text takes. Measured on large schemas and choices."""
    return 64 * KIB + 10 * len(text)


def write_valid_grammar(expr: GrammarExpr, special_tokens: dict[str, int], param: str) -> str:
    """Write an expression as a grammar and let llguidance validate it.

    special_tokens   text → id

    Raises InvalidParameter, which names `param`, if the expression is invalid or llguidance refuses the grammar.
    """
    with _errors_naming(param):
        text = write_grammar(resolve(expr, special_tokens), special_tokens)
        text.encode()
    _, messages = LLMatcher.validate_grammar_with_warnings(text, None, limits=PARSER_LIMITS)
    messages = [message for message in messages if not message.startswith("no tokenizer - can't validate")]
    if messages:
        raise grammar_error(messages[0], param)
    return text


@contextmanager
def _errors_naming(param: str) -> Iterator[None]:
    """Turn errors about the value of `param` into InvalidParameter that names it."""
    try:
        yield
    except InvalidParameter as error:
        param = error.param or param
        raise InvalidParameter(f"{param}: {error}", param) from None
    except UnicodeEncodeError:
        raise InvalidParameter(f"{param} holds half a surrogate pair, which is no text.", param) from None
    except RecursionError:
        raise InvalidParameter(f"{param} is too complex a grammar: its parts lead too deep.", param) from None


def grammar_error(message: str, param: str) -> InvalidParameter:
    """Make the error for a grammar that llguidance refuses.

    Excerpts of the grammar are left out of llguidance's message, since the client may not have written it.
    """
    lines = message.strip().splitlines() or ["no reason is given"]
    errors = [lines[0], *(line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: "))]
    reason = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", " ".join(errors))
    reason = reason.partition("; following")[0]
    if reason.startswith("patternProperty"):
        reason = f"the JSON schema keyword 'patternProperties': {reason}"
    return InvalidParameter(f"{param} cannot be enforced: {reason[:MAX_MESSAGE_CHARS].rstrip('.: ')}.", param)
