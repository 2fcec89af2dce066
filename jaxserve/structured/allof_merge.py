"""Schemas that must all be valid, as under `allOf`: their plain keywords, and the options of their `anyOf`s."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from jaxserve.errors import InvalidParameter
from jaxserve.structured.schema_keywords import (
    DRAFTS_WHERE_REF_STANDS_ALONE,
    check_keywords,
    keep_type_keywords,
    unenforceable_error,
)

# Keywords that AllOf takes apart; all others are plain.
_COMPOSING = {"$ref", "allOf", "anyOf", "oneOf", "$defs", "definitions"}


@dataclass(frozen=True, slots=True, eq=False)
class LocatedSchema:
    """A schema within a document.

    path          where it stands, as a JSON pointer
    is_embedded   it stands under an `$id` of its own, so that its references are not resolved
    """

    schema: Any
    path: str = "#"
    is_embedded: bool = False

    def subschema(self, *steps: str | int) -> "LocatedSchema":
        """Return a schema inside this one, by keywords and indices."""
        schema = self.schema
        for step in steps:
            schema = schema[step]
        is_embedded = self.is_embedded or (self.path != "#" and isinstance(self.schema.get("$id"), str))
        return LocatedSchema(schema, "/".join(map(str, (self.path, *steps))), is_embedded)


@dataclass(frozen=True, slots=True, eq=False)
class AnyOf:
    """The options of one `anyOf` or `oneOf`."""

    options: tuple[LocatedSchema, ...]

    @property
    def identities(self) -> frozenset[int]:
        """The identities of the options' schemas."""
        return frozenset(id(option.schema) for option in self.options)


# SchemaMerger.merge: what is valid under all of some schemas, as one schema; False: nothing is.
MergeFunction = Callable[..., Any]


