"""Which dialect a model writes its tool calls and its reasoning in, found in its checkpoint's files alone.

In order of trust: the checkpoint's response_template, which says it outright; what its chat template writes; where that
shows no calls, a token of the vocabulary, then the model_type of config.json. What a template writes comes before what
a vocabulary merely has, for vocabularies are inherited: Nemotron Nano has Mistral's [TOOL_CALLS], and every Qwen3 has
<think>. Of reasoning, three prompts tell whether a model thinks always, unless told not to, or only if told to.

A model whose template never reads `tools` is given no tool parser: it would never hear of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateSyntaxError

from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.text import detection_patterns
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.detection_patterns import DialectPattern
from jaxserve.text.dialects import RESPONSE_TEMPLATE
from jaxserve.text.template_text import TemplateText, extract_template_text
from jaxserve.text.tokenizer import Tokenizer

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_SWITCHES = ("enable_thinking", "thinking")  # the variables by which templates are told


@dataclass(frozen=True, slots=True)
class ProbePrompts:
    """What the template makes of a short question: by itself, with thinking switched on, and switched off."""

    default: str
    thinking_on: str
    thinking_off: str

    @property
    def opens_section(self) -> bool:
        """Whether an answer begins inside a section."""
        return self.thinking_on.rstrip().endswith("<think>")

    @property
    def has_switch(self) -> bool:
        return self.thinking_on != self.thinking_off

    @property
    def is_off_by_default(self) -> bool:
        """Whether it stays quiet unless it is told to think."""
        return self.has_switch and self.default == self.thinking_off


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFacts:
    """What detection looks at.

    tool_template       the chat template for conversations with tools, in Jinja; None: there is none
    template            the one for conversations without
    prompts             what the latter writes; None where it takes no plain question
    tokens              the added tokens of the vocabulary: text → whether it is special
    response_template   of tokenizer_config.json
    model_type          of config.json
    """

    tool_template: str | None = None
    template: str | None = None
    prompts: ProbePrompts | None = None
    tokens: Mapping[str, bool]
    response_template: Mapping[str, Any] | None = None
    model_type: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """A parser's name, or None for none, and why it is that: a short sentence for people."""

    name: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name or 'none'} ({self.reason})"


def collect_facts(tokenizer: Tokenizer, templates: ChatTemplates, model_config: Mapping[str, Any]) -> DetectionFacts:
    """templates are those in force, the checkpoint's or the one given by hand."""
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
    """The dialect of tool calls."""
    if facts.tool_template is None:
        return Detection(None, "the model has no chat template")
    if fields := _telling_fields(facts.response_template):
        return _by_template("tool_calls" in fields, "tool_calls")
    words = _words(facts.tool_template)
    if words is None:
        return Detection(None, "the template has a syntax error")
    if "tools" not in words.variables:
        return Detection(None, "the template never reads tools")
    found = _written(detection_patterns.TOOL_CALL_PATTERNS, words, facts)
    if found is None and "tool_calls" not in facts.tool_template:  # it leaves the form to the model
        found = _had(detection_patterns.TOOL_PARSER_BY_TOKEN, facts) or _typed(
            detection_patterns.TOOL_PARSER_BY_MODEL_TYPE, facts
        )
    return found or Detection(None, "the template writes calls in no known form")


def detect_reasoning_parser(facts: DetectionFacts) -> Detection:
    """The dialect of reasoning."""
    if facts.template is None:
        return Detection(None, "the model has no chat template")
    if fields := _telling_fields(facts.response_template):
        return _by_template(not fields.isdisjoint(_REASONING_FIELDS), "reasoning")
    words = _words(facts.template)
    if words is None:
        return Detection(None, "the template has a syntax error")
    return (
        _written(detection_patterns.REASONING_PATTERNS, words, facts)
        or _tagged(words, facts)
        or _typed(detection_patterns.REASONING_PARSER_BY_MODEL_TYPE, facts)
        or Detection(None, "the template writes no reasoning")
    )


def _telling_fields(response_template: Mapping[str, Any] | None) -> set[str]:
    """The fields of a response template that are more than content. One that has any speaks for tools and reasoning."""
    fields = (response_template or {}).get("fields")
    return {"tool_calls", *_REASONING_FIELDS}.intersection(fields) if isinstance(fields, Mapping) else set()


def _by_template(has_it: bool, what: str) -> Detection:
    reason = f"its response_template has {'a' if has_it else 'no'} field for {what}"
    return Detection(RESPONSE_TEMPLATE if has_it else None, reason)


def _words(source: str) -> TemplateText | None:
    try:
        return extract_template_text(source)
    except TemplateSyntaxError:
        return None


def _written(known: tuple[DialectPattern, ...], words: TemplateText, facts: DetectionFacts) -> Detection | None:
    for signature in known:
        if signature.matches(words.text, facts.model_type):
            return Detection(signature.name, f"the template writes {signature.description}")
    return None


def _had(known: Mapping[str, str], facts: DetectionFacts) -> Detection | None:
    for token, name in known.items():
        if token in facts.tokens:
            return Detection(name, f"its vocabulary has {token}")
    return None


def _typed(known: Mapping[str, str], facts: DetectionFacts) -> Detection | None:
    name = known.get(facts.model_type)
    return Detection(name, f"its model_type is {facts.model_type}") if name else None


def _tagged(words: TemplateText, facts: DetectionFacts) -> Detection | None:
    """Reasoning between <think> and </think>, as most write it; when it is written decides the name."""
    assert facts.template is not None
    opens = facts.prompts is not None and facts.prompts.opens_section
    if not opens and not detection_patterns.writes_reasoning(words.text):
        if "</think>" in words.text and "<think>" not in facts.tokens:
            return Detection(None, "the template writes <think> only to keep it empty")
        if "</think>" not in words.text:
            return _cut(words, facts)
    if facts.prompts and facts.prompts.is_off_by_default:
        return Detection("deepseek_v3", "the template writes <think> when it is told to think")
    if facts.prompts and facts.prompts.has_switch:
        return Detection("qwen3", "the template writes <think> unless it is told not to think")
    return Detection("deepseek_r1", "the template writes <think> and has no switch for it")


def _cut(words: TemplateText, facts: DetectionFacts) -> Detection | None:
    """DeepSeek's later R1 models begin with <think> by themselves; their templates only cut it out of past answers."""
    if "<｜Assistant｜>" in words.text and "</think>" in (facts.template or ""):
        return Detection("deepseek_r1", "the template is DeepSeek's and cuts at </think>")
    return None


def resolve_parser(requested: str, detected: Detection, known: Collection[str], field: str) -> Detection:
    """What holds when the configuration's `field` says `asked`: auto, none, or a name. BadConfig for one not known."""
    check_parser_name(requested, known, field)
    if requested == "auto":
        return detected
    return Detection(None, f"{field} is none") if requested == "none" else Detection(requested, f"{field} names it")


def check_parser_name(requested: str, known: Collection[str], field: str) -> None:
    """Raise BadConfig unless `asked` is auto, none, or a known name."""
    if requested not in ("auto", "none") and requested not in known:
        raise BadConfig(f"{field} {requested!r} is not known; try auto, none, or one of {', '.join(sorted(known))}.")
