"""Detect the dialects of a model's tool calls and reasoning from the files of its checkpoint.

In order of trust: the checkpoint's response_template, which names them; what its chat template writes; where that shows
no calls, a token of the vocabulary, then the model_type of config.json. What a template writes comes before what a
vocabulary merely has, because vocabularies are inherited: Nemotron Nano has Mistral's [TOOL_CALLS], and every Qwen3 has
<think>. Three test prompts show whether a model reasons always, by default, or only on request.

A model whose template never reads `tools` gets no tool parser: it would not see the tools.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateSyntaxError

from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.dialects import REASONING_ROWS, RESPONSE_TEMPLATE, TOOL_ROWS
from jaxserve.text.parser_rows import ParserRow
from jaxserve.text.template_text import TemplateText, extract_template_text
from jaxserve.text.tokenizer import Tokenizer

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_FILLED_SECTION = re.compile(r"<think>(?!\s*</think>)")  # one that the template does not close at once
_SWITCHES = ("enable_thinking", "thinking")  # template variables that enable or disable reasoning
Rows = Sequence[ParserRow[Any]]


@dataclass(frozen=True, slots=True)
class ProbePrompts:
    """The prompts that a template writes for a short question.

    default        Without further variables.
    thinking_on    With thinking enabled.
    thinking_off   With thinking disabled.
    """

    default: str
    thinking_on: str
    thinking_off: str

    @property
    def opens_section(self) -> bool:
        """Whether an output begins inside a reasoning section."""
        return self.thinking_on.rstrip().endswith("<think>")

    @property
    def has_switch(self) -> bool:
        """Whether thinking can be enabled or disabled."""
        return self.thinking_on != self.thinking_off

    @property
    def is_off_by_default(self) -> bool:
        """Whether there is no reasoning unless thinking is enabled."""
        return self.has_switch and self.default == self.thinking_off


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFacts:
    """The facts of a checkpoint that detection looks at.

    tool_template       The source of the chat template for conversations with tools; None: there is none.
    template            The source of the one for conversations without tools.
    prompts             Prompts that `template` writes; None if it refuses a plain question.
    tokens              The added tokens of the vocabulary: text → whether it is special.
    response_template   That of tokenizer_config.json.
    model_type          That of config.json.
    """

    tool_template: str | None = None
    template: str | None = None
    prompts: ProbePrompts | None = None
    tokens: Mapping[str, bool]
    response_template: Mapping[str, Any] | None = None
    model_type: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected or configured parser.

    name     The name of the parser; None: none.
    reason   A short sentence for the log.
    """

    name: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name or 'none'} ({self.reason})"


def collect_facts(tokenizer: Tokenizer, templates: ChatTemplates, model_config: Mapping[str, Any]) -> DetectionFacts:
    """Collect the facts of a checkpoint.

    templates: those in use, of the checkpoint or of the configuration.
    """
    added = tokenizer.backend.get_added_tokens_decoder().values()
    response_template = tokenizer.config.get("response_template")
    return DetectionFacts(
        tool_template=_source(templates, has_tools=True),
        template=_source(templates, has_tools=False),
        prompts=_probe(templates),
        tokens={token.content: token.special for token in added},
        response_template=response_template if isinstance(response_template, Mapping) else None,
        model_type=str(model_config.get("model_type", "")),
    )


def _source(templates: ChatTemplates, *, has_tools: bool) -> str | None:
    try:
        return templates.select(has_tools=has_tools).source
    except InvalidParameter:
        return None


def _probe(templates: ChatTemplates) -> ProbePrompts | None:
    messages = [{"role": "user", "content": "Hi"}]
    try:
        template = templates.select(has_tools=False)
        return ProbePrompts(
            default=template.render(messages),
            thinking_on=template.render(messages, kwargs={name: True for name in _SWITCHES}),
            thinking_off=template.render(messages, kwargs={name: False for name in _SWITCHES}),
        )
    except InvalidParameter:
        return None


def detect_tool_parser(facts: DetectionFacts) -> Detection:
    """Detect the parser of tool calls."""
    if facts.tool_template is None:
        return Detection(None, "the model has no chat template")
    if fields := _special_fields(facts.response_template):
        return _detect_by_field("tool_calls" in fields, "tool_calls")
    text = _template_text(facts.tool_template)
    if text is None:
        return Detection(None, "the template has a syntax error")
    if "tools" not in text.variables:
        return Detection(None, "the template never reads tools")
    detected = _detect_by_sign(TOOL_ROWS, text, facts)
    if detected is None and "tool_calls" not in facts.tool_template:  # it leaves the form to the model
        detected = _detect_by_token(TOOL_ROWS, facts) or _detect_by_model_type(TOOL_ROWS, facts)
    return detected or Detection(None, "the template writes calls in no known form")


