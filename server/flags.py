"""Command-line flags made from the configuration dataclasses; the same settings from the environment and a YAML file.

A field `max_num_seqs` with `metadata["help"]` becomes `--max-num-seqs N`; underscores may stand for dashes. Booleans
are `--x` and `--no-x`, tuples take several values or a JSON list, dictionaries take JSON or `--flag.key value`, and
integers may end in k, M or G, in powers of 1024. vLLM's flags are translated by flag_translator.py.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from server.environment import find_unknown, read_settings
from server.flag_translator import FlagTranslator, ParsedCommand, ParsedFlag

UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
USUAL_FLAGS = (  # shown first by --help
    *("host", "port", "api_key", "served_model_name", "max_model_len", "max_num_seqs"),
    *("dtype", "quantization", "tool_call_parser", "reasoning_parser"),
)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one sentence and exit code 2.

    source: where the words being parsed come from, if not from the command line; errors begin with it.
    """

    def __init__(self, prog: str, arguments: str, description: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {arguments}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
        )
        self.source = ""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2. Raises SystemExit always."""
        where = f"{self.source}: " if self.source else ""
        self.exit(2, f"{self.prog}: {where}{message}; {self.prog} --help lists the flags.\n")


def add_flags(parser: CommandParser, *configs: type, skip: Sequence[str] = ()) -> None:
    """Add a flag for each field of the dataclasses `configs`, but for `skip`: USUAL_FLAGS first, the rest by group."""
    rows = [(field, hints[field.name], group) for config in configs for field, hints, group in _iterate_fields(config)]
    rows = [row for row in rows if row[0].name not in skip]
    by_name = {field.name: (field, hint) for field, hint, _ in rows}
    _add_group(parser, "usual", [by_name[name] for name in USUAL_FLAGS if name in by_name])
    for title in dict.fromkeys(group for *_, group in rows):
        _add_group(
            parser, title, [(f, hint) for f, hint, group in rows if group == title and f.name not in USUAL_FLAGS]
        )


def read_arguments(
    parser: CommandParser, argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the values that were set, by field name.

    The command line wins over the environment, and that over the file named by --config. Flags without effect, and
    variables with our prefix that name no setting, are reported on standard error.
    """
    translator = FlagTranslator.from_parser(parser)
    fields = [action.dest for action in parser._actions if action.dest not in ("help", "config")]
    command = translator.parse(argv)
    if any(flag.name == "help" for flag in command.flags):
        parser.parse_args(["--help"])
    environ = {} if environ is None else environ
    path = next((flag.values[0] for flag in reversed(command.flags) if flag.name == "config" and flag.values), None)
    path = path or environ.get("JAXSERVE_CONFIG")
    defaults = _read_config_file(parser, translator, path) if path else {}
    defaults |= _read_environment(parser, translator, environ, fields)
    values = _parse_flags(parser, translator, command if "model" in defaults else translator.infer_model(command))
    values.pop("config", None)
    for note in [*translator.notes, *find_unknown(environ, [*fields, "config"])]:
        print(f"{parser.prog.split()[0]}: {note}", file=sys.stderr)
    return {**defaults, **values}


