"""How many optional properties may come next at one place of an answer: what llguidance follows all at once.

It is computed on a merged schema. After some text, those options of a union are still open that allow the names written
so far, and the values of a discriminator: of them the next optional properties add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxserve.structured.json_lark import ref_name

MAX_STEPS = 20_000
ARRAY_BRANCHES = 2  # places of an array count as so many properties
_Members = list[tuple[str, bool, Any]]  # name, whether it is required, the schema of its value


class BranchingFactor:
    """Widest place of the answers under one merged schema.

    count   optional properties that may come next there
    schema  the schema, or the union of schemas, that begins above it
    """

    def __init__(self, schema: Any, definitions: Mapping[str, Any]) -> None:
        self.count = 0
        self.schema = schema
        self._definitions = definitions
        self._seen: set[tuple[int, ...]] = set()
        self._steps = 0
        self._values(schema, [schema])

    def _values(self, origin: Any, schemas: Iterable[Any]) -> None:
        """Where a value begins that one of these schemas allows. origin: the first of them, for a refusal."""
        alternatives = list(self._alternatives(schemas))
        key = tuple(sorted(map(id, alternatives)))
        self._steps += 1
        if key in self._seen or self._steps > MAX_STEPS:
            return
        self._seen.add(key)
        arrays = [schema for schema in alternatives if _allows(schema, "array")]
        self._found(ARRAY_BRANCHES * len(arrays), origin)
        for index in range(1 + max((len(schema.get("prefixItems", ())) for schema in arrays), default=-1)):
            items = [[*schema.get("prefixItems", ()), *[schema.get("items", {})] * (index + 1)] for schema in arrays]
            self._nested([item[index] for item in items])
        self._objects(origin, [(schema, _members(schema)) for schema in alternatives if _allows(schema, "object")])

    def _alternatives(self, schemas: Iterable[Any]) -> Iterable[Any]:
        """Schemas without unions and references, each once."""
        found: dict[int, Any] = {}
        waiting, met = list(schemas), set()
        while waiting:
            schema = waiting.pop()
            if not schema or id(schema) in met:  # nothing is said, or nothing is valid
                continue
            met.add(id(schema))
            if "$ref" in schema:
                waiting.append(self._definitions[ref_name(schema)])
            elif "anyOf" in schema:
                waiting += schema["anyOf"]
            else:
                found[id(schema)] = schema
        return found.values()

    def _objects(self, origin: Any, objects: Sequence[tuple[Any, _Members]]) -> None:
        while objects and all(members and members[0][1] for _, members in objects):
            if len({members[0][0] for _, members in objects}) > 1:
                break
            values = [members[0][2] for _, members in objects]
            self._found(len(objects), origin)
            self._nested(values)
            rest = [(schema, members[1:]) for schema, members in objects]
            groups = _by_value(rest, values)
            if len(groups) > 1:
                for group in groups.values():
                    self._objects(origin, group)
                return
            objects = rest
        self._found(sum(_run(schema, members) for schema, members in objects), origin)
        for name in {name for _, members in objects for name, _, _ in members}:
            behind = []
            for schema, members in objects:
                place = next((index for index, member in enumerate(members) if member[0] == name), None)
                if place is not None:
                    behind.append((_run(schema, members[place + 1 :]), members[place][2]))
                elif schema.get("additionalProperties", {}) is not False:
                    behind.append((1, schema.get("additionalProperties", {})))
            self._found(sum(run for run, _ in behind), origin)
            self._nested([value for _, value in behind])
        self._nested([schema["additionalProperties"] for schema, _ in objects if "additionalProperties" in schema])
        self._nested([value for schema, _ in objects for value in schema.get("patternProperties", {}).values()])

    def _nested(self, schemas: Sequence[Any]) -> None:
        if schemas:
            self._values(schemas[0], schemas)

    def _found(self, count: int, origin: Any) -> None:
        if count > self.count:
            self.count, self.schema = count, origin


def _by_value(objects: Sequence[Any], values: Sequence[Any]) -> dict[str, list[Any]]:
    """The objects that each value of their first properties leaves; none where these are not listed."""
    found: dict[str, list[Any]] = {}
    if all("enum" in value for value in values):
        for each, value in zip(objects, values, strict=True):
            for listed in value["enum"]:
                found.setdefault(repr(listed), []).append(each)
    return found


def _allows(schema: Any, name: str) -> bool:
    return "enum" not in schema and name in schema.get("type", name)


def _members(schema: Mapping[str, Any]) -> _Members:
    required = schema.get("required", ())
    return [
        (name, name in required, value) for name, value in schema.get("properties", {}).items() if value is not False
    ]


def _run(schema: Mapping[str, Any], members: _Members) -> int:
    """The properties that may come next where these are left."""
    for index, (_, is_required, _) in enumerate(members):
        if is_required:
            return index + 1
    return (
        len(members) + len(schema.get("patternProperties", ())) + (schema.get("additionalProperties", {}) is not False)
    )
