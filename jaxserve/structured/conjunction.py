"""Schemas that must hold together, taken apart: plain keywords here, the choices of `anyOf` there, `$ref` followed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from jaxserve.errors import InvalidParameter
from jaxserve.structured.keywords import DRAFTS_WHERE_REF_STANDS_ALONE, about_types, cannot_enforce, check_keywords

_APART = {"$ref", "allOf", "anyOf", "oneOf", "$defs", "definitions"}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A schema, where in the document it stands, and whether under an `$id` of its own."""

    schema: Any
    path: str = "#"
    is_embedded: bool = False

    def at(self, *steps: str | int) -> "Source":
        """A schema inside this one."""
        schema = self.schema
        for step in steps:
            schema = schema[step]
        embedded = self.is_embedded or (self.path != "#" and isinstance(self.schema.get("$id"), str))
        return Source(schema, "/".join(map(str, (self.path, *steps))), embedded)


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The options of one `anyOf` or `oneOf`."""

    options: tuple[Source, ...]

    @property
    def identities(self) -> frozenset[int]:
        return frozenset(id(option.schema) for option in self.options)


# What is valid under all of these schemas, as one schema; False: nothing is.
Merge = Callable[..., Any]


class Document:
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

    def plain(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords that are merged as they are; always the same dictionary for the same schema."""
        if id(schema) not in self._plain:  # the schema itself is kept, so that its id is not given to another
            kept = about_types(schema) if self.is_lenient else schema
            self._plain[id(schema)] = schema, {key: kept[key] for key in kept if key not in _APART}
        return self._plain[id(schema)][1]

    def without_values(self, part: Source) -> Source:
        """The same keywords but for `enum` and `const`; always the same dictionary for the same part."""
        kept = self._without_values.setdefault(
            id(part.schema),
            (part.schema, {key: value for key, value in part.schema.items() if key not in ("enum", "const")}),
        )
        return Source(kept[1], part.path, part.is_embedded)

    def target(self, source: Source) -> Source:
        """What `$ref` points at."""
        reference = source.schema["$ref"]
        if not isinstance(reference, str):
            raise InvalidParameter(f"'$ref' at {source.path} must be a string.")
        local = reference.removeprefix(self._base)
        if source.is_embedded or (local not in ("", "#") and not local.startswith("#/")):
            raise cannot_enforce("$ref", source.path, f"{reference[:200]!r} is not in this document (#/…)")
        target: Any = self.root
        is_embedded = False
        for step in unquote(local).split("/")[1:]:
            target = _step(target, step.replace("~1", "/").replace("~0", "~"))
            is_embedded |= isinstance(target, dict) and isinstance(target.get("$id"), str)
        if not isinstance(target, dict | bool):
            raise InvalidParameter(f"'$ref' at {source.path} points at no schema: {reference[:200]!r}.")
        return Source(target, local or "#", is_embedded)

    def has_target(self, source: Source) -> bool:
        """Whether `$ref` points at a schema in this document."""
        try:
            return self.target(source) is not None
        except InvalidParameter:
            return False


def _step(target: Any, name: str) -> Any:
    if isinstance(target, dict):
        return target.get(name)
    if isinstance(target, list) and name.isdecimal() and len(name) < 10 and int(name) < len(target):
        return target[int(name)]
    return None


class Conjunction:
    """All that is added to it, at once.

    parts     schemas of plain keywords, in the order in which they were met
    choices   one option of each must hold, too
    held      identities of schemas that hold already, because an option was chosen
    """

    def __init__(self, document: Document, held: frozenset[int] = frozenset()) -> None:
        self.parts: list[Source] = []
        self.choices: list[Choice] = []
        self.is_false = False
        self._document = document
        self._held = held
        self._seen: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """The identities of all schemas that hold here."""
        return self._held | self._seen

    @property
    def place(self) -> tuple[str, str]:
        """The keyword that says most here, and the schema that it stands in."""
        if self.choices:
            path, keyword, _ = self.choices[0].options[0].path.rsplit("/", 2)
            return keyword, path
        return "properties", self.parts[0].path if self.parts else "#"

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for conjunctions of the very same schemas."""
        options = [(-1, *(id(option.schema) for option in choice.options)) for choice in self.choices]
        return sum(options, tuple(id(part.schema) for part in self.parts))

    def add(self, source: Source | Choice, following: tuple[int, ...] = ()) -> None:
        """One more that must hold. following: the schemas that led here."""
        if isinstance(source, Choice):
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

    def _choose(self, choice: Choice, following: tuple[int, ...]) -> None:
        """One of the options must hold, which needs no saying where one does."""
        if not choice.identities.isdisjoint(following):
            if self._document.is_lenient:
                return
            raise InvalidParameter(f"'$ref' in {choice.options[0].path} leads back there without end.")
        if choice.identities.isdisjoint(self._held) and all(
            choice.identities != other.identities for other in self.choices
        ):
            self.choices.append(choice)

    def _take_apart(self, source: Source, following: tuple[int, ...]) -> None:
        schema = about_types(source.schema) if self._document.is_lenient else source.schema
        if self._document.is_lenient and "$ref" in schema and not self._document.has_target(source):
            schema = {key: schema[key] for key in schema if key != "$ref"}
        if "$ref" in schema and self._document.ref_stands_alone:
            self.add(self._document.target(source), following)
            return
        if not self._document.is_lenient:
            check_keywords(schema, source.path)
        self.is_false |= "not" in schema and schema["not"] is not False
        plain = self._document.plain(source.schema)
        place = "properties" if "properties" in plain else next(iter(plain), None)
        for keyword in schema:
            if keyword == place:
                self.parts.append(Source(plain, source.path, source.is_embedded))
            elif keyword == "$ref":
                self.add(self._document.target(source), following)
            elif keyword == "allOf":
                for index in range(len(schema["allOf"])):
                    self.add(source.at("allOf", index), following)
            elif keyword in ("anyOf", "oneOf"):
                options = tuple(source.at(keyword, index) for index in range(len(schema[keyword])))
                self.add(options[0] if len(options) == 1 else Choice(options), following)
