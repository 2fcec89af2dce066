"""Tables by which a dialect is detected in a chat template, in a vocabulary, or in config.json, specific ones first.

Names are those of vLLM's --tool-call-parser and --reasoning-parser. Patterns are searched in what a template writes
(template_text), where … stands for a value.
"""

import re
from dataclasses import dataclass

_SAME_LINE = r"[^\n]*"
_JSON_CALL = r'<tool_call>\s*\{"name": '
_LLAMA, _LLAMA4 = r'\{"name": "…", "parameters": …\}', r"<\|header_start\|>"


@dataclass(frozen=True, slots=True)
class DialectPattern:
    """The patterns by which a dialect is detected in a template's text.

    name          The name of the parser.
    description   What was found, for the log.
    patterns      Regexes, all of which the text must match.
    model_types   Only these, where the template alone does not distinguish them from others; empty: any.
    """

    name: str
    description: str
    patterns: tuple[str, ...]
    model_types: tuple[str, ...] = ()

    def matches(self, text: str, model_type: str) -> bool:
        """Return whether the dialect is that of a template with this text."""
        if self.model_types and model_type not in self.model_types:
            return False
        return all(re.search(pattern, text) for pattern in self.patterns)


def _literal(name: str, text: str, *model_types: str) -> DialectPattern:
    """Return the pattern of a dialect that is detected by one literal."""
    return DialectPattern(name, text, (re.escape(text),), model_types)


TOOL_CALL_PATTERNS = (
    _literal("openai", "<|channel|>commentary"),
    _literal("mistral", "[TOOL_CALLS]"),
    _literal("kimi_k2", "<|tool_calls_section_begin|>"),
    _literal("deepseek_v4", "<｜DSML｜tool_calls>"),
    _literal("deepseek_v32", "<｜DSML｜function_calls>"),
    DialectPattern("deepseek_v3", "<｜tool▁sep｜> and a fenced block", (r"<｜tool▁sep｜>…?\n```json",)),
    _literal("deepseek_v31", "<｜tool▁call▁begin｜>"),
    _literal("minimax_m2", "<minimax:tool_call>"),
    _literal("seed_oss", "<seed:tool_call>"),
    _literal("longcat", "<longcat_tool_call>"),
    _literal("dots", "<dots_function_call>"),
    _literal("cohere_command3", "<|START_ACTION|>"),
    _literal("step3", "<｜tool_calls_begin｜>"),
    DialectPattern("glm47", "<tool_call> and <arg_key> on one line", (rf"<tool_call>{_SAME_LINE}<arg_key>",)),
    DialectPattern("glm45", "<tool_call> and <arg_key>", ("<tool_call>", "<arg_key>")),
    DialectPattern("qwen3_coder", "<tool_call> and <function=", (r"<tool_call>\s*<function=",)),
    DialectPattern("granite", "<tool_call> and a list", (r"<tool_call>\s*\[",)),
    _literal("granite", "<|tool_call|>"),
    DialectPattern("granite-20b-fc", "<function_call> and JSON", (r"<function_call> \\?\{",)),
    _literal("functiongemma", "<start_function_call>"),
    _literal("gemma4", "<|tool_call>call:"),
    _literal("phi4_mini_json", "functools["),
    _literal("internlm", "<|action_start|>"),
    _literal("lfm2", "<|tool_call_start|>"),
    _literal("olmo3", "<function_calls>"),
    DialectPattern("hunyuan_a13b", "<tool_calls> and a list", (r"<tool_calls>\s*\[", re.escape("<|extra_0|>"))),
    DialectPattern("jamba", "<tool_calls> and a list", (r"<tool_calls>\s*\[",)),
    DialectPattern("ernie45", "<tool_call> and <tool_output>", (_JSON_CALL, "<tool_output>")),
    DialectPattern("granite4", "<tool_call> and JSON", (_JSON_CALL, re.escape("<|start_of_role|>"))),
    DialectPattern("hermes", "<tool_call> and JSON", (_JSON_CALL,)),
    _literal("minicpm5", '<function name="'),
    _literal("gigachat3", "`function call` role"),
    DialectPattern("xlam", "a list of calls in JSON", (re.escape('[{"name": "tool_call_name", "arguments"'),)),
    DialectPattern("llama4_json", '{"name": …, "parameters": …}', (_LLAMA, _LLAMA4)),
    DialectPattern("llama3_json", '{"name": …, "parameters": …}', (_LLAMA,)),
    DialectPattern("llama4_pythonic", "[name(key=value)]", (r"\[func_name1\(", _LLAMA4)),
    DialectPattern("pythonic", "[name(key=value)]", (r"\[func_name1\(",)),
)
# Tokens of the vocabulary, used where the template does not show the form of calls.
TOOL_PARSER_BY_TOKEN = {
    "[TOOL_CALLS]": "mistral",
    "<|tool_calls_section_begin|>": "kimi_k2",
    "<minimax:tool_call>": "minimax_m2",
    "<|tool_call|>": "granite",
    "<start_function_call>": "functiongemma",
    "<|tool_call>": "gemma4",
    "<|tool_call_start|>": "lfm2",
    "<seed:tool_call>": "seed_oss",
    "<|action_start|>": "internlm",
    "<|python_start|>": "llama4_pythonic",
    "<|python_tag|>": "llama3_json",
}
TOOL_PARSER_BY_MODEL_TYPE = {
    "gpt_oss": "openai",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "seed_oss": "seed_oss",
    "gemma4": "gemma4",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2",
    "jamba": "jamba",
    "glm4_moe": "glm45",
    "step3_text": "step3",
}

REASONING_PATTERNS = (
    _literal("openai_gptoss", "<|channel|>analysis"),
    _literal("mistral", "[THINK]"),
    _literal("gemma4", "<|channel>thought"),
    _literal("seed_oss", "<seed:think>"),
    _literal("cohere_command3", "<|START_THINKING|>"),
    _literal("granite", "Here is my thought process:"),
    DialectPattern("granite", "<think> and <response>", ("<think></think>", "<response></response>")),
    DialectPattern("kimi_k2", "<think> and <|im_middle|>", ("<think>", re.escape("<|im_middle|>"))),
    DialectPattern("minimax_m2", "<think> and ]~b]", ("<think>", re.escape("]~b]"))),
    DialectPattern("glm45", "<think> and <arg_key>", ("<think>", "<arg_key>", re.escape("[gMASK]"))),
    DialectPattern("ernie45", "<think> and <response>", ("<think>", "<response>", "<tool_output>")),
    DialectPattern("hunyuan_a13b", "<think> and <|extra_0|>", ("<think>", re.escape("<|extra_0|>"))),
    _literal("nemotron_v3", "<think>", "nemotron_h"),
    _literal("olmo3", "<think>", "olmo3"),
    _literal("step3", "<think>", "step3_text", "step3_vl"),
)
REASONING_PARSER_BY_MODEL_TYPE = {
    "gpt_oss": "openai_gptoss",
    "seed_oss": "seed_oss",
    "gemma4": "gemma4",
    "hunyuan_v1_moe": "hunyuan_a13b",
}


def writes_reasoning(text: str) -> bool:
    """Return whether a template's text has a <think> that is not closed at once."""
    return re.search(r"<think>(?!\s*</think>)", text) is not None
