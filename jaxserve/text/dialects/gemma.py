"""Gemma's function calls: call:NAME{key:value}, strings between markers of their own."""

from jaxserve.text.call_formats.gemma_literals import GemmaLiterals
from jaxserve.text.call_formats.literal_calls import LiteralCalls
from jaxserve.text.marked_dialect import MarkedTools


def _gemma(open: str, close: str, quote: str) -> MarkedTools:
    literals = GemmaLiterals((quote,))
    format = LiteralCalls(open="{", equals=":", comma=",", close="}", ends=(close,), literals=literals)
    return MarkedTools(format=format, open=(open + "call:",), close=close, section_separator="")


GEMMA4 = _gemma("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _gemma("<start_function_call>", "<end_function_call>", "<escape>")
