"""Arguments of calls that are written one by one, as tags or as keywords → expressions in Lark.

parameter_types.py decides what the text of a value means; a grammar allows the texts whose value is then valid.
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
from jaxserve.structured.uninhabited import no_valid_value

BLANKS = r"/[ \t\r\n]{0,8}/"


def write_tagged_arguments(expr: TaggedArguments, lark: LarkBuilder) -> str:
    """Return an expression for arguments that are written as tags.

    Raises InvalidParameter if something in the schema cannot be enforced, or a name cannot be written.
    """
    parameters = _parse_enforceable(expr.schema)
    writer = _TaggedWriter(expr, lark, parameters)
    return _either(lark, [writer.write(members) for members in parameters.alternatives])


def write_keyword_arguments(expr: KeywordArguments, lark: LarkBuilder) -> str:
    """Return an expression for arguments that are written as keywords.

    Raises InvalidParameter if something in the schema cannot be enforced, or a name cannot be written.
    """
    parameters = _parse_enforceable(expr.schema)
    merger = parameters.merger

    def write_json(schema: Any, path: str) -> str:
        return lark.json(write_json_grammar(schema, merger, expr.schema.whitespace))

    quoted = None if expr.quote is None else QuotedLiteralWriter(lark, merger.definitions, expr.quote, write_json)
    write_value: Callable[[Any, str], str | None] = write_json if quoted is None else quoted.write

    def write_alternative(members: ObjectMembers) -> str:
        declared = []
        for name, schema in members.declared.items():
            value = None if schema is False else write_value(schema, f"#/properties/{name}")
            if value is not None:
                matches = re.fullmatch(expr.name_pattern, name) is not None
                _check_name(name, matches and not lark.has_special_token(name))
                declared.append((f"{lark.literal(name + expr.equals)} {value}", name in members.required))
            elif name in members.required:
                raise _no_value_error(name)
        others = [
            f"{lark.terminal(names)} {lark.literal(expr.equals)} {value}"
            for names, schema in undeclared_names(parameters.alternatives, members, expr.name_pattern)
            if (value := write_value(schema, "#/additionalProperties")) is not None
        ]
        other = _either(lark, others) if others else None
        return write_members(lark, declared, other, members.num_undeclared, lark.literal(expr.comma))

    return _either(lark, [write_alternative(members) for members in parameters.alternatives])


def _parse_enforceable(schema: JsonSchema) -> ParameterSchema:
    parameters = parse_parameters(schema)
    check_branching(parameters.merged, parameters.merger)
    return parameters


class _TaggedWriter:
    """Writes the arguments of one function as tags."""

    def __init__(self, expr: TaggedArguments, lark: LarkBuilder, parameters: ParameterSchema) -> None:
        self._expr, self._lark, self._parameters = expr, lark, parameters
        self._is_typed = expr.after_name_json not in (None, expr.after_name)
        self._blanks = lark.terminal(BLANKS) if expr.has_blanks else ""

    def write(self, members: ObjectMembers) -> str:
        """Return an expression for the members of one kind of object."""
        declared = []
        for name, schema in members.declared.items():
            if schema is False:
                continue
            self._check_name(name)
            item = self._member(self._lark.literal(name), schema, self._parameters.parameter_type(name), name)
            if item is not None:
                declared.append((item, name in members.required))
            elif name in members.required:
                raise _no_value_error(name)
        parsed_as, others = self._parameters.undeclared_type, []
        for names, schema in undeclared_names(self._parameters.alternatives, members, self._expr.name_pattern):
            # Without other kinds of objects, the parser knows from the name which schema applies.
            is_only_kind = len(self._parameters.alternatives) == 1
            own = self._parameters.type_from_schema(schema) if is_only_kind else parsed_as
            others.append(self._member(self._lark.terminal(names), schema, own, "…"))
        others = [other for other in others if other is not None]
        other = _either(self._lark, others) if others else None
        return write_members(self._lark, declared, other, members.num_undeclared)

    def _check_name(self, name: str) -> None:
        ends = ("\n", *self._expr.stops, self._expr.name_end or self._expr.after_name.strip())
        is_safe = name == name.strip() and name != "" and not any(end in name for end in ends)
        _check_name(name, is_safe and not self._lark.has_special_token(name))

    def _member(self, name: str, schema: Any, parsed_as: ParameterType, place: str) -> str | None:
        """Return an expression for one argument; None: it has no valid value.

        name        expression of its name
        parsed_as   the type by which its text will be parsed
        place       its name in errors
        """
        expr, lark = self._expr, self._lark
        own, path = self._parameters.type_from_schema(schema), f"#/properties/{place}"
        before = f"{lark.literal(expr.before_name)} {name}"
        options, rest = [], own.others
        if own.can_be_string:
            parsed_as = own if self._is_typed else parsed_as
            text, rest = write_tagged_text(own, parsed_as, expr, lark, path, is_typed=self._is_typed)
            if text is not None:
                options.append(f"{before} {lark.literal(expr.after_name)} {text} {self._blanks}")
        if rest:
            after_name = expr.after_name if expr.after_name_json is None else expr.after_name_json
            blanks = "" if own.can_be_string and not self._is_typed else self._blanks
            json = self._json(rest)
            after = f"{lark.literal(expr.after_value)} {self._blanks}"
            options.append(f"{before} {lark.literal(after_name)} {blanks} {json} {blanks} {after}")
        return _either(lark, options) if options else None

    def _json(self, options: tuple[Mapping[str, Any], ...]) -> str:
        schema = dict(options[0]) if len(options) == 1 else {"anyOf": list(options)}
        return self._lark.json(write_json_grammar(schema, self._parameters.merger, self._expr.schema.whitespace))


def _no_value_error(name: str) -> InvalidParameter:
    return InvalidParameter(f"no text is valid under the JSON schema at #/properties/{name}, or none that can be read.")


def _check_name(name: str, is_safe: bool) -> None:
    if not is_safe:
        reason = f"the name {name[:100]!r} cannot be written in this model's format of calls; rename the parameter"
        raise unenforceable_error("properties", "#", reason)


def _either(lark: LarkBuilder, options: list[str]) -> str:
    if not options:
        raise no_valid_value()
    return options[0] if len(options) == 1 else lark.rule(" | ".join(option.strip() or EMPTY for option in options))
