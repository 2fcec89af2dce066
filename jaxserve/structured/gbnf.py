"""GBNF, llama.cpp's notation for grammars that xgrammar's EBNF resembles → llguidance's Lark, by its own converter.

The converter knows fewer escapes, and no alternatives at the beginning of a line; both are rewritten before. As in all
of llguidance's grammars, a rule without recursion is one terminal, and terminals are as long as they can be: after
`word ::= [a-z]+`, no letter can follow a word.
"""

import re

from llguidance.gbnf_to_lark import GrammarParser, resolve

from jaxserve.errors import InvalidParameter

_PARTS = re.compile(
    r'(?P<string>"(?:\\.|[^"\\])*")|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<comment>\#[^\n]*)|(?P<bar>\s*\n\s*(?=\|))', re.S
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.S)


def is_gbnf(text: str) -> bool:
    return "::=" in text


def lark_of(text: str) -> str:
    """The same grammar in Lark. Raises InvalidParameter that says where it is wrong."""
    try:
        rules = GrammarParser().parse(_PARTS.sub(_rewritten, text))
        resolve(rules)
    except InvalidParameter:
        raise
    except RecursionError:
        raise InvalidParameter("the grammar is nested too deeply.") from None
    except Exception as error:  # the converter raises bare ones
        raise InvalidParameter(f"the grammar is not GBNF: {error}.") from None
    start = rules["start"]
    lines = []
    if start.alternatives.is_terminal():  # then all of it is a regular expression, which is matched exactly
        start.name = "ALL_OF_IT"
        lines.append(f"start: {start.name}")
    return "\n".join([*lines, *map(str, rules.values())])


def _rewritten(part: re.Match[str]) -> str:
    text = part.group()
    if part["string"]:
        return '"' + _ESCAPE.sub(lambda escape: _spelled(escape, in_string=True), text[1:-1]) + '"'
    if part["set"]:
        return "[" + _ESCAPE.sub(lambda escape: _spelled(escape, in_string=False), text[1:-1]) + "]"
    return "" if part["comment"] else " "


def _spelled(escape: re.Match[str], in_string: bool) -> str:
    """One escaped character as the converter knows it."""
    code = next(filter(None, escape.groups()))
    if escape[4]:
        return escape.group() if code in 'nrt"\\[]' or not in_string else code if code in "/'" else escape.group()
    try:
        char = chr(int(code, 16))
        char.encode()
    except (ValueError, UnicodeEncodeError):
        raise InvalidParameter(f"the grammar's escape {escape.group()} is no character.") from None
    if in_string:
        return f'" [\\x{ord(char):02x}] "' if ord(char) < 32 else "\\" + char if char in '"\\' else char
    return f"\\x{ord(char):02x}" if ord(char) < 128 else char