class SchemaDocument:
    """The document that all schemas of one request's schema share.

    root         the whole schema
    is_lenient   only keywords about types count, and nothing is refused

    Schemas are told apart by identity, so each method returns the same dictionary for the same schema.
    """

    def __init__(self, root: Any, is_lenient: bool = False) -> None:
        self.root = root
        self.is_lenient = is_lenient
        root_object = root if isinstance(root, dict) else {}
        dialect = str(root_object.get("$schema"))
        self.ref_stands_alone = any(draft in dialect for draft in DRAFTS_WHERE_REF_STANDS_ALONE)
        self._base = str(root_object.get("$id", root_object.get("id", ""))).removesuffix("#")
        self._plain: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._without_enums: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def plain_keywords(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords that are merged as they are, without those that refer to or combine schemas."""
        if id(schema) not in self._plain:  # the schema is kept beside it, so that its id stays in use
            keywords = keep_type_keywords(schema) if self.is_lenient else schema
            self._plain[id(schema)] = schema, {key: keywords[key] for key in keywords if key not in _COMPOSING}
        return self._plain[id(schema)][1]

    def without_enum_and_const(self, part: LocatedSchema) -> LocatedSchema:
        """Return the part without the keywords `enum` and `const`."""
        _, schema = self._without_enums.setdefault(
            id(part.schema),
            (part.schema, {key: value for key, value in part.schema.items() if key not in ("enum", "const")}),
        )
        return LocatedSchema(schema, part.path, part.is_embedded)

    def resolve_ref(self, source: LocatedSchema) -> LocatedSchema:
        """Return the schema that the `$ref` of a schema points at.

        Raises InvalidParameter if it is not a string, or points outside of the document or at no schema.
        """
        reference = source.schema["$ref"]
        if not isinstance(reference, str):
            raise InvalidParameter(f"'$ref' at {source.path} must be a string.")
        local = reference.removeprefix(self._base)
        if source.is_embedded or (local not in ("", "#") and not local.startswith("#/")):
            raise unenforceable_error("$ref", source.path, f"{reference[:200]!r} is not in this document (#/…)")
        target: Any = self.root
        is_embedded = False
        for step in unquote(local).split("/")[1:]:
            target = _get_child(target, step.replace("~1", "/").replace("~0", "~"))
            is_embedded |= isinstance(target, dict) and isinstance(target.get("$id"), str)
        if not isinstance(target, dict | bool):
            raise InvalidParameter(f"'$ref' at {source.path} points at no schema: {reference[:200]!r}.")
        return LocatedSchema(target, local or "#", is_embedded)

    def can_resolve_ref(self, source: LocatedSchema) -> bool:
        """Whether the `$ref` of a schema points at a schema in this document."""
        try:
            return self.resolve_ref(source) is not None
        except InvalidParameter:
            return False


def _get_child(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isdecimal() and len(name) < 10 and int(name) < len(value):
        return value[int(name)]
    return None


class AllOf:
    """A conjunction of schemas, all of which must be valid.

    document      the document that they stand in
    holding_ids   identities of schemas that are valid already, because an option was chosen

    parts         the schemas' plain keywords, in the order in which they were met
    any_ofs       one option of each must be valid as well
    is_false      no value is valid
    """

    def __init__(self, document: SchemaDocument, holding_ids: frozenset[int] = frozenset()) -> None:
        self.parts: list[LocatedSchema] = []
        self.any_ofs: list[AnyOf] = []
        self.is_false = False
        self._document = document
        self._holding_ids = holding_ids
        self._added_ids: set[int] = set()

    @property
    def holding_ids(self) -> frozenset[int]:
        """The identities of all schemas that are valid here."""
        return self._holding_ids | self._added_ids

    @property
    def location(self) -> tuple[str, str]:
        """A keyword by which an error can name this conjunction, and the path of the schema that it stands in."""
        if self.any_ofs:
            path, keyword, _ = self.any_ofs[0].options[0].path.rsplit("/", 2)
            return keyword, path
        return "properties", self.parts[0].path if self.parts else "#"

    @property
    def key(self) -> tuple[int, ...]:
        """A key that is equal for conjunctions of the same schemas."""
        options = [(-1, *(id(option.schema) for option in any_of.options)) for any_of in self.any_ofs]
        return sum(options, tuple(id(part.schema) for part in self.parts))

    def add(self, schema: LocatedSchema | AnyOf, ancestors: tuple[int, ...] = ()) -> None:
        """Add a schema that must be valid.

        ancestors   identities of the schemas whose `allOf` or `$ref` led here

        Raises InvalidParameter if the schema refers to itself without end or holds what cannot be enforced.
        """
        if isinstance(schema, AnyOf):
            self._add_any_of(schema, ancestors)
        elif isinstance(schema.schema, bool):
            self.is_false |= not schema.schema
        elif id(schema.schema) in ancestors:
            if self._document.is_lenient:
                return
            raise InvalidParameter(f"'$ref' at {schema.path} refers to itself without end.")
        elif id(schema.schema) not in self._added_ids:
            self._added_ids.add(id(schema.schema))
            self._take_apart(schema, (*ancestors, id(schema.schema)))

    def _add_any_of(self, any_of: AnyOf, ancestors: tuple[int, ...]) -> None:
        """Add options, unless one of them is valid already or the same options were added before."""
        if not any_of.identities.isdisjoint(ancestors):
            if self._document.is_lenient:
                return
            raise InvalidParameter(f"'$ref' in {any_of.options[0].path} leads back there without end.")
        is_known = any(any_of.identities == other.identities for other in self.any_ofs)
        if any_of.identities.isdisjoint(self._holding_ids) and not is_known:
            self.any_ofs.append(any_of)

    def _take_apart(self, source: LocatedSchema, ancestors: tuple[int, ...]) -> None:
        schema = keep_type_keywords(source.schema) if self._document.is_lenient else source.schema
        if self._document.is_lenient and "$ref" in schema and not self._document.can_resolve_ref(source):
            schema = {key: schema[key] for key in schema if key != "$ref"}
        if "$ref" in schema and self._document.ref_stands_alone:
            self.add(self._document.resolve_ref(source), ancestors)
            return
        if not self._document.is_lenient:
            check_keywords(schema, source.path)
        self.is_false |= "not" in schema and schema["not"] is not False
        plain = self._document.plain_keywords(source.schema)
        # The plain keywords are added once, at the place of `properties`, so that properties keep the document's order.
        first_plain = "properties" if "properties" in plain else next(iter(plain), None)
        for keyword in schema:
            if keyword == first_plain:
                self.parts.append(LocatedSchema(plain, source.path, source.is_embedded))
            elif keyword == "$ref":
                self.add(self._document.resolve_ref(source), ancestors)
            elif keyword == "allOf":
                for index in range(len(schema["allOf"])):
                    self.add(source.subschema("allOf", index), ancestors)
            elif keyword in ("anyOf", "oneOf"):
                options = tuple(source.subschema(keyword, index) for index in range(len(schema[keyword])))
                self.add(options[0] if len(options) == 1 else AnyOf(options), ancestors)
