"""Arguments that are written one by one, as tags or as literals of a language → a grammar.

Which text says which value is decided in parameter_types.py; a grammar lets through what is then valid.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import JsonSchema, KeywordArguments, TaggedArguments
from jaxserve.structured.lark_builder import EMPTY, LarkBuilder
from jaxserve.structured.object_members import undeclared_names, write_members
from jaxserve.structured.parameter_schema import ObjectMembers, ParameterSchema, parse_parameters
from jaxserve.structured.parameter_types import ParameterType
from jaxserve.structured.quoted_literals import QuotedLiteralWriter
from jaxserve.structured.schema_keywords import unenforceable_error
from jaxserve.structured.schema_merge import check_branching, write_json_grammar
from jaxserve.structured.tagged_text import write_tagged_text

BLANKS = r"/[ \t\r\n]{0,8}/"


def write_tagged_arguments(shape: TaggedArguments, lark: LarkBuilder) -> str:
    """An expression for arguments in tags. Raises InvalidParameter naming what cannot be enforced."""
    arguments = _enforceable(shape.schema)
    writer = _Tagged(shape, lark, arguments)
    return _either(lark, [writer.members(members) for members in arguments.alternatives])


def write_keyword_arguments(shape: KeywordArguments, lark: LarkBuilder) -> str:
    """An expression for arguments as literals. Raises InvalidParameter naming what cannot be enforced."""
    arguments = _enforceable(shape.schema)
    merger = arguments.merger

    def json(schema: Any, path: str) -> str:
        return lark.json(write_json_grammar(schema, merger, shape.schema.whitespace))

    quoted = None if shape.quote is None else QuotedLiteralWriter(lark, merger.definitions, shape.quote, json)
    value: Callable[[Any, str], str | None] = json if quoted is None else quoted.write

    def members_of(members: ObjectMembers) -> str:
        written = []
        for name, schema in members.declared.items():
            expression = None if schema is False else value(schema, f"#/properties/{name}")
            if expression is not None:
                _check_name(
                    name, re.fullmatch(shape.name_pattern, name) is not None and not lark.has_special_token(name)
                )
                written.append((f"{lark.literal(name + shape.equals)} {expression}", name in members.required))
            elif name in members.required:
                raise _no_value(name)
        others = [
            f"{lark.terminal(names)} {lark.literal(shape.equals)} {expression}"
            for names, schema in undeclared_names(arguments.alternatives, members, shape.name_pattern)
            if (expression := value(schema, "#/additionalProperties")) is not None
        ]
        other = _either(lark, others) if others else None
        return write_members(lark, written, other, members.num_undeclared, lark.literal(shape.comma))

    return _either(lark, [members_of(members) for members in arguments.alternatives])


def _enforceable(shape: JsonSchema) -> ParameterSchema:
    arguments = parse_parameters(shape)
    check_branching(arguments.merged, arguments.merger)
    return arguments


class _Tagged:
    """Writes the members of one function's arguments as tags."""

    def __init__(self, shape: TaggedArguments, lark: LarkBuilder, arguments: ParameterSchema) -> None:
        self._shape, self._lark, self._arguments = shape, lark, arguments
        self._is_typed = shape.after_name_json not in (None, shape.after_name)
        self._blanks = lark.terminal(BLANKS) if shape.has_blanks else ""

    def members(self, members: ObjectMembers) -> str:
        written = []
        for name, schema in members.declared.items():
            if schema is False:
                continue
            self._check_name(name)
            item = self._member(self._lark.literal(name), schema, self._arguments.parameter_type(name), name)
            if item is not None:
                written.append((item, name in members.required))
            elif name in members.required:
                raise _no_value(name)
        reader, others = self._arguments.undeclared_type, []
        for names, schema in undeclared_names(self._arguments.alternatives, members, self._shape.name_pattern):
            # A pattern tells the reader more than all of them together, unless kinds of objects differ.
            alone = self._arguments.type_from_schema(schema) if len(self._arguments.alternatives) == 1 else reader
            others.append(self._member(self._lark.terminal(names), schema, alone, "…"))
        others = [other for other in others if other is not None]
        other = _either(self._lark, others) if others else None
        return write_members(self._lark, written, other, members.num_undeclared)

    def _check_name(self, name: str) -> None:
        ends = ("\n", *self._shape.stops, self._shape.name_end or self._shape.after_name.strip())
        is_safe = name == name.strip() and name != "" and not any(end in name for end in ends)
        _check_name(name, is_safe and not self._lark.has_special_token(name))

    def _member(self, name: str, schema: Any, reader: ParameterType, where: str) -> str | None:
        """None: it has no value. name: the expression of its name. reader: how its text will be read."""
        shape, lark = self._shape, self._lark
        own, path = self._arguments.type_from_schema(schema), f"#/properties/{where}"
        before = f"{lark.literal(shape.before_name)} {name}"
        options, rest = [], own.others
        if own.can_be_string:
            text, rest = write_tagged_text(
                own, own if self._is_typed else reader, shape, lark, path, is_typed=self._is_typed
            )
            if text is not None:
                options.append(f"{before} {lark.literal(shape.after_name)} {text} {self._blanks}")
        if rest:
            after_name = shape.after_name if shape.after_name_json is None else shape.after_name_json
            blanks = "" if own.can_be_string and not self._is_typed else self._blanks
            json = self._json(rest)
            after = f"{lark.literal(shape.after_value)} {self._blanks}"
            options.append(f"{before} {lark.literal(after_name)} {blanks} {json} {blanks} {after}")
        return _either(lark, options) if options else None

    def _json(self, options: tuple[Mapping[str, Any], ...]) -> str:
        schema = dict(options[0]) if len(options) == 1 else {"anyOf": list(options)}
        return self._lark.json(write_json_grammar(schema, self._arguments.merger, self._shape.schema.whitespace))


def _no_value(name: str) -> InvalidParameter:
    return InvalidParameter(f"no text is valid under the JSON schema at #/properties/{name}, or none that can be read.")


def _check_name(name: str, is_safe: bool) -> None:
    if not is_safe:
        reason = f"the name {name[:100]!r} cannot be written in this model's format of calls; rename the parameter"
        raise unenforceable_error("properties", "#", reason)


def _either(lark: LarkBuilder, options: list[str]) -> str:
    if not options:
        raise InvalidParameter("no JSON value is valid under the schema.")
    return options[0] if len(options) == 1 else lark.rule(" | ".join(option.strip() or EMPTY for option in options))
