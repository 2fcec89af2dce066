"""Families' markers of reasoning."""

from dataclasses import replace

from jaxserve.text.marked_dialect import MarkedReasoning

THINK = MarkedReasoning()
SWITCHABLE = replace(THINK, is_switchable=True)
OFF_BY_DEFAULT = replace(THINK, is_off_by_default=True)
OPENED = replace(THINK, starts_inside=False)
QWEN3 = replace(SWITCHABLE, call_starts=("<tool_call>",))
KIMI_K2 = replace(SWITCHABLE, call_starts=("<|tool_calls_section_begin|>",))
MINIMAX_M2 = replace(THINK, call_starts=("<minimax:tool_call>",))
SEED_OSS = replace(SWITCHABLE, open=("<seed:think>",), close=("</seed:think>",), call_starts=("<seed:tool_call>",))
ERNIE45 = replace(SWITCHABLE, hidden_markers=("<response>", "\n</response>", "</response>"))
HUNYUAN = replace(SWITCHABLE, starts_inside=False, hidden_markers=("<answer>", "\n</answer>", "</answer>"))
MISTRAL = replace(OPENED, open=("[THINK]",), close=("[/THINK]",), call_starts=("[TOOL_CALLS]",), may_repeat=True)
GEMMA4 = replace(
    OPENED, open=("<|channel>thought\n",), close=("<channel|>",), call_starts=("<|tool_call>",), may_repeat=True
)
GRANITE = replace(  # 3.2 in words, 3.3 in tags
    OPENED,
    open=("Here is my thought process:", "Here's my thought process:", "<think>"),
    close=("Here is my response:", "Here's my response:", "</think>"),
    hidden_markers=("<response>", "</response>"),
)
COHERE = replace(
    OPENED,
    open=("<|START_THINKING|>",),
    close=("<|END_THINKING|>",),
    hidden_markers=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
