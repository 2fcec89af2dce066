"""How families mark their reasoning."""

from dataclasses import replace

from jaxserve.text.dialect import ReasoningDialect

THINK = ReasoningDialect()
SWITCHED = replace(THINK, switched=True)
ASKED = replace(THINK, asked=True)
OPENED = replace(THINK, inside=False)
QWEN3 = replace(SWITCHED, ends_before=("<tool_call>",))
KIMI_K2 = replace(SWITCHED, ends_before=("<|tool_calls_section_begin|>",))
MINIMAX_M2 = replace(THINK, ends_before=("<minimax:tool_call>",))
SEED_OSS = replace(SWITCHED, open=("<seed:think>",), close=("</seed:think>",), ends_before=("<seed:tool_call>",))
ERNIE45 = replace(SWITCHED, hidden=("<response>", "\n</response>", "</response>"))
HUNYUAN = replace(SWITCHED, inside=False, hidden=("<answer>", "\n</answer>", "</answer>"))
MISTRAL = replace(OPENED, open=("[THINK]",), close=("[/THINK]",), ends_before=("[TOOL_CALLS]",), repeats=True)
GEMMA4 = replace(
    OPENED, open=("<|channel>thought\n",), close=("<channel|>",), ends_before=("<|tool_call>",), repeats=True
)
GRANITE = replace(  # 3.2 in words, 3.3 in tags
    OPENED,
    open=("Here is my thought process:", "Here's my thought process:", "<think>"),
    close=("Here is my response:", "Here's my response:", "</think>"),
    hidden=("<response>", "</response>"),
)
COHERE = replace(
    OPENED,
    open=("<|START_THINKING|>",),
    close=("<|END_THINKING|>",),
    hidden=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