def select_fields(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that are fields of the dataclass `config`."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if name in names}


def _parse_flags(parser: CommandParser, translator: FlagTranslator, command: ParsedCommand) -> dict[str, Any]:
    """Return values by field name; dotted flags are merged into the JSON of the same flag."""
    argv, dotted = [], {}
    for flag in command.flags:
        translated = translator.translate(flag)
        if translated is None:
            continue
        if translated.path:
            _merge(dotted.setdefault(translated.name.replace("-", "_"), {}), _make_nested(parser, translated))
        else:
            argv += [f"--{translated.name}={value}" for value in translated.values] or [f"--{translated.name}"]
    if translator.refusals:
        parser.error(f"\n{parser.prog}: ".join(translator.refusals))
    values = vars(parser.parse_args(argv))
    models = [*command.positionals, *([values["model"]] if "model" in values else [])]
    if len(models) > 1 and len(set(models)) > 1:
        parser.error(f"one model is served, and {len(models)} are named: {models[0]!r} and {models[1]!r}")
    values |= {"model": models[0]} if models else {}
    for name, nested in dotted.items():
        values[name] = _merge(dict(values.get(name) or {}), nested)
    return values


def _make_nested(parser: CommandParser, flag: ParsedFlag) -> dict[str, Any]:
    """Make the dictionary that a dotted flag stands for."""
    written = f"--{'.'.join((flag.name, *flag.path))}"
    reads_json = any(f"--{flag.name}" in a.option_strings and a.type is _parse_json_object for a in parser._actions)
    if not reads_json:
        parser.error(f"{written}: --{flag.name} has no keys; only flags that take JSON have")
    if not flag.values:
        parser.error(f"{written} needs a value")
    value: Any = _parse_json_or_text(flag.values[0])
    *keys, last = flag.path
    if last.endswith("+"):
        last, value = last[:-1], value if isinstance(value, list) else flag.values[0].split(",")
    for key in reversed([*keys, last]):
        value = {key: value}
    return value


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the keys of `above` into `below`, level by level, and return it."""
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            value = _merge(dict(below[key]), value)
        elif isinstance(value, list) and isinstance(below.get(key), list):
            value = [*below[key], *value]
        below[key] = value
    return below


def _read_environment(
    parser: CommandParser, translator: FlagTranslator, environ: Mapping[str, str], fields: Sequence[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, field, value in read_settings(environ, fields):
        parser.source = variable
        flag = ParsedFlag(field.replace("_", "-"), (), (value,))
        values |= _parse_flags(parser, translator, ParsedCommand((flag,)))
    parser.source = ""
    return values


def _read_config_file(parser: CommandParser, translator: FlagTranslator, path: str) -> dict[str, Any]:
    """Read the YAML mapping at `path` as flags, so that both go through the same checks."""
    import yaml

    parser.source = f"--config {path}"
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(" ".join(str(error).split()))
    if not isinstance(values, dict):
        parser.error("expected keys and values, like 'port: 8000'")
    flags = _parse_flags(parser, translator, translator.parse(list(to_words(values))))
    parser.source = ""
    return flags


def to_words(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of a command line for settings as a YAML file has them; None leaves one out."""
    for key, value in values.items():
        flag = "--" + str(key)
        if isinstance(value, bool):
            yield f"{flag}={str(value).lower()}"
        elif isinstance(value, list | dict):
            yield f"{flag}={json.dumps(value)}"
        elif value is not None:
            yield f"{flag}={value}"


def _iterate_fields(config: type) -> Iterator[tuple[dataclasses.Field[Any], Mapping[str, Any], str]]:
    """Yield every field with the type hints of all fields and its group, which begins at a field that names it."""
    hints, group = get_type_hints(config), config.__name__
    for field in dataclasses.fields(config):
        group = field.metadata.get("group", group)
        yield field, hints, group


def _add_group(parser: CommandParser, title: str, rows: Iterable[tuple[dataclasses.Field[Any], Any]]) -> None:
    group = parser.add_argument_group(title)
    for field, hint in rows:
        flag = "--" + field.name.replace("_", "-")
        options = {"help": _format_help(field), "dest": field.name, "default": argparse.SUPPRESS}
        group.add_argument(flag, **options, **_get_argparse_options(field.name, hint))


def _format_help(field: dataclasses.Field[Any]) -> str:
    """Make the help text of a field: its description, and its default unless the description says it."""
    text, default = field.metadata.get("help", ""), field.default
    if "default: " not in text:
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, tuple):
            default = ", ".join(default)
        text += f" (default: {'none' if default in (None, '') else default})"
    return text.replace("%", "%%")


def _get_argparse_options(name: str, hint: Any) -> dict[str, Any]:
    """Return the options of argparse's add_argument for a field of this type."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not NoneType)
    origin = get_origin(hint) or hint
    if origin is Literal:
        return {"choices": get_args(hint)}
    if origin is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin in (tuple, list):
        return {"action": _CollectValues, "nargs": "+", "metavar": "TEXT"}
    if origin is dict:
        return {"type": _parse_json_object, "metavar": "JSON"}
    readers: dict[Any, tuple[Callable[[str], Any], str]] = {
        int: (_parse_int, "N"),
        float: (_parse_float, "X"),
        Path: (Path, "PATH"),
    }
    if name == "hf_token":
        return {"nargs": "?", "const": None, "metavar": "TEXT"}
    if name == "max_model_len":
        return {"type": lambda text: -1 if text == "auto" else _parse_int(text), "metavar": "N"}
    reader, metavar = readers.get(origin, (str, "TEXT"))
    return {"type": reader, "metavar": metavar}


class _CollectValues(argparse.Action):
    """An action that collects the values of all occurrences in one tuple; a value like ["a", "b"] is its elements."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        collected = list(getattr(namespace, self.dest, ()))
        for value in values:
            collected += [str(item) for item in _parse_json_list(value)] if value.startswith("[") else [value]
        setattr(namespace, self.dest, tuple(collected))


def _parse_json_list(text: str) -> list[Any]:
    value = _parse_json_or_text(text)
    return value if isinstance(value, list) else [text]


def _parse_int(text: str) -> int:
    """Parse '8192', '8k', '-1' or '2G': units are powers of 1024, in either case."""
    unit = UNITS.get(text[-1:].lower(), 1)
    try:
        return round(float(text[:-1]) * unit) if unit > 1 else int(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number (8192, 8k and 2M are)") from None


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number (0.5 is)") from None


def _parse_json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object like {{"key": 1}}')
    return value


def _parse_json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
