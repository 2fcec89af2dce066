"""Command-line flags made from the configuration dataclasses, and a YAML file that says the same.

A field `max_num_seqs` with `metadata["help"]` becomes `--max-num-seqs N`; underscores do as well as dashes. Booleans
are `--x` and `--no-x`, tuples take several values or a JSON list, dictionaries take JSON or `--flag.key value`, and
integers understand 8k, 2M and 1G in powers of 1024. Flags of vLLM that mean the same under another name, that mean
nothing here, or of which one value is served, are understood too; any other flag is refused with its nearest relative.
"""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

ALIASES = {  # vLLM's name → ours
    "shutdown-timeout": "drain-timeout-s",
    "h11-max-incomplete-event-size": "max-header-bytes",
    "h11-max-header-count": "max-headers",
}
IGNORED = {  # flags of vLLM without a meaning here → how many values follow
    "enforce-eager": 0,
    "compilation-config": 1,
    "swap-space": 1,
    "cudagraph-capture-sizes": None,
    "max-cudagraph-capture-size": 1,
    "cudagraph-metrics": 0,
    "trust-remote-code": 0,
}
SERVED_VALUE = {  # flags of vLLM of which this version serves exactly one value
    "tensor-parallel-size": "1",
    "pipeline-parallel-size": "1",
    "data-parallel-size": "1",
    "scheduling-policy": "fcfs",
    "tokenizer-mode": "auto",
    "load-format": "auto",
    "kv-cache-dtype": "auto",
}
ALWAYS_ON = ("enable-chunked-prefill",)
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Parser(argparse.ArgumentParser):
    """Speaks in one sentence when it does not understand, and exits with code 2."""

    def __init__(self, prog: str, arguments: str, description: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {arguments}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the flags.\n")


def add_flags(parser: Parser, config: type, title: str, *, skip: Sequence[str] = ()) -> None:
    """Adds one flag per field of the dataclass `config`, in a group of its own under `title`."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name not in skip:
            flag = "--" + field.name.replace("_", "-")
            options = {"help": _help(field), "dest": field.name, "default": argparse.SUPPRESS}
            group.add_argument(flag, **options, **_how_to_read(field.name, hints[field.name]))


def read_arguments(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    """What was said, by field name: first the file named by --config, over it the command line."""
    said = _parse(parser, argv)
    path = said.pop("config", None)
    return said if path is None else {**_parse(parser, list(_file_as_argv(parser, path))), **said}


def pick(config: type, said: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the said values that are fields of `config`."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in said.items() if name in names}


def _parse(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    """Values by field name; the dotted ones are laid over the JSON of the same flag."""
    dotted: dict[str, dict[str, Any]] = {}
    said = vars(parser.parse_args(list(_known_flags(parser, argv, dotted))))
    for name, values in dotted.items():
        said[name] = {**(said.get(name) or {}), **values}
    return said


def _known_flags(parser: Parser, argv: Sequence[str], dotted: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The arguments in our own spelling, without those that are ignored. Dotted ones go to `dotted` instead."""
    known = {option for action in parser._actions for option in action.option_strings}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            yield word
            continue
        flag, equals, value = word.partition("=")
        flag, _, key = flag.replace("_", "-").partition(".")
        flag = "--" + ALIASES.get(flag[2:], flag[2:])
        if equals:
            words.insert(0, value)
        if key and flag in known:
            dotted.setdefault(flag[2:].replace("-", "_"), {})[key.replace("-", "_")] = _json_or_text(
                words.pop(0) if words else parser.error(f"{flag}.{key} needs a value")
            )
        elif flag in known:
            yield f"{flag}={words.pop(0)}" if equals else flag
        else:
            _pass_over(parser, flag, words, known)


def _pass_over(parser: Parser, flag: str, words: list[str], known: set[str]) -> None:
    """Takes a flag that is none of ours, with its values, from `words`; ends the program if it cannot be left out."""
    name = flag[2:].removeprefix("no-")
    if name in IGNORED:
        count = IGNORED[name]
        while words and (count or (count is None and words[0].isdigit())):
            words.pop(0)
            count = count and count - 1
        print(f"jaxserve: {flag} has no meaning here and is ignored", file=sys.stderr)
    elif name in SERVED_VALUE:
        value = words.pop(0) if words else ""
        if value != SERVED_VALUE[name]:
            parser.error(f"{flag} {value}: this version serves {flag} {SERVED_VALUE[name]} only")
    elif name in ALWAYS_ON:
        if flag.startswith("--no-"):
            parser.error(f"{flag}: {name} is always on")
    else:
        near = difflib.get_close_matches(flag, known, n=1)
        parser.error(f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else ""))


def _file_as_argv(parser: Parser, path: str) -> Iterator[str]:
    """The YAML mapping at `path` as flags, so that both go through the same checks."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {' '.join(str(error).split())}")
    if not isinstance(values, dict):
        parser.error(f"--config {path}: expected keys and values, like 'port: 8000'")
    for key, value in values.items():
        flag = "--" + str(key)
        if isinstance(value, bool):
            yield flag if value else f"--no-{key}"
        elif isinstance(value, list | dict):
            yield f"{flag}={json.dumps(value)}"
        elif value is not None:
            yield f"{flag}={value}"


def _help(field: dataclasses.Field[Any]) -> str:
    text = field.metadata.get("help", "").replace("%", "%%")
    default = field.default
    if default is None or default is dataclasses.MISSING or default == () or isinstance(default, bool):
        return text + (f" (default: {'yes' if default else 'no'})" if isinstance(default, bool) else "")
    return f"{text} (default: {str(default).replace('%', '%%')})" if str(default) not in text else text


def _how_to_read(name: str, hint: Any) -> dict[str, Any]:
    """argparse's options for a field of this type."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    origin = get_origin(hint) or hint
    if origin is Literal:
        return {"choices": get_args(hint)}
    if origin is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin in (tuple, list):
        return {"action": _Several, "nargs": "+", "metavar": "TEXT"}
    if origin is dict:
        return {"type": _json_object, "metavar": "JSON"}
    readers: dict[Any, tuple[Callable[[str], Any], str]] = {
        int: (_integer, "N"),
        float: (float, "X"),
        Path: (Path, "PATH"),
    }
    if name == "max_model_len":
        return {"type": lambda text: -1 if text == "auto" else _integer(text), "metavar": "N"}
    reader, metavar = readers.get(origin, (str, "TEXT"))
    return {"type": reader, "metavar": metavar}


class _Several(argparse.Action):
    """Gathers the values of every occurrence into one tuple; a value like ["a", "b"] counts as its elements."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        gathered = list(getattr(namespace, self.dest, ()))
        for value in values:
            gathered += [str(one) for one in _json_list(value)] if value.startswith("[") else [value]
        setattr(namespace, self.dest, tuple(gathered))


def _json_list(text: str) -> list[Any]:
    value = _json_or_text(text)
    return value if isinstance(value, list) else [text]


def _integer(text: str) -> int:
    """'8192', '8k', '-1', '2G': units are powers of 1024, in either case."""
    unit = UNITS.get(text[-1:].lower(), 1)
    try:
        return round(float(text[:-1]) * unit) if unit > 1 else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number (8192, 8k and 2M are)") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object like {{"key": 1}}')
    return value


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
