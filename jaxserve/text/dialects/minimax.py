"""MiniMax M2: invocations with named parameters in tags."""

from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.dialect import ToolDialect

MINIMAX_M2 = ToolDialect(
    format=TaggedCalls(
        begin='<invoke name="',
        name_end='">\n',
        key='<parameter name="',
        key_end=('">',),
        value_end="</parameter>\n",
        end="</invoke>\n",
        ends=("</minimax:tool_call>",),
    ),
    open=("<minimax:tool_call>\n",),
    close="</minimax:tool_call>",
)
