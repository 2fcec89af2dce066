"""The dialects of the families by parser name, which are those of vLLM's --tool-call-parser and --reasoning-parser.

The rows are in the order in which they are looked for in a checkpoint, specific ones first.
"""

import re
from collections.abc import Mapping

from jaxserve.text.dialect import ReasoningDialect, ToolDialect
from jaxserve.text.dialects import (
    deepseek,
    gemma,
    glm,
    granite,
    harmony,
    hermes,
    kimi,
    llama,
    minimax,
    mistral,
    others,
    qwen,
    reasoning,
)
from jaxserve.text.parser_rows import ParserRow, literal, pattern, row

RESPONSE_TEMPLATE = "hf"  # outputs are parsed by the checkpoint's own response_template, so it has no dialect here
IDENTITY = "identity"  # no reasoning is parsed

_JSON_CALL = r'<tool_call>\s*\{"name": '
_LLAMA_CALL, _LLAMA_SIGN = r'\{"name": "…", "parameters": …\}', '{"name": …, "parameters": …}'
_LLAMA4 = r"<\|header_start\|>"
_GEMMA4_TYPES = ("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
_PYTHON_CALL, _PYTHON_SIGN = r"\[func_name1\(", "[name(key=value)]"

TOOL_ROWS: tuple[ParserRow[ToolDialect], ...] = (
    row("openai", harmony.HARMONY, "<|channel|>commentary", model_types=("gpt_oss",)),
    row("mistral", mistral.MISTRAL, "[TOOL_CALLS]", token="[TOOL_CALLS]"),
    row(
        "kimi_k2",
        kimi.KIMI_K2,
        "<|tool_calls_section_begin|>",
        token="<|tool_calls_section_begin|>",
        model_types=("kimi_k2",),
    ),
    row("deepseek_v4", deepseek.V4, "<｜DSML｜tool_calls>"),
    row("deepseek_v32", deepseek.V32, "<｜DSML｜function_calls>"),
    row("deepseek_v3", deepseek.V3, pattern("<｜tool▁sep｜> and a fenced block", r"<｜tool▁sep｜>…?\n```json")),
    row("deepseek_v31", deepseek.V31, "<｜tool▁call▁begin｜>"),
    row(
        "minimax_m2",
        minimax.MINIMAX_M2,
        "<minimax:tool_call>",
        token="<minimax:tool_call>",
        model_types=("minimax_m2",),
    ),
    row("seed_oss", qwen.SEED_OSS, "<seed:tool_call>", token="<seed:tool_call>", model_types=("seed_oss",)),
    row("longcat", hermes.LONGCAT, "<longcat_tool_call>"),
    row("dots", minimax.DOTS, "<dots_function_call>"),
    row("cohere_command3", others.COHERE, "<|START_ACTION|>"),
    row("step3", others.STEP3, "<｜tool_calls_begin｜>", model_types=("step3_text",)),
    row(
        "glm47",
        glm.GLM47,
        pattern("<tool_call> and <arg_key> on one line", r"<tool_call>[^\n]*<arg_key>"),
        model_types=("glm4_moe_lite",),
    ),
    row(
        "glm45", glm.GLM45, pattern("<tool_call> and <arg_key>", "<tool_call>", "<arg_key>"), model_types=("glm4_moe",)
    ),
    row("qwen3_coder", qwen.QWEN3_CODER, pattern("<tool_call> and <function=", r"<tool_call>\s*<function=")),
    row(
        "granite",
        granite.GRANITE,
        pattern("<tool_call> and a list", r"<tool_call>\s*\["),
        "<|tool_call|>",
        token="<|tool_call|>",
    ),
    row("granite-20b-fc", granite.GRANITE_20B, pattern("<function_call> and JSON", r"<function_call> \\?\{")),
    row("functiongemma", gemma.FUNCTION_GEMMA, "<start_function_call>", token="<start_function_call>"),
    row("gemma4", gemma.GEMMA4, "<|tool_call>call:", token="<|tool_call>", model_types=_GEMMA4_TYPES),
    row("phi4_mini_json", others.PHI4_MINI, "functools["),
    row("internlm", others.INTERNLM, "<|action_start|>", token="<|action_start|>"),
    row("lfm2", llama.LFM2, "<|tool_call_start|>", token="<|tool_call_start|>", model_types=("lfm2", "lfm2_moe")),
    row("olmo3", llama.OLMO3, "<function_calls>"),
    row(
        "hunyuan_a13b",
        hermes.TOOL_CALLS_LIST,
        pattern("<tool_calls> and a list", r"<tool_calls>\s*\[", re.escape("<|extra_0|>")),
    ),
    row(
        "jamba",
        hermes.TOOL_CALLS_LIST,
        pattern("<tool_calls> and a list", r"<tool_calls>\s*\["),
        model_types=("jamba",),
    ),
    row("ernie45", hermes.HERMES, pattern("<tool_call> and <tool_output>", _JSON_CALL, "<tool_output>")),
    row("granite4", hermes.HERMES, pattern("<tool_call> and JSON", _JSON_CALL, re.escape("<|start_of_role|>"))),
    row("hermes", hermes.HERMES, pattern("<tool_call> and JSON", _JSON_CALL)),
    row("minicpm5", others.MINICPM5, '<function name="'),
    row("gigachat3", others.GIGACHAT3, "`function call` role"),
    row("xlam", others.XLAM, pattern("a list of calls in JSON", re.escape('[{"name": "tool_call_name", "arguments"'))),
    row("llama4_json", llama.JSON, pattern(_LLAMA_SIGN, _LLAMA_CALL, _LLAMA4)),
    row(
        "llama4_pythonic",
        llama.LLAMA4_PYTHONIC,
        pattern(_PYTHON_SIGN, _PYTHON_CALL, _LLAMA4),
        token="<|python_start|>",
    ),
    row("llama3_json", llama.JSON, pattern(_LLAMA_SIGN, _LLAMA_CALL), token="<|python_tag|>"),
    row("pythonic", llama.PYTHONIC, pattern(_PYTHON_SIGN, _PYTHON_CALL)),
    row(RESPONSE_TEMPLATE, None),
    row("hy_v3", others.HUNYUAN_V3),
    row("mimo", qwen.MIMO),
    row("poolside_v1", glm.GLM45),
    row("qwen3_json", hermes.HERMES),
    row("qwen3_xml", qwen.QWEN3_CODER),
    row("step3p5", qwen.QWEN3_CODER),
    row("step5", qwen.QWEN3_CODER),
)
REASONING_ROWS: tuple[ParserRow[ReasoningDialect], ...] = (
    row("openai_gptoss", harmony.HARMONY, "<|channel|>analysis", model_types=("gpt_oss",)),
    row("mistral", reasoning.MISTRAL, "[THINK]"),
    row("gemma4", reasoning.GEMMA4, "<|channel>thought", model_types=_GEMMA4_TYPES),
    row("seed_oss", reasoning.SEED_OSS, "<seed:think>", model_types=("seed_oss",)),
    row("cohere_command3", reasoning.COHERE, "<|START_THINKING|>"),
    row(
        "granite",
        reasoning.GRANITE,
        "Here is my thought process:",
        pattern("<think> and <response>", "<think></think>", "<response></response>"),
    ),
    row("kimi_k2", reasoning.KIMI_K2, pattern("<think> and <|im_middle|>", "<think>", re.escape("<|im_middle|>"))),
    row("minimax_m2", reasoning.MINIMAX_M2, pattern("<think> and ]~b]", "<think>", re.escape("]~b]"))),
    row("glm45", reasoning.SWITCHABLE, pattern("<think> and <arg_key>", "<think>", "<arg_key>", re.escape("[gMASK]"))),
    row("ernie45", reasoning.ERNIE45, pattern("<think> and <response>", "<think>", "<response>", "<tool_output>")),
    row(
        "hunyuan_a13b",
        reasoning.HUNYUAN,
        pattern("<think> and <|extra_0|>", "<think>", re.escape("<|extra_0|>")),
        model_types=("hunyuan_v1_moe",),
    ),
    row("nemotron_v3", reasoning.SWITCHABLE, literal("<think>", "nemotron_h")),
    row("olmo3", reasoning.THINK, literal("<think>", "olmo3")),
    row("step3", reasoning.THINK, literal("<think>", "step3_text", "step3_vl")),
    row("deepseek_r1", reasoning.THINK),
    row("deepseek_v3", reasoning.OFF_BY_DEFAULT),
    row("deepseek_v4", reasoning.OFF_BY_DEFAULT),
    row("glm47", reasoning.SWITCHABLE),
    row("granite_thinking_parser", reasoning.OPENED),
    row("holo2", reasoning.SWITCHABLE),
    row("mimo", reasoning.OPENED),
    row("qwen3", reasoning.QWEN3),
    row("step3p5", reasoning.THINK),
    row("step5", reasoning.THINK),
    row(RESPONSE_TEMPLATE, None),
    row(IDENTITY, None),
)
TOOL_PARSERS: Mapping[str, ToolDialect | None] = {entry.name: entry.dialect for entry in TOOL_ROWS}
REASONING_PARSERS: Mapping[str, ReasoningDialect | None] = {entry.name: entry.dialect for entry in REASONING_ROWS}
