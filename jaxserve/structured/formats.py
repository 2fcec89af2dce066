"""What the values of JSON Schema's `format` mean as patterns. Source: RFC 3339, 3986, 5321, 6570, 6901 and others.

Where llguidance has a pattern of its own that is exact, it is used; the others are written here.
"""

from typing import Any

_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
# The year 0000 is none that date libraries know.
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
# Leap seconds are left out: whether there was one at a time is in no grammar, and date libraries refuse them.
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

_HEX = "%[0-9A-Fa-f]{2}"
_PCHAR = f"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|{_HEX})"
_SEGMENT_WITHOUT_COLON = f"(?:[A-Za-z0-9._~!$&'()*+,;=@-]|{_HEX})+"
_AUTHORITY = f"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|{_HEX})*@)?(?:[A-Za-z0-9._~!$&'()*+,;=-]|{_HEX})*(?::[0-9]*)?"
_TAIL = f"(?:\\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_PATHS = f"//{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?"
_URI_REFERENCE = (
    f"(?:[A-Za-z][A-Za-z0-9+.-]*:(?:{_PATHS}|{_PCHAR}+(?:/{_PCHAR}*)*)?"
    f"|(?:{_PATHS}|{_SEGMENT_WITHOUT_COLON}(?:/{_PCHAR}*)*)?){_TAIL}"
)

_VARIABLE = f"(?:[A-Za-z0-9_]|{_HEX})+(?:\\.(?:[A-Za-z0-9_]|{_HEX})+)*(?::[1-9][0-9]{{0,3}}|\\*)?"
_EXPRESSION = f"\\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\\}}"
_URI_TEMPLATE = f"(?:[A-Za-z0-9._~:/?#\\[\\]@!$&()*+,;=-]|{_HEX}|{_EXPRESSION})*"

_JSON_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "uri-reference": _URI_REFERENCE,
    "uri-template": _URI_TEMPLATE,
    "json-pointer": _JSON_POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]*)(?:#|{_JSON_POINTER})",
}
_FORMATS: dict[str, dict[str, Any]] = {
    **{name: {"pattern": f"^(?:{pattern})$"} for name, pattern in _PATTERNS.items()},
    **{name: {"format": name} for name in ("email", "duration", "ipv4", "ipv6", "uuid", "uri")},
    "hostname": {"format": "hostname", "maxLength": 253},
}


# OpenAPI's, for numbers: (least, most), where there are any. A password is any text, shown as dots.
NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "float": None,
    "double": None,
}
_FORMATS |= {name: {} for name in ("password", *NUMBER_FORMATS)}


def is_known(name: str) -> bool:
    return name in _FORMATS


def string_keywords(name: str) -> dict[str, Any]:
    """Keywords that llguidance enforces and that say of a string what this known format says."""
    return _FORMATS[name]
