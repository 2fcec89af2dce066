"""Random ranges, enums and consts of numbers: what their grammars accept, judged by the package jsonschema.

A number that a grammar accepts must be valid twice: as an exact decimal, and as a double.
"""

import json
import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from jaxserve.errors import InvalidParameter
from jaxserve.structured.exact_numbers import format_number
from jaxserve.structured.grammar_expr import JsonSchema, JsonWhitespace
from jaxserve.structured.patterns import byte_tokenizer
from jaxserve.structured.sandboxed_compile import PARSER_LIMITS, write_valid_grammar

NUM_WALKS = 3
MAX_WALK_BYTES = 400
INTEGERS = (0, 1, 3, 10, 150, 999, 2**31, 2**53, 2**53 + 1, 1152921504606846977, 2**63 - 1, 2**63, 2**64, 2**128)
# (a schema around the schema of a number, an output around the number)
PLACES = (
    ("{}", "{}"),
    ('{{"type":"array","items":{},"minItems":1}}', "[{}]"),
    ('{{"type":"object","properties":{{"a":{}}},"required":["a"]}}', '{{"a":{}}}'),
    ('{{"type":"object","additionalProperties":{}}}', '{{"k":{}}}'),
    ('{{"$defs":{{"n":{}}},"anyOf":[{{"type":"null"}},{{"$ref":"#/$defs/n"}}]}}', "{}"),
    ('{{"prefixItems":[{{"type":"boolean"}},{}],"items":false,"minItems":2,"type":"array"}}', "[true,{}]"),
)


def random_number(rng: random.Random, is_integer: bool = False) -> str:
    """Return the text of a JSON number of one of the kinds that implementations often get wrong."""
    sign = rng.choice(("", "", "-"))
    kind = rng.randrange(3 if is_integer else 8)
    if kind < 2:
        return sign + str(rng.choice(INTEGERS) + rng.choice((0, 0, 1)))
    if kind == 2:
        return sign + str(rng.randrange(10 ** rng.randint(1, 30)))
    if kind == 3:
        return f"{sign}{rng.randrange(1000)}.{rng.randrange(1000):03}"
    if kind == 4:
        return repr(rng.uniform(-10, 10))
    if kind == 5:
        return repr(rng.choice((0.1, 0.5, 1e-7, 5e-324, 1e22, 1.5e300, -0.0, 3.0, 123456789.12345679)))
    if kind == 6:
        [double] = struct.unpack("d", rng.randbytes(8))
        return repr(double) if math.isfinite(double) else "1E2"
    return f"{sign}{rng.randrange(100)}.{rng.randrange(10**25):025}"


def random_neighbour(number: str, rng: random.Random) -> str:
    """Return a number near another: the next double, one less than 1 away, the same one, or any."""
    double = float(number)
    steps = (
        math.nextafter(double, math.inf),
        math.nextafter(double, -math.inf),
        double + 0.5,
        double + 1,
        double - 0.25,
    )
    texts = [repr(step) for step in steps if math.isfinite(step)]
    return rng.choice([*texts, number, positional(number) + "1", random_number(rng), random_number(rng)])


def positional(number: str) -> str:
    """Return the same number without an exponent, and with a point."""
    text = format(Decimal(number), "f")
    return text if "." in text else text + ".0"


