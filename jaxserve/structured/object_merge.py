"""Object keywords of several schemas that must all be valid, merged into closed objects.

llguidance can count properties only where all declared ones are required. Where some are optional, each set of
properties that is valid becomes a schema of its own, if there are few.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from jaxserve.structured.allof_merge import LocatedSchema, MergeFunction
from jaxserve.structured.formats import NARROW_PATTERNS
from jaxserve.structured.keyword_merge import translate_keyword_pattern
from jaxserve.structured.patterns import escape_pattern, implies, is_found
from jaxserve.structured.schema_keywords import unenforceable_error

MAX_SETS = 64
MAX_OPTIONAL = 240  # llguidance follows 4 Earley items for each property that may come next; PARSER_LIMITS has 1000
_STRING = {"type": "string"}


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys that an object may have.

    properties   name → merged schema; False: the key is not allowed
    required     names of properties
    patterns     pattern of keys → merged schema
    others       merged schema of all other keys
    """

    properties: dict[str, Any]
    required: tuple[str, ...]
    patterns: dict[str, Any]
    others: Any

    @property
    def is_open(self) -> bool:
        """Whether undeclared keys are allowed."""
        return self.others is not False or any(schema is not False for schema in self.patterns.values())

    @property
    def optional(self) -> tuple[str, ...]:
        """The properties that are allowed and not required."""
        possible = (name for name, schema in self.properties.items() if schema is not False)
        return tuple(name for name in possible if name not in self.required)

    def keywords(self, least: int = 0, most: int | None = None) -> dict[str, Any]:
        """Return the keys as keywords of a schema, with limits on the number of properties."""
        keywords: dict[str, Any] = {}
        if self.properties:
            keywords["properties"] = self.properties
        if self.required:
            keywords["required"] = list(self.required)
        if self.patterns:
            keywords["patternProperties"] = self.patterns
        if self.others != {}:
            keywords["additionalProperties"] = self.others
        if least:
            keywords["minProperties"] = least
        if most is not None:
            keywords["maxProperties"] = most
        return keywords

    def having(self, names: Sequence[str]) -> "_Keys":
        """Return the same keys with some optional ones required."""
        return replace(self, required=(*self.required, *names))

    def without(self, names: Sequence[str]) -> "_Keys":
        """Return the same keys with some of them not allowed."""
        return replace(self, properties=self.properties | dict.fromkeys(names, False))


