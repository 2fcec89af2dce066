"""Llama 3 and 4: bare JSON objects, or lists of calls as Python writes them; OLMo 3 and LFM2 mark such lists."""

from jaxserve.text.call_formats.json_calls import JsonCalls
from jaxserve.text.call_formats.literal_calls import LiteralCalls
from jaxserve.text.call_formats.python_literals import PythonLiterals
from jaxserve.text.dialect import ToolDialect

JSON = ToolDialect(
    format=JsonCalls(arguments=("parameters", "arguments"), unmarked=True),
    open=("", "<|python_tag|>"),
    separator="; ",
    unmarked="{",
    anywhere='{"name"',
)

_PYTHON = LiteralCalls(open="(", equals="=", close=")", ends=("]",), literals=PythonLiterals(), listed=True)
_LINES = LiteralCalls(
    open="(", equals="=", close=")", ends=("</function_calls>",), literals=PythonLiterals(), in_lines=True
)

PYTHONIC = ToolDialect(format=_PYTHON, unmarked="[", listed=True)
LLAMA4_PYTHONIC = ToolDialect(
    format=_PYTHON, open=("", "<|python_start|>"), close="<|python_end|>", unmarked="[", listed=True
)
LFM2 = ToolDialect(format=_PYTHON, open=("<|tool_call_start|>",), close="<|tool_call_end|>", listed=True)
OLMO3 = ToolDialect(format=_LINES, open=("<function_calls>",), close="</function_calls>", separator="\n")
