"""The part of compiling that strangers could make expensive. It runs in a helper, which may be killed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from llguidance import LLMatcher, LLParserLimits

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import GrammarExpr, from_json
from jaxserve.structured.lark_writer import write_grammar
from jaxserve.structured.patterns import byte_tokenizer
from jaxserve.structured.resolve import resolve
from jaxserve.structured.unenforced_formats import find_unenforced_formats

# A state of the lexer is 1 to 2 KB; 250 000 of them, which is llguidance's limit, would be half a gigabyte an answer.
# An ambiguous grammar costs the square of the items of a row: 90 ms a token at llguidance's 2000, 40 at 1000.
PARSER_LIMITS = LLParserLimits(max_lexer_states=50_000, max_items_in_row=1000, verbose_errors=False)
MAX_MESSAGE_CHARS = 500
KIB = 1 << 10
NUM_TRIAL_STEPS = 16
LIKELY_FIRST_BYTES = b'{["ta10'
_PROCESS = psutil.Process()


def sandboxed_compile(data: dict[str, Any]) -> tuple[str, int, tuple[str, ...]]:
    """Compile in the helper: (the grammar of what was asked, bytes of memory that it takes, formats not enforced).

    Raises InvalidParameter.
    """
    special_tokens, param = data["special_tokens"], data["param"]
    with _errors_of(param):
        shape = resolve(from_json(data["shape"]), special_tokens)
        unenforced = find_unenforced_formats(shape)
    text = write_valid_grammar(shape, special_tokens, param)
    before = _PROCESS.memory_info().rss
    matcher = LLMatcher(byte_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)
    if not matcher.is_error():  # which it is where it needs tokens that only the model has
        _try(matcher, param)
    return text, max(_PROCESS.memory_info().rss - before, estimate_min_bytes(text)), unenforced


def _try(matcher: LLMatcher, param: str) -> None:
    """Some steps of an answer, so that a grammar that is too complex to follow is refused before anything is said."""
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
    """What a grammar of this text takes at least; measured on large schemas and choices."""
    return 64 * KIB + 10 * len(text)


def write_valid_grammar(shape: GrammarExpr, special_tokens: dict[str, int], param: str) -> str:
    """The grammar, of which llguidance has nothing to complain. Raises InvalidParameter that names `param`."""
    with _errors_of(param):
        text = write_grammar(resolve(shape, special_tokens), special_tokens)
        text.encode()
    _, complaints = LLMatcher.validate_grammar_with_warnings(text, None, limits=PARSER_LIMITS)
    complaints = [complaint for complaint in complaints if not complaint.startswith("no tokenizer - can't validate")]
    if complaints:
        raise grammar_error(complaints[0], param)
    return text


@contextmanager
def _errors_of(param: str) -> Iterator[None]:
    """Raises InvalidParameter that names `param` for what is wrong with its value."""
    try:
        yield
    except InvalidParameter as error:
        param = error.param or param
        raise InvalidParameter(f"{param}: {error}", param) from None
    except UnicodeEncodeError:
        raise InvalidParameter(f"{param} holds half a surrogate pair, which is no text.", param) from None
    except RecursionError:
        raise InvalidParameter(f"{param} is too complex a grammar: its parts lead too deep.", param) from None


def grammar_error(complaint: str, param: str) -> InvalidParameter:
    """llguidance's complaint without the excerpts of a grammar that the client may not have written."""
    lines = complaint.strip().splitlines() or ["no reason is given"]
    said = [lines[0], *(line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: "))]
    message = re.sub(r"^at \d+\(\d+\): failed to compile JSON schema: ", "", " ".join(said)).partition("; following")[0]
    if message.startswith("patternProperty"):
        message = f"the JSON schema keyword 'patternProperties': {message}"
    return InvalidParameter(f"{param} cannot be enforced: {message[:MAX_MESSAGE_CHARS].rstrip('.: ')}.", param)
