"""DeepSeek: JSON between special tokens up to V3.1, parameters in DSML tags from V3.2 on."""

from jaxserve.text.call_formats.named_json import NamedJson
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.marked_dialect import MarkedTools

_OPEN, _CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

V3 = MarkedTools(
    format=NamedJson(
        begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        name_end="\n```json\n",
        end="\n```<｜tool▁call▁end｜>",
    ),
    open=(_OPEN,),
    close=_CLOSE,
    call_separator="\n",
)
V31 = MarkedTools(
    format=NamedJson(begin="<｜tool▁call▁begin｜>", name_end="<｜tool▁sep｜>", end="<｜tool▁call▁end｜>"),
    open=(_OPEN,),
    close=_CLOSE,
)


def _dsml(section: str) -> MarkedTools:
    return MarkedTools(
        format=TaggedCalls(
            begin='<｜DSML｜invoke name="',
            name_end='">\n',
            key='<｜DSML｜parameter name="',
            key_end=('" string="', '">'),
            value_end="</｜DSML｜parameter>\n",
            end="</｜DSML｜invoke>\n",
            other_ends=(f"</｜DSML｜{section}>",),
            has_types=True,
        ),
        open=(f"<｜DSML｜{section}>\n",),
        close=f"</｜DSML｜{section}>",
    )


V32 = _dsml("function_calls")
V4 = _dsml("tool_calls")
