"""Functions and parameters in tags, as in Qwen3-Coder; Seed-OSS and MiMo write the same in other wrappers."""

from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.marked_dialect import MarkedTools


def _functions(open: str, close: str, newline: str = "\n") -> MarkedTools:
    return MarkedTools(
        format=TaggedCalls(
            begin="<function=",
            name_end=">" + newline,
            key="<parameter=",
            key_end=(">" + newline,),
            value_end=newline + "</parameter>" + newline,
            end="</function>",
            other_ends=(close,),
            outer_openers=(open,),
        ),
        open=(open + newline,),
        close=newline + close,
        section_separator="\n",
    )


QWEN3_CODER = _functions("<tool_call>", "</tool_call>")
MIMO = _functions("<tool_call>", "</tool_call>", newline="")
SEED_OSS = _functions("<seed:tool_call>", "</seed:tool_call>")