def merge_objects(
    merge: MergeFunction, parts: Sequence[LocatedSchema], is_closed: bool | None, *, is_limited: bool = True
) -> list[dict[str, Any]]:
    """Merge the keywords for objects. One of the returned sets of keywords must hold; none: no object is valid.

    is_closed    whether objects that declare nothing have no keys; None: undeclared keys are always allowed
    is_limited   refuse more optional properties than llguidance can follow

    Raises InvalidParameter if keywords cannot be enforced together.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.schema.get("properties", ())))
    required = tuple(dict.fromkeys(name for part in parts for name in part.schema.get("required", ())))
    names += [name for name in required if name not in names]
    keys = _Keys(
        {name: merge(*_schemas_for(name, parts)) for name in names},
        required,
        {
            translate_keyword_pattern(pattern, "patternProperties", path): merge(*_schemas_for_pattern(pattern, parts))
            for pattern, path in _patterns(parts).items()
        },
        _schema_for_others(merge, parts, is_closed),
    )
    keys = _apply_property_names(merge, keys, parts)
    if any(keys.properties[name] is False for name in required):
        return []
    if is_limited and len(keys.optional) > MAX_OPTIONAL:
        path = next(part.path for part in parts if "properties" in part.schema)
        raise unenforceable_error("properties", path, f"more than {MAX_OPTIONAL} of them are optional")
    return _apply_counts(keys, parts)


def has_mixed_keys(schema: dict[str, Any]) -> bool:
    """Whether a merged schema has different schemas for different keys.

    Then a key must be recognised by its characters, and must not be written with escapes.
    """
    others = schema.get("additionalProperties", {}) is not False
    return bool(schema.get("properties")) + bool(schema.get("patternProperties")) + others > 1


def _schemas_for(name: str, parts: Sequence[LocatedSchema]) -> list[LocatedSchema]:
    """Return all schemas that apply to the value under a name."""
    schemas = []
    for part in parts:
        declared = [part.subschema("properties", name)] if name in part.schema.get("properties", ()) else []
        for pattern in part.schema.get("patternProperties", ()):
            if is_found(translate_keyword_pattern(pattern, "patternProperties", part.path), name):
                declared.append(part.subschema("patternProperties", pattern))
        schemas += declared or _additional_schema(part)
    return schemas


def _patterns(parts: Sequence[LocatedSchema]) -> dict[str, str]:
    """Return each pattern of keys with the path of a schema that has it."""
    return {pattern: part.path for part in parts for pattern in part.schema.get("patternProperties", ())}


def _schemas_for_pattern(pattern: str, parts: Sequence[LocatedSchema]) -> list[LocatedSchema]:
    schemas = []
    for part in parts:
        has_pattern = pattern in part.schema.get("patternProperties", ())
        schemas += [part.subschema("patternProperties", pattern)] if has_pattern else _additional_schema(part)
    return schemas


def _additional_schema(part: LocatedSchema) -> list[LocatedSchema]:
    """Return the schema of `additionalProperties`, if there is one."""
    return [part.subschema("additionalProperties")] if "additionalProperties" in part.schema else []


def _schema_for_others(merge: MergeFunction, parts: Sequence[LocatedSchema], is_closed: bool | None) -> Any:
    """Return the merged schema of undeclared keys. By default objects that declare some keys do not allow others."""
    schemas = [schema for part in parts for schema in _additional_schema(part)]
    if schemas:
        return merge(*schemas)
    has_declared = is_closed is not None and any(
        "properties" in part.schema or "patternProperties" in part.schema for part in parts
    )
    return False if is_closed or has_declared else {}


def _apply_property_names(merge: MergeFunction, keys: _Keys, parts: Sequence[LocatedSchema]) -> _Keys:
    """Return the keys that `propertyNames` allows."""
    limiting = [part for part in parts if "propertyNames" in part.schema]
    if not limiting:
        return keys
    names = merge(*(part.subschema("propertyNames") for part in limiting), LocatedSchema(_STRING))
    if names is False:
        return _Keys(dict.fromkeys(keys.properties, False), keys.required, {}, False)
    names = {key: names[key] for key in names if key != "type"}
    if not names:
        return keys
    pattern = _to_one_pattern(names)
    if pattern is None or keys.patterns:
        raise unenforceable_error(
            "propertyNames", limiting[0].path, "only an enum, or one of a pattern, a format and lengths, can"
        )
    keys = keys.without([name for name in keys.properties if not is_found(pattern, name)])
    return keys if keys.others is False else replace(keys, patterns={pattern: keys.others}, others=False)


def _to_one_pattern(names: dict[str, Any]) -> str | None:
    """Return one pattern for a merged schema of names, if there is one: llguidance takes no more for a key.

    Of several conditions it is the one that implies the others, or a pattern of NARROW_PATTERNS that implies all.
    """
    if names.keys() == {"enum"}:
        return f"^(?:{'|'.join(map(escape_pattern, names['enum']))})$"
    if not names.keys() <= {"minLength", "maxLength", "pattern", "allOf"}:
        return None
    conditions = [rule["pattern"] for rule in (names, *names.get("allOf", ())) if "pattern" in rule]
    least, most = names.get("minLength", 0), names.get("maxLength", "")
    lengths = [f"^(?s:.){{{least},{most}}}$"] if least or most != "" else []
    if len(conditions) + len(lengths) == 1:
        return (conditions + lengths)[0]
    for pattern in conditions:
        if all(implies(pattern, other) for other in conditions + lengths):
            return pattern
    for pattern, shortest, longest in NARROW_PATTERNS:
        has_length = shortest >= least and (most == "" or longest <= most)
        if has_length and all(implies(pattern, other) for other in conditions):
            return pattern
    return None


def _apply_counts(keys: _Keys, parts: Sequence[LocatedSchema]) -> list[dict[str, Any]]:
    """Return the keywords of the keys, with as many properties as `minProperties` and `maxProperties` allow."""
    least = max((int(part.schema.get("minProperties", 0)) for part in parts), default=0)
    limits = [int(part.schema["maxProperties"]) for part in parts if "maxProperties" in part.schema]
    num_required, num_possible = len(keys.required), len(keys.required) + len(keys.optional)
    most = min(limits, default=None)
    if most is not None and not keys.is_open and most >= num_possible:
        most = None
    if (most is not None and most < max(num_required, least)) or (not keys.is_open and least > num_possible):
        return []
    if least <= num_required and most is None:
        return [keys.keywords()]
    keyword = "minProperties" if least > num_required else "maxProperties"
    path = next(part.path for part in parts if keyword in part.schema)
    if keys.is_open:
        sets = [(names, True) for names in _subsets(keys.optional, 0, None if most is None else most - num_required)]
    elif most is None:
        sets = [(names, False) for names in _subsets(keys.optional, least - num_required, least - num_required)]
    else:
        sets = [(names, True) for names in _subsets(keys.optional, max(least - num_required, 0), most - num_required)]
    options = []
    for names, is_exact in sets:  # is_exact: no other optional properties than these
        if len(options) >= MAX_SETS:
            raise unenforceable_error(keyword, path, f"more than {MAX_SETS} sets of optional properties would do")
        others = [name for name in keys.optional if name not in names]
        chosen = keys.having(names).without(others) if is_exact else keys.having(names)
        if not keys.is_open:
            options.append(chosen.keywords())
        elif least - len(chosen.required) > 1:
            raise unenforceable_error(keyword, path, "among several undeclared keys, one could be there twice")
        else:
            options.append(chosen.keywords(least, most))
    return options


def _subsets(names: Sequence[str], least: int, most: int | None) -> Iterator[tuple[str, ...]]:
    """Yield the subsets of `least` to `most` names, the smallest first."""
    for size in range(least, (len(names) if most is None else min(most, len(names))) + 1):
        yield from combinations(names, size)
