"""Grammar expressions: the syntax tree that describes what an output may be. lark_writer.py writes them as a grammar.

Text is compared byte for byte. A special token of the model never matches ordinary text: only a TextLiteral (and the
markers of a FreeText) may name one by its text, and a TokenLiteral by its id.
"""

from dataclasses import dataclass, fields
from typing import Any

from jaxserve.structured_outputs import StructuredOutputs


@dataclass(frozen=True, slots=True)
class TextLiteral:
    """A text. The text of a special token of the model stands for that token."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenLiteral:
    """A token of the model, whatever its text."""

    token_id: int


@dataclass(frozen=True, slots=True)
class TextChoice:
    """One of these texts, in ordinary tokens; one of them may be empty."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonWhitespace:
    """Whitespace that is allowed between the tokens of JSON text.

    is_compact   none at all
    pattern      a regular expression that the whitespace matches, unless is_compact; None: one or two blanks, or a line
                 break and its indentation
    """

    is_compact: bool = False
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON text that is valid under a JSON schema.

    schema       the schema, as JSON text
    whitespace   what may stand between JSON tokens
    is_closed    objects that declare no properties have none; those that declare some have no others in any case
    is_object    only an object is valid, whatever the schema says
    param        the field of the request that the schema came in, which errors name; "": the caller adds it
    """

    schema: str
    whitespace: JsonWhitespace = JsonWhitespace()
    is_closed: bool = False
    is_object: bool = False
    param: str = ""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Arguments of a call as tags, as model families write them that do not use JSON (Qwen3-Coder, GLM, MiniMax …).

    Each argument is before_name, its name, after_name, its value, after_value. Strings are written without quotes, all
    other values as JSON. A newline at either end of a string is dropped when it is parsed, unless after_name or
    after_value contains it.

    schema            the JSON schema of the object that the arguments make up
    before_name       fixed text before the name
    after_name        fixed text between name and value
    after_value       fixed text after the value
    after_name_json   replaces after_name before a value that is JSON; None: after_name
    has_blanks        whitespace may surround JSON values and arguments
    stops             no string may contain any of these, because a parser would end it there
    name_end          ends a name, which cannot contain it; "": after_name without the whitespace around it
    name_pattern      a regular expression for names that the schema does not declare
    """

    schema: JsonSchema
    before_name: str
    after_name: str
    after_value: str
    after_name_json: str | None = None
    has_blanks: bool = False
    stops: tuple[str, ...] = ()
    name_end: str = ""
    name_pattern: str = r"[\w.-]{1,64}"


@dataclass(frozen=True, slots=True)
class KeywordArguments:
    """Arguments of a call as keywords: name, equals, value, with commas between them, as in Python.

    schema         the JSON schema of the object that the arguments make up
    equals         fixed text between name and value
    comma          fixed text between two arguments
    quote          fixed text around every string, which cannot contain it; keys of objects then have no quotes. None:
                   values are JSON
    name_pattern   a regular expression that every name matches
    """

    schema: JsonSchema
    equals: str
    comma: str
    quote: str | None
    name_pattern: str


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that a regular expression matches from its first to its last character."""

    pattern: str


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any text up to the first of some markers, with which the next expression then begins.

    In a SequenceExpr, what follows a FreeText begins with one of its markers, and may be missing if it may be empty.

    until     the markers
    pattern   a regular expression that the whole text matches; None: any text
    """

    until: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """A grammar in llguidance's dialect of Lark.

    grammar              its text; the rule `start` derives the whole
    continuation_bytes   bytes that may follow a complete text of the grammar within a longer one, as a bit set: bit b
                         is byte b; 0 also where they are not known
    """

    grammar: str
    continuation_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SequenceExpr:
    """The items one after the other; the empty text if there are none."""

    items: tuple["GrammarExpr", ...]


@dataclass(frozen=True, slots=True)
class OrExpr:
    """One of the options.

    An option that begins with FreeText is taken as far as it goes: no other option should begin with less.
    """

    options: tuple["GrammarExpr", ...]


@dataclass(frozen=True, slots=True)
class RepeatExpr:
    """The item from `min` to `max` times (max None: any number), with the separator between two of them."""

    item: "GrammarExpr"
    min: int = 0
    max: int | None = None
    separator: "GrammarExpr | None" = None


@dataclass(frozen=True, slots=True)
class OptionalExpr:
    """The item, or the empty text."""

    item: "GrammarExpr"


# A request's StructuredOutputs are an expression too: they are parsed in the worker process, which may be killed.
GrammarExpr = (
    StructuredOutputs
    | TextLiteral
    | TokenLiteral
    | TextChoice
    | JsonSchema
    | TaggedArguments
    | KeywordArguments
    | Regex
    | FreeText
    | LarkGrammar
    | SequenceExpr
    | OrExpr
    | RepeatExpr
    | OptionalExpr
)

_KINDS = {kind.__name__: kind for kind in (*GrammarExpr.__args__, JsonWhitespace)}


def to_json(value: Any) -> Any:
    """Convert an expression to JSON values, to send it to another process."""
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    name = type(value).__name__
    if name in _KINDS:
        return {name: {field.name: to_json(getattr(value, field.name)) for field in fields(value)}}
    return value


def from_json(value: Any) -> Any:
    """Convert the JSON values that `to_json` made back to an expression."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if isinstance(value, dict):
        [(name, arguments)] = value.items()
        return _KINDS[name](**{key: from_json(argument) for key, argument in arguments.items()})
    return value
