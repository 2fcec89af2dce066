"""GLM 4.5 and later: a name, then keys and values in tags of their own."""

from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.marked_dialect import MarkedTools


def _glm(newline: str) -> MarkedTools:
    return MarkedTools(
        format=TaggedCalls(
            begin="",
            name_end=newline,
            key="<arg_key>",
            key_end=("</arg_key>" + newline, "<arg_value>"),
            value_end="</arg_value>" + newline,
            end="</tool_call>",
            outer_openers=("<tool_call>",),
        ),
        open=("<tool_call>",),
        section_separator=newline,
    )


GLM45 = _glm("\n")
GLM47 = _glm("")