def random_case(rng: random.Random) -> tuple[str, list[str]]:
    """Return the text of a schema of numbers, and the numbers at its bounds or in its list."""
    if rng.random() < 0.5:
        listed = [random_number(rng) for _ in range(rng.randint(1, 3))]
        schema = f'{{"const":{listed[0]}}}' if len(listed) == 1 else f'{{"enum":[{",".join(listed)}]}}'
        return schema, listed
    kind = rng.choice(("integer", "number"))
    low = random_number(rng, is_integer=kind == "integer" and rng.random() < 0.6)
    high = random_neighbour(low, rng)
    low, high = sorted((low, high), key=Decimal)
    keywords = [f'"type":"{kind}"']
    sides = rng.choice(((0, 1), (0, 1), (0, 1), (0,), (1,)))
    for side in sides:
        keyword = rng.choice((("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))[side])
        keywords.append(f'"{keyword}":{(low, high)[side]}')
    return "{" + ",".join(keywords) + "}", [(low, high)[side] for side in sides]


def make_probes(numbers: list[str], rng: random.Random) -> set[str]:
    """Return these numbers and others near them, each written in several ways."""
    texts = {"0", "-0", "0.0", "-0.0", "1", "-1", "1e400"}
    for number in numbers:
        integer = math.floor(Decimal(number))
        around = {random_neighbour(number, rng) for _ in range(4)} | {number}
        texts |= (
            around
            | {positional(text) for text in around}
            | {positional(text)[:-2] for text in around if positional(text).endswith(".0")}
        )
        texts |= {str(integer + step) for step in (-1, 0, 1, 2)}
    return texts


def find_faults(seed: int, counts: Counter[str]) -> list[str]:
    """Find the faults of the grammar of one random case."""
    rng = random.Random(seed)
    schema, numbers = random_case(rng)
    outer, answer = rng.choice(PLACES)
    schema_text = outer.format(schema)
    tried = sorted(make_probes(numbers, rng))
    try:
        text = write_valid_grammar(JsonSchema(schema_text, JsonWhitespace(is_compact=True)), {}, "schema")
    except InvalidParameter as error:
        counts["refused"] += 1
        return _wrongly_refused(schema, str(error), tried)
    matcher = LLMatcher(byte_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)
    counts["grammars"] += 1
    faults = []
    for number in tried:
        is_accepted = _accepts(matcher, answer.format(number))
        counts["accepted" if is_accepted else "not accepted"] += 1
        if is_accepted and not _is_valid(schema, number):
            faults.append(f"{number} is accepted under {schema_text}")
        if not is_accepted and _must_be_accepted(schema, number):
            faults.append(f"{number} is not accepted under {schema_text}")
    for value in _listed(schema):
        spellings = (
            {format_number(value), *(text for text in tried if Decimal(text) == value)} if value else {"0", "-0"}
        )
        if not any(_accepts(matcher, answer.format(text)) for text in spellings):
            faults.append(f"{value} cannot be written under {schema_text}")
    for _ in range(NUM_WALKS):
        walked = _walk(matcher, rng)
        counts["walks"] += walked is not None
        if walked is not None and not _is_valid(schema_text, walked):
            faults.append(f"{walked} is reached under {schema_text}")
    return faults


def _wrongly_refused(schema: str, error: str, tried: list[str]) -> list[str]:
    valid = [number for number in tried if _must_be_accepted(schema, number) or Decimal(number) in _listed(schema)]
    if "no JSON value is valid" in error and valid:
        return [f"{schema} allows {valid[0]}, but: {error}"]
    if (
        "more than 308 digits" in error
        or "no JSON value is valid" in error
        or any(f"'{keyword}'" in error for keyword in json.loads(schema))
    ):
        return []
    return [f"{schema}: {error}"]


def _must_be_accepted(schema: str, number: str) -> bool:
    """Valid, written without an exponent, of type integer without a point, and the shortest spelling of its double."""
    if _is_listed(schema) or "e" in number.lower() or ("integer" in schema and "." in number):
        return False
    is_shortest = '"integer"' in schema or Decimal(number) == Decimal(repr(float(number)))
    return is_shortest and _is_valid(schema, number) and not (number[0] == "-" and not Decimal(number))


def _is_listed(schema: str) -> bool:
    return "enum" in schema or "const" in schema


def _listed(schema: str) -> list[Decimal]:
    value = json.loads(schema, parse_int=Decimal, parse_float=Decimal)
    return value.get("enum", [value["const"]] if "const" in value else [])


def _is_valid(schema: str, text: str) -> bool:
    """Whether a text is valid as an exact decimal, and for other numbers than integers also as a double."""
    exact = _validates(schema, text, Decimal)
    return exact and ('"integer"' in schema or _is_listed(schema) or _validates(schema, text, float))


def _validates(schema: str, text: str, kind: Callable[[str], Any]) -> bool:
    """Whether jsonschema accepts a text. kind: the type of numbers with a point."""
    integer_type = int if kind is Decimal else kind
    return Draft202012Validator(json.loads(schema, parse_float=kind, parse_int=integer_type)).is_valid(
        json.loads(text, parse_float=kind, parse_int=integer_type)
    )


def _accepts(matcher: LLMatcher, text: str) -> bool:
    copy, data = matcher.deep_copy(), list(text.encode())
    return copy.try_consume_tokens(data) == len(data) and copy.is_accepting()


def _walk(matcher: LLMatcher, rng: random.Random) -> str | None:
    """Return a random text that the grammar accepts; None: it did not end."""
    copy, written = matcher.deep_copy(), bytearray()
    while len(written) < MAX_WALK_BYTES:
        mask = int.from_bytes(copy.compute_bitmask(), "little")
        allowed = [byte for byte in range(256) if mask >> byte & 1]
        if copy.is_accepting() and (not allowed or rng.random() < 0.2):
            return written.decode()
        closing = [byte for byte in allowed if byte in b'0"]}']
        written.append(rng.choice(closing if closing and rng.random() < 0.4 else allowed))
        copy.consume_token(written[-1])
    return None
