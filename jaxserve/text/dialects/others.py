"""Families with one dialect of their own."""

from jaxserve.text.call_formats.json_calls import JsonCalls
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.marked_dialect import MarkedTools

INTERNLM = MarkedTools(
    format=JsonCalls(arguments_keys=("parameters", "arguments")),
    open=("<|action_start|><|plugin|>",),
    close="<|action_end|>",
    section_separator="\n",
)
PHI4_MINI = MarkedTools(format=JsonCalls(), open=("functools",), is_list=True)
XLAM = MarkedTools(
    format=JsonCalls(is_unmarked=True),
    open=("", "```json", "[TOOL_CALLS]", "<tool_call>"),
    unmarked_start="[",
    is_list=True,
)
STEP3 = MarkedTools(
    format=TaggedCalls(
        begin='<steptml:invoke name="',
        name_end='">',
        key='<steptml:parameter name="',
        key_end=('">',),
        value_end="</steptml:parameter>",
        end="</steptml:invoke><｜tool_call_end｜>",
        other_ends=("</steptml:invoke>", "<｜tool_call_end｜>", "<｜tool_calls_end｜>"),
        outer_openers=("<｜tool_call_begin｜>", "function<｜tool_sep｜>"),
    ),
    open=("<｜tool_calls_begin｜>", "<｜tool_call_begin｜>", "function<｜tool_sep｜>"),
    close="<｜tool_calls_end｜>",
)
COHERE = MarkedTools(
    format=JsonCalls(name_keys=("tool_name",), arguments_keys=("parameters",)),
    open=("<|START_ACTION|>",),
    close="<|END_ACTION|>",
    is_list=True,
)
GIGACHAT3 = MarkedTools(
    format=JsonCalls(), open=("<|function_call|>", "function call<|role_sep|>\n"), section_separator="\n"
)
HUNYUAN_V3 = MarkedTools(
    format=TaggedCalls(
        begin="<tool_call>",
        name_end="<tool_sep>\n",
        key="<arg_key>",
        key_end=("</arg_key>\n", "<arg_value>"),
        value_end="</arg_value>\n",
        end="</tool_call>\n",
        other_ends=("</tool_calls>",),
    ),
    open=("<tool_calls>\n",),
    close="</tool_calls>",
)
MINICPM5 = MarkedTools(
    format=TaggedCalls(
        begin='<function name="',
        name_end='">',
        key='<param name="',
        key_end=('">',),
        value_end="</param>",
        end="</function>",
    ),
    call_separator="\n",
)