def detect_reasoning_parser(facts: DetectionFacts) -> Detection:
    """Detect the parser of reasoning."""
    if facts.template is None:
        return Detection(None, "the model has no chat template")
    if fields := _special_fields(facts.response_template):
        return _detect_by_field(not fields.isdisjoint(_REASONING_FIELDS), "reasoning")
    text = _template_text(facts.template)
    if text is None:
        return Detection(None, "the template has a syntax error")
    return (
        _detect_by_sign(REASONING_ROWS, text, facts)
        or _detect_think_tags(text, facts)
        or _detect_by_model_type(REASONING_ROWS, facts)
        or Detection(None, "the template writes no reasoning")
    )


def _special_fields(response_template: Mapping[str, Any] | None) -> set[str]:
    """Return the fields of a response template besides content. If it has any, it decides about tools and reasoning."""
    fields = (response_template or {}).get("fields")
    return {"tool_calls", *_REASONING_FIELDS}.intersection(fields) if isinstance(fields, Mapping) else set()


def _detect_by_field(has_field: bool, field: str) -> Detection:
    reason = f"its response_template has {'a' if has_field else 'no'} field for {field}"
    return Detection(RESPONSE_TEMPLATE if has_field else None, reason)


def _template_text(source: str) -> TemplateText | None:
    try:
        return extract_template_text(source)
    except TemplateSyntaxError:
        return None


def _detect_by_sign(rows: Rows, text: TemplateText, facts: DetectionFacts) -> Detection | None:
    for row in rows:
        for sign in row.signs:
            if sign.is_in(text.text, facts.model_type):
                return Detection(row.name, f"the template writes {sign.description}")
    return None


def _detect_by_token(rows: Rows, facts: DetectionFacts) -> Detection | None:
    for row in rows:
        if row.token and row.token in facts.tokens:
            return Detection(row.name, f"its vocabulary has {row.token}")
    return None


def _detect_by_model_type(rows: Rows, facts: DetectionFacts) -> Detection | None:
    name = next((row.name for row in rows if facts.model_type in row.model_types), None)
    return Detection(name, f"its model_type is {facts.model_type}") if name else None


def _detect_think_tags(text: TemplateText, facts: DetectionFacts) -> Detection | None:
    """Detect reasoning in <think> tags, as most models write it; whether it is optional decides the name."""
    assert facts.template is not None
    opens = facts.prompts is not None and facts.prompts.opens_section
    if not opens and not _FILLED_SECTION.search(text.text) and not _is_asked_for(facts):
        if "</think>" in text.text and "<think>" not in facts.tokens:
            return Detection(None, "the template writes <think> only to keep it empty")
        if "</think>" not in text.text:
            return _detect_cut(text, facts)
    if facts.prompts and facts.prompts.is_off_by_default:
        return Detection("deepseek_v3", "the template writes <think> when it is told to think")
    if facts.prompts and facts.prompts.has_switch:
        return Detection("qwen3", "the template writes <think> unless it is told not to think")
    return Detection("deepseek_r1", "the template writes <think> and has no switch for it")


def _is_asked_for(facts: DetectionFacts) -> bool:
    """Return whether the template's own system text asks for a filled section, as that of Phi-4-reasoning."""
    return facts.prompts is not None and bool(_FILLED_SECTION.search(facts.prompts.default))


def _detect_cut(text: TemplateText, facts: DetectionFacts) -> Detection | None:
    """Detect DeepSeek's later R1 models, which write <think> themselves: their templates only cut it out of history."""
    if "<｜Assistant｜>" in text.text and "</think>" in (facts.template or ""):
        return Detection("deepseek_r1", "the template is DeepSeek's and cuts at </think>")
    return None


def resolve_parser(requested: str, detected: Detection, known: Collection[str], field: str) -> Detection:
    """Return the parser in use, by the value of the configuration's `field`: auto, none, or a name.

    Raises BadConfig for a name that is not known.
    """
    check_parser_name(requested, known, field)
    if requested == "auto":
        return detected
    return Detection(None, f"{field} is none") if requested == "none" else Detection(requested, f"{field} names it")


def check_parser_name(requested: str, known: Collection[str], field: str) -> None:
    """Check the value of the configuration's `field`. Raises BadConfig unless it is auto, none, or a known name."""
    if requested not in ("auto", "none") and requested not in known:
        raise BadConfig(f"{field} {requested!r} is not known; try auto, none, or one of {', '.join(sorted(known))}.")
