"""MiniMax M2 and Dots: invocations with named parameters in tags."""

from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.marked_dialect import MarkedTools


def _invocations(open: str, close: str) -> MarkedTools:
    return MarkedTools(
        format=TaggedCalls(
            begin='<invoke name="',
            name_end='">\n',
            key='<parameter name="',
            key_end=('">',),
            value_end="</parameter>\n",
            end="</invoke>\n",
            other_ends=(close,),
        ),
        open=(open + "\n",),
        close=close,
    )


MINIMAX_M2 = _invocations("<minimax:tool_call>", "</minimax:tool_call>")
DOTS = _invocations("<dots_function_call>", "</dots_function_call>")
