"""A small algebra for what an answer may look like. Frozen values; lark_writer.py writes them down as a grammar.

Texts are compared byte for byte. Special tokens of the model never match ordinary text: only a Literal (and the markers
of a Text) may name them by their text, and a Token by its id.
"""

from dataclasses import dataclass, fields
from typing import Any

from jaxserve.structured_outputs import StructuredOutputs


@dataclass(frozen=True, slots=True)
class TextLiteral:
    """This text. Where it holds the text of one of the model's special tokens it means that token."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenLiteral:
    """This one token of the model, whatever its text."""

    token_id: int


@dataclass(frozen=True, slots=True)
class TextChoice:
    """One of these texts, in ordinary tokens; one of them may be empty."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonWhitespace:
    """What may stand between the tokens of JSON text.

    compact   nothing at all
    pattern   this regex, where it is not compact; None: a few blanks, or a line break and its indentation
    """

    is_compact: bool = False
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON text that is valid under a JSON schema.

    schema          the schema, as JSON text
    closed          no undeclared keys even in objects that declare none; those that declare some are always closed
    is_object       only an object will do, whatever the schema says
    param           the field of the request that it came in, named where it is refused; "": the caller knows
    """

    schema: str
    whitespace: JsonWhitespace = JsonWhitespace()
    is_closed: bool = False
    is_object: bool = False
    param: str = ""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """The members of an object that a schema describes, as families write arguments that do not write JSON.

    Each is: before_name, its name, after_name, its value, after_value. Strings stand there as they are; all else is
    JSON. A text that begins or ends with a newline is read without it, unless after_name or after_value has it.

    after_name_json   instead of after_name before a value that is JSON; None: the same
    has_blanks        blanks may stand around JSON values and between parameters
    stops             no string may hold any of these, as a reader would end it there
    name_end          what ends a name, which cannot hold it; "": after_name without the white space around it
    names             a regex of names that are declared nowhere
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
    """The members of an object that a schema describes: name, equals, value, with commas between them.

    quote   stands before and after every string, which cannot hold it, and keys have no quotes; None: values are JSON
    names   a regex that every name matches
    """

    schema: JsonSchema
    equals: str
    comma: str
    quote: str | None
    name_pattern: str


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that matches from its first to its last character."""

    pattern: str


@dataclass(frozen=True, slots=True)
class FreeText:
    """Free text that ends before the first of these markers, which then begins what follows.

    In a Sequence, what follows a Text begins with one of its markers, and may be missing where it may be empty.

    pattern   a regex that the whole text matches; None: any text
    """

    until: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """Text of a grammar in llguidance's Lark dialect, whose rule `start` is the whole.

    continues_with   bytes with which a whole text of it may go on, as far as is known: bit b is byte b
    """

    grammar: str
    continuation_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SequenceExpr:
    """One after the other; nothing when there are none."""

    items: tuple["GrammarExpr", ...]


@dataclass(frozen=True, slots=True)
class OrExpr:
    """One of these.

    An option that begins with free Text takes all that it can: beside it, no other option should begin with less.
    """

    options: tuple["GrammarExpr", ...]


@dataclass(frozen=True, slots=True)
class RepeatExpr:
    """From `min` to `max` times the same shape (max None: any number), `separator` between two of them."""

    item: "GrammarExpr"
    min: int = 0
    max: int | None = None
    separator: "GrammarExpr | None" = None


@dataclass(frozen=True, slots=True)
class OptionalExpr:
    """The shape, or nothing."""

    item: "GrammarExpr"


# What a caller asked for is a shape as well, which is only read where reading it can do no harm.
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
    """A shape as plain JSON, for the way into another process."""
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    name = type(value).__name__
    if name in _KINDS:
        return {name: {field.name: to_json(getattr(value, field.name)) for field in fields(value)}}
    return value


def from_json(value: Any) -> Any:
    """The shape that `to_json` wrote."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if isinstance(value, dict):
        [(name, arguments)] = value.items()
        return _KINDS[name](**{key: from_json(argument) for key, argument in arguments.items()})
    return value
