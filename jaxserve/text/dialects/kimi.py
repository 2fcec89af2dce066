"""Kimi K2: special tokens around a numbered name and JSON arguments."""

from jaxserve.text.call_formats.named_json import NamedJson
from jaxserve.text.dialect import numbered_id
from jaxserve.text.marked_dialect import MarkedTools

KIMI_K2 = MarkedTools(
    format=NamedJson(
        begin="<|tool_call_begin|>",
        prefix="functions.",
        is_numbered=True,
        name_end="<|tool_call_argument_begin|>",
        end="<|tool_call_end|>",
    ),
    open=("<|tool_calls_section_begin|>",),
    close="<|tool_calls_section_end|>",
    new_id=numbered_id,
)
