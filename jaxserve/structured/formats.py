"""The values of JSON Schema's `format` as patterns. Source: RFC 3339, 3986, 4291, 5321, 6570, 6901, …

A format that is not here is an annotation, as in JSON Schema 2020-12: it is accepted and not enforced.
"""

import math
from collections.abc import Mapping
from typing import Any

_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
# Without the year 0000, which date libraries refuse.
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
# Without leap seconds: a grammar cannot know when there was one, and date libraries refuse them.
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

_HEX_DIGITS = "[0-9A-Fa-f]"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_OCTET}(?:\\.{_OCTET}){{3}}"
_GROUP = f"{_HEX_DIGITS}{{1,4}}"
_LAST_TWO = f"(?:{_GROUP}:{_GROUP}|{_IPV4})"  # the last two groups, or an IPv4 address instead of them
_IPV6 = "|".join(
    [
        f"(?:{_GROUP}:){{6}}{_LAST_TWO}",
        f"::(?:{_GROUP}:){{5}}{_LAST_TWO}",
        *(f"(?:(?:{_GROUP}:){{0,{4 - n}}}{_GROUP})?::(?:{_GROUP}:){{{n}}}{_LAST_TWO}" for n in range(4, -1, -1)),
        f"(?:(?:{_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}",
        f"(?:(?:{_GROUP}:){{0,6}}{_GROUP})?::",
    ]
)
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"

_DURATION_TIME = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION_DATE = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"

_PCT_ENCODED = f"%{_HEX_DIGITS}{{2}}"
_PCHAR = f"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|{_PCT_ENCODED})"
_SEGMENT_WITHOUT_COLON = f"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|{_PCT_ENCODED})+"
_REG_NAME = f"(?:[A-Za-z0-9._~!$&'()*+,;=-]|{_PCT_ENCODED})*"
_IP_LITERAL = f"\\[(?:{_IPV6}|[vV]{_HEX_DIGITS}+\\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\\]"
_AUTHORITY = f"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|{_PCT_ENCODED})*@)?(?:{_IP_LITERAL}|{_REG_NAME})(?::[0-9]*)?"
_QUERY_AND_FRAGMENT = f"(?:\\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_PATHS = f"//{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?"
_ABSOLUTE = f"[A-Za-z][A-Za-z0-9+.-]*:(?:{_PATHS}|{_PCHAR}+(?:/{_PCHAR}*)*)?"
_URI_REFERENCE = f"(?:{_ABSOLUTE}|(?:{_PATHS}|{_SEGMENT_WITHOUT_COLON}(?:/{_PCHAR}*)*)?){_QUERY_AND_FRAGMENT}"

_VARIABLE = f"(?:[A-Za-z0-9_]|{_PCT_ENCODED})+(?:\\.(?:[A-Za-z0-9_]|{_PCT_ENCODED})+)*(?::[1-9][0-9]{{0,3}}|\\*)?"
_EXPRESSION = f"\\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\\}}"
_URI_TEMPLATE = f"(?:[A-Za-z0-9._~:/?#\\[\\]@!$&()*+,;=-]|{_PCT_ENCODED}|{_EXPRESSION})*"

_JSON_POINTER = "(?:/(?:[^~/]|~[01])*)*"


def _uuid(version: str) -> str:
    """A pattern for UUIDs of one version, with the variant of RFC 9562."""
    first, last = f"{_HEX_DIGITS}{{8}}-{_HEX_DIGITS}{{4}}", f"{_HEX_DIGITS}{{12}}"
    return f"{first}-{version}{_HEX_DIGITS}{{3}}-[89abAB]{_HEX_DIGITS}{{3}}-{last}"


_PREFIX_4, _PREFIX_6 = "(?:/(?:3[0-2]|[12]?[0-9]))?", "(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"
_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "duration": f"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|[0-9]+W)",
    "email": f"{_ATOM}(?:\\.{_ATOM})*@(?:{_LABEL}(?:\\.{_LABEL})*|\\[{_IPV4}\\])",
    "hostname": f"{_LABEL}(?:\\.{_LABEL})*",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": f"{_ABSOLUTE}{_QUERY_AND_FRAGMENT}",
    "uri-reference": _URI_REFERENCE,
    "uri-template": _URI_TEMPLATE,
    "uuid": f"{_HEX_DIGITS}{{8}}(?:-{_HEX_DIGITS}{{4}}){{3}}-{_HEX_DIGITS}{{12}}",
    "json-pointer": _JSON_POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_JSON_POINTER})",
    # Those of pydantic, without ipv4network and ipv6network: which addresses are valid depends on the prefix length.
    **{f"uuid{version}": _uuid(str(version)) for version in range(1, 9)},
    "ipv4interface": f"{_IPV4}{_PREFIX_4}",
    "ipv6interface": f"(?:{_IPV6}){_PREFIX_6}",
    "ipvanyaddress": f"{_IPV4}|{_IPV6}",
    "ipvanyinterface": f"{_IPV4}{_PREFIX_4}|(?:{_IPV6}){_PREFIX_6}",
    "base64": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "base64url": "(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?",
}
_LENGTHS = {"hostname": {"maxLength": 253}}
_FORMATS: dict[str, dict[str, Any]] = {
    name: {"pattern": f"^(?:{pattern})$", **_LENGTHS.get(name, {})} for name, pattern in _PATTERNS.items()
}
# (pattern, shortest, longest): e-mail addresses, host names and times that are also valid under the patterns and the
# lengths which libraries write beside the format.
_SHORT_LABEL = "[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?"
_TIME_OF_DAY = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
NARROW_PATTERNS = (
    (f"^[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@(?:{_LABEL}\\.)+[A-Za-z]{{2,63}}$", 6, math.inf),
    (f"^{_SHORT_LABEL}(?:\\.{_SHORT_LABEL}){{0,11}}$", 1, 251),
    (f"^{_DATE}T{_TIME_OF_DAY}Z$", 20, 20),
    (f"^{_DATE}T{_TIME_OF_DAY}\\.[0-9]{{3}}Z$", 24, 24),
)
# zod writes these beside a pattern that is enforced; their meaning differs from one release to another.
_ZOD_FORMATS = {
    *("base64", "base64url", "cidrv4", "cidrv6", "cuid", "cuid2", "e164", "emoji", "ksuid", "mac", "nanoid", "ulid"),
    *("xid", "starts_with", "ends_with", "includes", "lowercase", "uppercase"),
} | {
    f"{hash_name}_{coding}"
    for hash_name in ("md5", "sha1", "sha256", "sha384", "sha512")
    for coding in ("hex", "base64", "base64url")
}

# OpenAPI's formats of numbers: (least, most); None: any number.
NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "float": None,
    "double": None,
}


def format_keywords(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of strings that are equivalent to the schema's `format`, if it has one that is enforced."""
    name = schema.get("format", "")
    if "pattern" in schema and name in _ZOD_FORMATS:
        return {}
    return _FORMATS.get(name, {})


def unenforced_format(schema: Mapping[str, Any]) -> str | None:
    """Return the schema's `format` if it is an annotation."""
    name = schema.get("format")
    if name is None or name in _FORMATS or name in NUMBER_FORMATS or ("pattern" in schema and name in _ZOD_FORMATS):
        return None
    return name
