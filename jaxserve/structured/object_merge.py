"""Object keywords of several schemas, merged into closed objects whose properties are all declared.

llguidance can count properties only where all declared ones are required. Where some are optional, the sets of
properties that there may be are written down one by one, if they are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from jaxserve.structured.allof_merge import LocatedSchema, MergeFunction
from jaxserve.structured.formats import NARROW_PATTERNS
from jaxserve.structured.keyword_merge import translate_keyword_pattern
from jaxserve.structured.patterns import escape_pattern, implies, is_found
from jaxserve.structured.schema_keywords import unenforceable_error

MAX_SETS = 64
MAX_OPTIONAL = 240  # llguidance follows 4 items for each that may come next, and PARSER_LIMITS has 1000
_STRING = {"type": "string"}


@dataclass(frozen=True, slots=True)
class _Keys:
    """What keys an object may have. properties: merged; patterns: pattern → merged; others: for all other keys."""

    properties: dict[str, Any]
    required: tuple[str, ...]
    patterns: dict[str, Any]
    others: Any

    @property
    def is_open(self) -> bool:
        return self.others is not False or any(schema is not False for schema in self.patterns.values())

    @property
    def optional(self) -> tuple[str, ...]:
        """Declared names that there may be, and need not."""
        possible = (name for name, schema in self.properties.items() if schema is not False)
        return tuple(name for name in possible if name not in self.required)

    def keywords(self, least: int = 0, most: int | None = None) -> dict[str, Any]:
        """Written as a schema."""
        found: dict[str, Any] = {}
        if self.properties:
            found["properties"] = self.properties
        if self.required:
            found["required"] = list(self.required)
        if self.patterns:
            found["patternProperties"] = self.patterns
        if self.others != {}:
            found["additionalProperties"] = self.others
        if least:
            found["minProperties"] = least
        if most is not None:
            found["maxProperties"] = most
        return found

    def having(self, names: Sequence[str]) -> "_Keys":
        """With these optional names, required from now on."""
        return replace(self, required=(*self.required, *names))

    def without(self, names: Sequence[str]) -> "_Keys":
        return replace(self, properties=self.properties | dict.fromkeys(names, False))


def merge_objects(
    merge: MergeFunction, parts: Sequence[LocatedSchema], closed: bool | None, *, is_limited: bool = True
) -> list[dict[str, Any]]:
    """Keywords for objects, one set of which must hold; none: there is no such object.

    closed: objects that declare nothing accept no keys either; None: undeclared keys are never closed out.
    is_limited: as many properties may be optional as llguidance can follow.
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
        _schema_for_others(merge, parts, closed),
    )
    keys = _with_names(merge, keys, parts)
    if any(keys.properties[name] is False for name in required):
        return []
    if is_limited and len(keys.optional) > MAX_OPTIONAL:
        path = next(part.path for part in parts if "properties" in part.schema)
        raise unenforceable_error("properties", path, f"more than {MAX_OPTIONAL} of them are optional")
    return _counted(keys, parts)


def has_mixed_keys(schema: dict[str, Any]) -> bool:
    """Whether different things are said of different keys, so that a key must be known by its spelling."""
    others = schema.get("additionalProperties", {}) is not False
    return bool(schema.get("properties")) + bool(schema.get("patternProperties")) + others > 1


def _schemas_for(name: str, parts: Sequence[LocatedSchema]) -> list[LocatedSchema]:
    """All that is said of the value under this name."""
    found = []
    for part in parts:
        said = [part.subschema("properties", name)] if name in part.schema.get("properties", ()) else []
        for pattern in part.schema.get("patternProperties", ()):
            if is_found(translate_keyword_pattern(pattern, "patternProperties", part.path), name):
                said.append(part.subschema("patternProperties", pattern))
        found += said or _said_of_others(part)
    return found


def _patterns(parts: Sequence[LocatedSchema]) -> dict[str, str]:
    """Each pattern, and where it is said."""
    return {pattern: part.path for part in parts for pattern in part.schema.get("patternProperties", ())}


def _schemas_for_pattern(pattern: str, parts: Sequence[LocatedSchema]) -> list[LocatedSchema]:
    found = []
    for part in parts:
        has = pattern in part.schema.get("patternProperties", ())
        found += [part.subschema("patternProperties", pattern)] if has else _said_of_others(part)
    return found


def _said_of_others(part: LocatedSchema) -> list[LocatedSchema]:
    return [part.subschema("additionalProperties")] if "additionalProperties" in part.schema else []


def _schema_for_others(merge: MergeFunction, parts: Sequence[LocatedSchema], closed: bool | None) -> Any:
    """Of keys that are declared nowhere. Where nothing is said of them they are closed out of what declares some."""
    said = [source for part in parts for source in _said_of_others(part)]
    if said:
        return merge(*said)
    declares = closed is not None and any(
        "properties" in part.schema or "patternProperties" in part.schema for part in parts
    )
    return False if closed or declares else {}


def _with_names(merge: MergeFunction, keys: _Keys, parts: Sequence[LocatedSchema]) -> _Keys:
    """The keys that `propertyNames` leaves."""
    said = [part for part in parts if "propertyNames" in part.schema]
    if not said:
        return keys
    names = merge(*(part.subschema("propertyNames") for part in said), LocatedSchema(_STRING))
    if names is False:
        return _Keys(dict.fromkeys(keys.properties, False), keys.required, {}, False)
    names = {key: names[key] for key in names if key != "type"}
    if not names:
        return keys
    pattern = _pattern_of(names)
    if pattern is None or keys.patterns:
        raise unenforceable_error(
            "propertyNames", said[0].path, "only an enum, or one of a pattern, a format and lengths, can"
        )
    bad = [name for name in keys.properties if not is_found(pattern, name)]
    keys = keys.without(bad)
    return keys if keys.others is False else replace(keys, patterns={pattern: keys.others}, others=False)


def _pattern_of(names: dict[str, Any]) -> str | None:
    """One pattern for all that is said of names, if there is one: llguidance takes no more for a key.

    Of several conditions that is the one that implies the others, or a pattern in NARROW_PATTERNS that implies all.
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


def _counted(keys: _Keys, parts: Sequence[LocatedSchema]) -> list[dict[str, Any]]:
    """The same keys, as many as `minProperties` and `maxProperties` say."""
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
    found = []
    for names, is_exact in sets:
        if len(found) >= MAX_SETS:
            raise unenforceable_error(keyword, path, f"more than {MAX_SETS} sets of optional properties would do")
        others = [name for name in keys.optional if name not in names]
        chosen = keys.having(names).without(others) if is_exact else keys.having(names)
        if not keys.is_open:
            found.append(chosen.keywords())
        elif least - len(chosen.required) > 1:
            raise unenforceable_error(keyword, path, "among several undeclared keys, one could be there twice")
        else:
            found.append(chosen.keywords(least, most))
    return found


def _subsets(names: Sequence[str], least: int, most: int | None):
    for size in range(least, (len(names) if most is None else min(most, len(names))) + 1):
        yield from combinations(names, size)
