"""The number of optional properties that may come next at one place of an output, which llguidance follows at once.

It is computed on a merged schema. After some text, those options of a union are still possible that allow the names
written so far, and the values of a discriminator: their next optional properties add up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxserve.structured.json_lark import ref_name

MAX_STEPS = 20_000
ARRAY_BRANCHES = 2  # optional properties that an array counts as
_Members = list[tuple[str, bool, Any]]  # name, whether it is required, the schema of its value


class BranchingFactor:
    """The place of an output under a merged schema at which the most optional properties may come next.

    schema        the merged schema; after construction, the schema or union of schemas that begins above that place
    definitions   the targets of its `$ref`s, by name

    count         the number of optional properties there
    """

    def __init__(self, schema: Any, definitions: Mapping[str, Any]) -> None:
        self.count = 0
        self.schema = schema
        self._definitions = definitions
        self._seen: set[tuple[int, ...]] = set()
        self._num_steps = 0
        self._visit_values(schema, [schema])

    def _visit_values(self, origin: Any, schemas: Iterable[Any]) -> None:
        """Visit a place where a value begins that one of the schemas allows. origin: the first of them, for errors."""
        alternatives = list(self._expand(schemas))
        key = tuple(sorted(map(id, alternatives)))
        self._num_steps += 1
        if key in self._seen or self._num_steps > MAX_STEPS:
            return
        self._seen.add(key)
        arrays = [schema for schema in alternatives if _allows_type(schema, "array")]
        self._record(ARRAY_BRANCHES * len(arrays), origin)
        for index in range(1 + max((len(schema.get("prefixItems", ())) for schema in arrays), default=-1)):
            items = [[*schema.get("prefixItems", ()), *[schema.get("items", {})] * (index + 1)] for schema in arrays]
            self._visit_nested([item[index] for item in items])
        objects = [schema for schema in alternatives if _allows_type(schema, "object")]
        self._visit_objects(origin, [(schema, _get_members(schema)) for schema in objects])

    def _expand(self, schemas: Iterable[Any]) -> Iterable[Any]:
        """Return the schemas without unions and references that they consist of, each once."""
        expanded: dict[int, Any] = {}
        queue, seen = list(schemas), set()
        while queue:
            schema = queue.pop()
            if not schema or id(schema) in seen:  # {}: anything is valid; False: nothing is
                continue
            seen.add(id(schema))
            if "$ref" in schema:
                queue.append(self._definitions[ref_name(schema)])
            elif "anyOf" in schema:
                queue += schema["anyOf"]
            else:
                expanded[id(schema)] = schema
        return expanded.values()

    def _visit_objects(self, origin: Any, objects: Sequence[tuple[Any, _Members]]) -> None:
        """Visit the members of objects, one of which the output is. objects: (schema, members that are left)."""
        while objects and all(members and members[0][1] for _, members in objects):
            if len({members[0][0] for _, members in objects}) > 1:
                break
            values = [members[0][2] for _, members in objects]
            self._record(len(objects), origin)
            self._visit_nested(values)
            rest = [(schema, members[1:]) for schema, members in objects]
            groups = _group_by_value(rest, values)
            if len(groups) > 1:
                for group in groups.values():
                    self._visit_objects(origin, group)
                return
            objects = rest
        self._record(sum(_count_next(schema, members) for schema, members in objects), origin)
        for name in {name for _, members in objects for name, _, _ in members}:
            after = []  # (properties that may come next after this one, the schema of its value)
            for schema, members in objects:
                index = next((index for index, member in enumerate(members) if member[0] == name), None)
                if index is not None:
                    after.append((_count_next(schema, members[index + 1 :]), members[index][2]))
                elif schema.get("additionalProperties", {}) is not False:
                    after.append((1, schema.get("additionalProperties", {})))
            self._record(sum(count for count, _ in after), origin)
            self._visit_nested([value for _, value in after])
        self._visit_nested(
            [schema["additionalProperties"] for schema, _ in objects if "additionalProperties" in schema]
        )
        self._visit_nested([value for schema, _ in objects for value in schema.get("patternProperties", {}).values()])

    def _visit_nested(self, schemas: Sequence[Any]) -> None:
        if schemas:
            self._visit_values(schemas[0], schemas)

    def _record(self, count: int, origin: Any) -> None:
        if count > self.count:
            self.count, self.schema = count, origin


def _group_by_value(objects: Sequence[Any], values: Sequence[Any]) -> dict[str, list[Any]]:
    """Group objects by the listed values of their first properties; no groups if some are not listed."""
    groups: dict[str, list[Any]] = {}
    if all("enum" in value for value in values):
        for item, value in zip(objects, values, strict=True):
            for listed in value["enum"]:
                groups.setdefault(repr(listed), []).append(item)
    return groups


def _allows_type(schema: Any, name: str) -> bool:
    return "enum" not in schema and name in schema.get("type", name)


def _get_members(schema: Mapping[str, Any]) -> _Members:
    required = schema.get("required", ())
    return [
        (name, name in required, value) for name, value in schema.get("properties", {}).items() if value is not False
    ]


def _count_next(schema: Mapping[str, Any], members: _Members) -> int:
    """Count the properties that may come next where these members are left."""
    for index, (_, is_required, _) in enumerate(members):
        if is_required:
            return index + 1
    return (
        len(members) + len(schema.get("patternProperties", ())) + (schema.get("additionalProperties", {}) is not False)
    )
