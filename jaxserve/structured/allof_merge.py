"""Schemas that must hold together, taken apart: plain keywords here, the choices of `anyOf` there, `$ref` followed."""

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

_APART = {"$ref", "allOf", "anyOf", "oneOf", "$defs", "definitions"}


@dataclass(frozen=True, slots=True, eq=False)
class LocatedSchema:
    """A schema, where in the document it stands, and whether under an `$id` of its own."""

    schema: Any
    path: str = "#"
    is_embedded: bool = False

    def subschema(self, *steps: str | int) -> "LocatedSchema":
        """A schema inside this one."""
        schema = self.schema
        for step in steps:
            schema = schema[step]
        embedded = self.is_embedded or (self.path != "#" and isinstance(self.schema.get("$id"), str))
        return LocatedSchema(schema, "/".join(map(str, (self.path, *steps))), embedded)


@dataclass(frozen=True, slots=True, eq=False)
class AnyOf:
    """The options of one `anyOf` or `oneOf`."""

    options: tuple[LocatedSchema, ...]

    @property
    def identities(self) -> frozenset[int]:
        return frozenset(id(option.schema) for option in self.options)


# What is valid under all of these schemas, as one schema; False: nothing is.
MergeFunction = Callable[..., Any]


class SchemaDocument:
    """What all schemas of one text share: its root, and the plain keywords of each schema, always the same ones.

    is_lenient   of each schema only what it says about types counts, and nothing is refused
    """

    def __init__(self, root: Any, is_lenient: bool = False) -> None:
        self.root = root
        self.is_lenient = is_lenient
        head = root if isinstance(root, dict) else {}
        dialect = str(head.get("$schema"))
        self.ref_stands_alone = any(draft in dialect for draft in DRAFTS_WHERE_REF_STANDS_ALONE)
        self._base = str(head.get("$id", head.get("id", ""))).removesuffix("#")
        self._plain: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._without_values: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def plain_keywords(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords that are merged as they are; always the same dictionary for the same schema."""
        if id(schema) not in self._plain:  # the schema itself is kept, so that its id is not given to another
            kept = keep_type_keywords(schema) if self.is_lenient else schema
            self._plain[id(schema)] = schema, {key: kept[key] for key in kept if key not in _APART}
        return self._plain[id(schema)][1]

    def without_enum_and_const(self, part: LocatedSchema) -> LocatedSchema:
        """The same keywords but for `enum` and `const`; always the same dictionary for the same part."""
        kept = self._without_values.setdefault(
            id(part.schema),
            (part.schema, {key: value for key, value in part.schema.items() if key not in ("enum", "const")}),
        )
        return LocatedSchema(kept[1], part.path, part.is_embedded)

    def resolve_ref(self, source: LocatedSchema) -> LocatedSchema:
        """What `$ref` points at."""
        reference = source.schema["$ref"]
        if not isinstance(reference, str):
            raise InvalidParameter(f"'$ref' at {source.path} must be a string.")
        local = reference.removeprefix(self._base)
        if source.is_embedded or (local not in ("", "#") and not local.startswith("#/")):
            raise unenforceable_error("$ref", source.path, f"{reference[:200]!r} is not in this document (#/…)")
        target: Any = self.root
        is_embedded = False
        for step in unquote(local).split("/")[1:]:
            target = _step(target, step.replace("~1", "/").replace("~0", "~"))
            is_embedded |= isinstance(target, dict) and isinstance(target.get("$id"), str)
        if not isinstance(target, dict | bool):
            raise InvalidParameter(f"'$ref' at {source.path} points at no schema: {reference[:200]!r}.")
        return LocatedSchema(target, local or "#", is_embedded)

    def can_resolve_ref(self, source: LocatedSchema) -> bool:
        """Whether `$ref` points at a schema in this document."""
        try:
            return self.resolve_ref(source) is not None
        except InvalidParameter:
            return False


def _step(target: Any, name: str) -> Any:
    if isinstance(target, dict):
        return target.get(name)
    if isinstance(target, list) and name.isdecimal() and len(name) < 10 and int(name) < len(target):
        return target[int(name)]
    return None


class AllOf:
    """All that is added to it, at once.

    parts     schemas of plain keywords, in the order in which they were met
    choices   one option of each must hold, too
    held      identities of schemas that hold already, because an option was chosen
    """

    def __init__(self, document: SchemaDocument, holding_ids: frozenset[int] = frozenset()) -> None:
        self.parts: list[LocatedSchema] = []
        self.any_ofs: list[AnyOf] = []
        self.is_false = False
        self._document = document
        self._held = holding_ids
        self._seen: set[int] = set()

    @property
    def holding_ids(self) -> frozenset[int]:
        """The identities of all schemas that hold here."""
        return self._held | self._seen

    @property
    def location(self) -> tuple[str, str]:
        """The keyword that says most here, and the schema that it stands in."""
        if self.any_ofs:
            path, keyword, _ = self.any_ofs[0].options[0].path.rsplit("/", 2)
            return keyword, path
        return "properties", self.parts[0].path if self.parts else "#"

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for conjunctions of the very same schemas."""
        options = [(-1, *(id(option.schema) for option in choice.options)) for choice in self.any_ofs]
        return sum(options, tuple(id(part.schema) for part in self.parts))

    def add(self, source: LocatedSchema | AnyOf, following: tuple[int, ...] = ()) -> None:
        """One more that must hold. following: the schemas that led here."""
        if isinstance(source, AnyOf):
            self._choose(source, following)
        elif isinstance(source.schema, bool):
            self.is_false |= not source.schema
        elif id(source.schema) in following:
            if self._document.is_lenient:
                return
            raise InvalidParameter(f"'$ref' at {source.path} refers to itself without end.")
        elif id(source.schema) not in self._seen:
            self._seen.add(id(source.schema))
            self._take_apart(source, (*following, id(source.schema)))

    def _choose(self, choice: AnyOf, following: tuple[int, ...]) -> None:
        """One of the options must hold, which needs no saying where one does."""
        if not choice.identities.isdisjoint(following):
            if self._document.is_lenient:
                return
            raise InvalidParameter(f"'$ref' in {choice.options[0].path} leads back there without end.")
        if choice.identities.isdisjoint(self._held) and all(
            choice.identities != other.identities for other in self.any_ofs
        ):
            self.any_ofs.append(choice)

    def _take_apart(self, source: LocatedSchema, following: tuple[int, ...]) -> None:
        schema = keep_type_keywords(source.schema) if self._document.is_lenient else source.schema
        if self._document.is_lenient and "$ref" in schema and not self._document.can_resolve_ref(source):
            schema = {key: schema[key] for key in schema if key != "$ref"}
        if "$ref" in schema and self._document.ref_stands_alone:
            self.add(self._document.resolve_ref(source), following)
            return
        if not self._document.is_lenient:
            check_keywords(schema, source.path)
        self.is_false |= "not" in schema and schema["not"] is not False
        plain = self._document.plain_keywords(source.schema)
        place = "properties" if "properties" in plain else next(iter(plain), None)
        for keyword in schema:
            if keyword == place:
                self.parts.append(LocatedSchema(plain, source.path, source.is_embedded))
            elif keyword == "$ref":
                self.add(self._document.resolve_ref(source), following)
            elif keyword == "allOf":
                for index in range(len(schema["allOf"])):
                    self.add(source.subschema("allOf", index), following)
            elif keyword in ("anyOf", "oneOf"):
                options = tuple(source.subschema(keyword, index) for index in range(len(schema[keyword])))
                self.add(options[0] if len(options) == 1 else AnyOf(options), following)
