"""What a checkpoint's quantization_config says, in one form for all methods."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.packed_form import Scheme

WHERE = "quantization_config"
ADVICE = "take the unpacked checkpoint and pack it with --quantization int8 or int4, or take a .gguf file"


@dataclass(frozen=True, slots=True)
class Rule:
    """Modules whose names match from their start, and the scheme that they have."""

    pattern: re.Pattern[str]
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class FileQuantization:
    """The packing of a checkpoint's matrices, as its quantization_config describes it.

    title     for the start-up table
    rules     of the first that matches, a module has the scheme
    ignored   modules that are not packed
    unused    what the config says of activations and of the cache, whose types are our own
    """

    title: str
    rules: tuple[Rule, ...]
    ignored: tuple[re.Pattern[str], ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def forms(self) -> tuple[str, ...]:
        """Return the names of all forms that occur."""
        return tuple(dict.fromkeys(rule.scheme.form for rule in self.rules))

    def find_scheme(self, module: str) -> Scheme:
        """Return how the module is packed.

        Raises BadCheckpoint if the config says that it is not, or nothing at all.
        """
        if any(pattern.match(module) for pattern in self.ignored):
            raise BadCheckpoint(f"{WHERE} says that {module!r} is not packed, but it is.")
        for rule in self.rules:
            if rule.pattern.match(module):
                return rule.scheme
        raise BadCheckpoint(f"{WHERE} does not say how {module!r} is packed.")


EVERY_MODULE = re.compile("")


def one_scheme(title: str, scheme: Scheme, unused: tuple[str, ...] = ()) -> FileQuantization:
    """Return a config by which all that is packed is packed alike."""
    return FileQuantization(title, (Rule(EVERY_MODULE, scheme),), unused=unused)


class QuantizationKeys:
    """The keys of a config that are read one by one; `reject_unread` refuses the others. where: what errors call it."""

    def __init__(self, values: Mapping[str, Any], where: str = WHERE) -> None:
        self.values = values
        self.where = where
        self._read: set[str] = set()

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the value of the first of these names that is there and not null."""
        self._read.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def choose(self, name: str, *allowed: Any, default: Any) -> Any:
        """Return a value that must be one of these."""
        value = self.get(name, default=default)
        if value not in allowed:
            raise self.unsupported(name, value, " or ".join(map(repr, allowed)))
        return value

    def get_size(self, *names: str, default: int | None = None) -> int | None:
        """Return a number above 0; None for null and -1, which stand for all."""
        value = self.get(*names, default=default)
        if value is None or (value == -1 and not isinstance(value, bool)):
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self.unsupported(names[0], value, "a whole number above 0, or -1")
        return value

    def get_bits(self, *names: str, default: int | None = None) -> int:
        """Return the bits of a code."""
        bits = self.get_size(*names, default=default)
        if bits not in (2, 4, 8):
            raise self.unsupported(names[0], bits, "2, 4 or 8")
        return bits

    def get_object(self, name: str) -> Mapping[str, Any]:
        """Return an object, empty if there is none."""
        value = self.get(name, default={})
        if not isinstance(value, Mapping):
            raise self.unsupported(name, value, "an object")
        return value

    def get_names(self, *names: str) -> list[str]:
        """Return a list of texts, empty if there is none."""
        value = self.get(*names, default=[])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.unsupported(names[0], value, "a list of names")
        return value

    def skip(self, text: str) -> None:
        """Take these names, separated by spaces, as read: they do not change what is stored or computed."""
        self._read.update(text.split())

    def unsupported(self, name: str, value: Any, expected: str) -> BadCheckpoint:
        """Return the error that names a key, its value, and what would do."""
        return BadCheckpoint(f"{self.where}: {name!r} is {str(value)[:200]!r}; read is {expected}; otherwise {ADVICE}.")

    def reject_unread(self) -> None:
        """Refuse a key that was not read and is not null or empty. Raises BadCheckpoint, naming it."""
        for name, value in self.values.items():
            if name not in self._read and value not in (None, [], {}):
                raise BadCheckpoint(
                    f"{self.where}: the key {name[:200]!r} (value {str(value)[:200]!r}) is not known; "
                    f"what it changes is not either, so {ADVICE}."
                )


def read_block_shape(keys: QuantizationKeys, name: str, value: Any) -> tuple[int, int]:
    """Return outputs and inputs of blocks that share a scale. Raises BadCheckpoint for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise keys.unsupported(name, value, "two numbers")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 31 for size in value):
        raise keys.unsupported(name, value, "two numbers above 0")
    return value[0], value[1]


def compile_name(name: str) -> re.Pattern[str]:
    """Return the pattern of a module's name, or of `re:` and a regular expression.

    Raises BadCheckpoint if it cannot be compiled.
    """
    try:
        return re.compile(name[3:] if name.startswith("re:") else re.escape(name) + r"\Z")
    except (re.error, RecursionError, OverflowError) as error:
        raise BadCheckpoint(f"{WHERE}: the pattern {name[:200]!r} is not valid: {error}.") from None


def describe_scheme(scheme: Scheme) -> str:
    """Return the scheme in words, for the start-up table."""
    rows, columns = scheme.block
    size = f" in blocks of {rows} x {columns}" if rows and rows > 1 else f" in groups of {columns}" if columns else ""
    name = {"words": "int", "awq": "int", "gptq": "int"}.get(scheme.form)
    return (f"{name}{scheme.bits}" if name else scheme.form.removesuffix("_bytes")) + size
