"""Granite 3 and Granite 20B: JSON behind one marker, which nothing closes. Granite 4 writes as Hermes does."""

from jaxserve.text.call_formats.json_calls import JsonCalls
from jaxserve.text.marked_dialect import MarkedTools

GRANITE = MarkedTools(format=JsonCalls(), open=("<|tool_call|>", "<tool_call>"), is_list=True)
GRANITE_20B = MarkedTools(format=JsonCalls(), open=("<function_call> ",), section_separator="\n")
