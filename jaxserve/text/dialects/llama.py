"""Llama 3 and 4: bare JSON objects, or lists of calls as Python writes them; OLMo 3 and LFM2 mark such lists."""

from jaxserve.text.call_formats.json_calls import JsonCalls
from jaxserve.text.call_formats.literal_calls import LiteralCalls
from jaxserve.text.call_formats.python_literals import PythonLiterals
from jaxserve.text.marked_dialect import MarkedTools

JSON = MarkedTools(
    format=JsonCalls(arguments_keys=("parameters", "arguments"), is_unmarked=True),
    open=("", "<|python_tag|>"),
    call_separator="; ",
    unmarked_start="{",
    unmarked_inner_start='{"name"',
)

_PYTHON = LiteralCalls(open="(", equals="=", close=")", ends=("]",), literals=PythonLiterals(), is_list=True)
_LINES = LiteralCalls(
    open="(", equals="=", close=")", ends=("</function_calls>",), literals=PythonLiterals(), is_one_per_line=True
)

PYTHONIC = MarkedTools(format=_PYTHON, unmarked_start="[", is_list=True)
LLAMA4_PYTHONIC = MarkedTools(
    format=_PYTHON, open=("", "<|python_start|>"), close="<|python_end|>", unmarked_start="[", is_list=True
)
LFM2 = MarkedTools(format=_PYTHON, open=("<|tool_call_start|>",), close="<|tool_call_end|>", is_list=True)
OLMO3 = MarkedTools(format=_LINES, open=("<function_calls>",), close="</function_calls>", call_separator="\n")
