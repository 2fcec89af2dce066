"""Each family's form of tool calls, as its models write them. A call is (name, arguments)."""

import json
from collections.abc import Callable, Sequence
from typing import Any

Call = tuple[str, dict[str, Any]]
Writer = Callable[[Sequence[Call]], str]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def objects(before: str, after: str, between: str, arguments: str = "arguments") -> Writer:
    def write(calls: Sequence[Call]) -> str:
        texts = [f'{{"name": {dumps(name)}, "{arguments}": {dumps(given)}}}' for name, given in calls]
        return between.join(before + text + after for text in texts)

    return write


def array(before: str, after: str, name: str = "name", arguments: str = "arguments") -> Writer:
    return lambda calls: before + dumps([{name: called, arguments: given} for called, given in calls]) + after


def named(section: tuple[str, str], begin: str, name_end: str, end: str, between: str = "") -> Writer:
    def write(calls: Sequence[Call]) -> str:
        texts = [
            begin.replace("#", str(index)) + name + name_end.replace("#", str(index)) + dumps(given) + end
            for index, (name, given) in enumerate(calls)
        ]
        return section[0] + between.join(texts) + section[1]

    return write


def tags(
    section: tuple[str, str],
    begin: str,
    name_end: str,
    end: str,
    key: str,
    value: str,
    value_end: str,
    each: tuple[str, str] = ("", ""),
) -> Writer:
    """value: what stands between a key and its value; # is whether that is a string."""

    def one(call: Call) -> str:
        name, given = call
        parameters = [
            key + name + value.replace("#", dumps(isinstance(what, str))) + plain(what) + value_end
            for name, what in given.items()
        ]
        return each[0] + begin + name + name_end + "".join(parameters) + end + each[1]

    return lambda calls: section[0] + "".join(map(one, calls)) + section[1]


def python(before: str, after: str, between: str = ", ") -> Writer:
    def one(call: Call) -> str:
        return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"

    return lambda calls: before + between.join(map(one, calls)) + after


def gemma(before: str, after: str, quote: str) -> Writer:
    def value(what: Any) -> str:
        if isinstance(what, str):
            return quote + what + quote
        if isinstance(what, dict):
            return "{" + ",".join(f"{key}:{value(each)}" for key, each in what.items()) + "}"
        return "[" + ",".join(map(value, what)) + "]" if isinstance(what, list) else dumps(what)

    return lambda calls: "".join(f"{before}call:{name}{value(given)}{after}" for name, given in calls)


HERMES = objects("<tool_call>\n", "\n</tool_call>", "\n")
TOOL_CALLS = array("<tool_calls>", "</tool_calls>")
FUNCTION = ("<function=", ">\n", "</function>", "<parameter=", ">\n", "\n</parameter>\n")
QWEN = tags(("", ""), *FUNCTION, each=("<tool_call>\n", "\n</tool_call>\n"))
DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
INVOKE = ('<invoke name="', '">\n', "</invoke>\n", '<parameter name="', '">', "</parameter>\n")
GLM45 = ("", "\n", "", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
GLM47 = ("", "", "", "<arg_key>", "</arg_key><arg_value>", "</arg_value>")


def dsml(section: str) -> Writer:
    return tags(
        (f"<｜DSML｜{section}>\n", f"</｜DSML｜{section}>"),
        '<｜DSML｜invoke name="',
        '">\n',
        "</｜DSML｜invoke>\n",
        '<｜DSML｜parameter name="',
        '" string="#">',
        "</｜DSML｜parameter>\n",
    )


def harmony(calls: Sequence[Call]) -> str:
    texts = [
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumps(given)}<|call|>"
        for name, given in calls
    ]
    return "<|start|>assistant".join(texts)


WRITERS: dict[str, Writer] = {
    "cohere_command3": array("<|START_ACTION|>", "<|END_ACTION|>", name="tool_name", arguments="parameters"),
    "dots": tags(("<dots_function_call>", "</dots_function_call>"), *INVOKE),
    "gigachat3": objects("<|function_call|>", "", "\n"),
    "hy_v3": tags(
        ("<tool_calls>\n", "</tool_calls>"),
        "<tool_call>",
        "<tool_sep>\n",
        "</tool_call>\n",
        *GLM45[3:],
    ),
    "minicpm5": tags(("", ""), '<function name="', '">', "</function>\n", '<param name="', '">', "</param>"),
    "deepseek_v3": named(
        DEEPSEEK,
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
        "\n```<｜tool▁call▁end｜>",
        between="\n",
    ),
    "deepseek_v31": named(DEEPSEEK, "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    "deepseek_v32": dsml("function_calls"),
    "deepseek_v4": dsml("tool_calls"),
    "ernie45": objects("<tool_call>\n", "\n</tool_call>\n", "\n"),
    "functiongemma": gemma("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma4": gemma("<|tool_call>", "<tool_call|>", '<|"|>'),
    "glm45": tags(("", ""), *GLM45, each=("<tool_call>", "</tool_call>\n")),
    "glm47": tags(("", ""), *GLM47, each=("<tool_call>", "</tool_call>")),
    "granite": array("<|tool_call|> ", ""),
    "granite-20b-fc": objects("<function_call> ", "", "\n"),
    "granite4": HERMES,
    "hermes": HERMES,
    "hunyuan_a13b": TOOL_CALLS,
    "internlm": objects("<|action_start|><|plugin|>", "<|action_end|>", "\n", arguments="parameters"),
    "jamba": TOOL_CALLS,
    "kimi_k2": named(
        ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        "<|tool_call_begin|>functions.",
        ":#<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    "lfm2": python("<|tool_call_start|>[", "]<|tool_call_end|>"),
    "llama3_json": objects("", "", "; ", arguments="parameters"),
    "llama4_json": objects("<|python_tag|>", "", "; ", arguments="parameters"),
    "llama4_pythonic": python("<|python_start|>[", "]<|python_end|>"),
    "longcat": objects("<longcat_tool_call>\n", "\n</longcat_tool_call>", "\n"),
    "mimo": tags(
        ("", ""),
        "<function=",
        ">",
        "</function>",
        "<parameter=",
        ">",
        "</parameter>",
        each=("<tool_call>", "</tool_call>"),
    ),
    "minimax_m2": tags(("<minimax:tool_call>\n", "</minimax:tool_call>"), *INVOKE),
    "mistral": lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{dumps(given)}" for name, given in calls),
    "olmo3": python("<function_calls>", "</function_calls>", between="\n"),
    "openai": harmony,
    "phi4_mini_json": array("functools", ""),
    "poolside_v1": tags(("", ""), *GLM45, each=("<tool_call>", "</tool_call>\n")),
    "pythonic": python("[", "]"),
    "qwen3_coder": QWEN,
    "qwen3_json": HERMES,
    "qwen3_xml": QWEN,
    "seed_oss": tags(("", ""), *FUNCTION, each=("<seed:tool_call>\n", "\n</seed:tool_call>\n")),
    "step3": tags(
        ("<｜tool_calls_begin｜>\n", "<｜tool_calls_end｜>"),
        '<steptml:invoke name="',
        '">',
        "</steptml:invoke>",
        '<steptml:parameter name="',
        '">',
        "</steptml:parameter>",
        each=("<｜tool_call_begin｜>function<｜tool_sep｜>", "<｜tool_call_end｜>\n"),
    ),
    "step3p5": QWEN,
    "step5": QWEN,
    "xlam": array("", ""),
}
