"""One JSON object between tags, as in Hermes 2 and Qwen 2.5, and the same with other tags."""

from jaxserve.text.call_formats.json_calls import JsonCalls
from jaxserve.text.marked_dialect import MarkedTools

HERMES = MarkedTools(format=JsonCalls(), open=("<tool_call>\n",), close="\n</tool_call>", section_separator="\n")
LONGCAT = MarkedTools(
    format=JsonCalls(), open=("<longcat_tool_call>\n",), close="\n</longcat_tool_call>", section_separator="\n"
)
TOOL_CALLS_LIST = MarkedTools(format=JsonCalls(), open=("<tool_calls>",), close="</tool_calls>", is_list=True)
