"""TemplateSandbox: chat templates are rendered in Jinja's immutable sandbox, with limits on time and on all sizes.

The environment is the one Hugging Face's apply_chat_template gives to templates (trim_blocks, lstrip_blocks, loop
controls, the `generation` tag, raise_exception, strftime_now, tojson), and differs from it in what it refuses:
results larger than `max_chars`, numbers beyond 4096 bits, values whose text would be an address in memory, and
renderings that take too long: every iteration of a loop and every call checks the time.
Constants are not folded by the compiler: `{{ 9**9999999 }}` costs nothing until it is rendered, and then it is refused.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, pass_context

from jaxserve.text.bounded_filters import bounded_filters
from jaxserve.text.deadline import TimedIterator, check_deadline, limit_time
from jaxserve.text.size_limits import (
    TooLarge,
    check_format,
    check_method,
    check_operator,
    check_size,
    estimate_text_size,
)

MAX_CHARS = 16 << 20  # of one rendered prompt and of every intermediate value
MAX_REASON_CHARS = 1000
_ADDRESS = re.compile(r"( at)? 0x[0-9a-fA-F]+")


class BoundedBuffer(list[str]):
    """Output pieces of a template, a macro or a `set` block, with a limit on their characters."""

    __slots__ = ("left",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def append(self, piece: str) -> None:
        """Append a piece. Raises TooLarge if the buffer would exceed its limit."""
        self.left -= len(piece)
        if self.left < 0:
            raise TooLarge("A block of the template makes too much text.")
        super().append(piece)

    def extend(self, pieces: Any) -> None:
        """Append several pieces. Raises TooLarge if the buffer would exceed its limit."""
        for piece in pieces:
            self.append(piece)


class BoundedCodeGenerator(CodeGenerator):
    """Jinja's compiler with bounded buffers, a bounded `~`, and loops that check the deadline."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        """Compile a loop over a TimedIterator."""
        node.iter = nodes.Call(nodes.EnvironmentAttribute("timed_iterator"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def buffer(self, frame: Frame) -> None:
        """Compile the creation of a BoundedBuffer."""
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.new_buffer()")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """Compile `~` as a call of `concat_values`."""
        self.write("environment.concat_values((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class GenerationTag(Extension):
    """The tag `{% generation %}…{% endgeneration %}`, which marks text for training and renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the tag and its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates; it keeps no state of a rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = BoundedCodeGenerator
    timed_iterator = TimedIterator

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            optimized=False,
            finalize=_finalize,
            cache_size=0,
        )
        self.max_chars = max_chars
        self.filters = bounded_filters(max_chars)
        self.globals = {
            "range": self.globals["range"],
            "cycler": Cycler,
            "joiner": Joiner,
            "namespace": _Namespace,
            "dict": _dict,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def new_buffer(self) -> BoundedBuffer:
        """Return a buffer for a macro or a `set` block."""
        return BoundedBuffer(self.max_chars)

    def concat_values(self, values: tuple[Any, ...]) -> str:
        """Return the joined texts of the values, as `~` does. Raises TooLarge if the result would be too long."""
        check_size(
            sum(estimate_text_size(value, self.max_chars) for value in values), self.max_chars, "The joined text"
        )
        return "".join(map(str, values))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator. Raises TooLarge if the result would be too large."""
        check_operator(operator, left, right, self.max_chars)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore
        """Call a function or method. Raises TooLarge if the result is too large, and TemplateTimeout."""
        check_deadline()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            check_method(owner, obj.__name__, args, kwargs, self.max_chars)
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, (str, bytes, list)):
            check_size(len(result), self.max_chars, "The result of a call")
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a bounded form of `str.format` or `format_map`; None for other callables."""
        safe = super().wrap_str_format(value)
        if safe is None:
            return None

        @wraps(safe)
        def bounded(*args: Any, **kwargs: Any) -> str:
            mapping = args[0] if value.__name__ == "format_map" and args else kwargs
            check_format(value.__self__, args, mapping, self.max_chars)
            return safe(*args, **kwargs)

        return bounded


@pass_context  # so that the compiler does not evaluate constants
def _finalize(context: Context, value: Any) -> Any:
    """Return a printed value: text unchanged, other values if they have a text. Raises TooLarge for others."""
    if type(value) is not str:
        estimate_text_size(value, context.environment.max_chars)  # pyright: ignore[reportAttributeAccessIssue]
    return value


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)  # pyright: ignore[reportArgumentType]

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A namespace cannot hold {name!r}: names with an underscore in front are not allowed.")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 256 or re.search(r"%[^a-zA-Z%]*\d{3}", format):
        raise TooLarge("The date format is too long or too wide.")
    return datetime.now().strftime(format)


@lru_cache(maxsize=8)
def _environment(max_chars: int) -> TemplateSandbox:
    return TemplateSandbox(max_chars)


@lru_cache(maxsize=64)
def compile_template(source: str, max_chars: int = MAX_CHARS) -> jinja2.Template:
    """Return the compiled template; the last 64 are cached. Raises jinja2.TemplateSyntaxError if the source has one."""
    return _environment(max_chars).from_string(source)


@lru_cache(maxsize=64)
def parse_template(source: str) -> nodes.Template:
    """Return the template's syntax tree; the last 64 are cached. Raises jinja2.TemplateSyntaxError."""
    return _environment(MAX_CHARS).parse(source)


def render_template(
    source: str, variables: dict[str, Any], max_chars: int = MAX_CHARS, timeout_s: float = float("inf")
) -> str:
    """Return the template's text, at most `max_chars` long. Raises whatever the template raises; see `reason`."""
    buffer = BoundedBuffer(max_chars)
    template = compile_template(source, max_chars)
    with limit_time(timeout_s):
        buffer.extend(template.generate(variables))
    text = "".join(buffer)
    text.encode()  # a lone surrogate has no tokens
    return text


def describe_error(error: BaseException) -> str:
    """Return a short sentence on why a template failed, without addresses and file names."""
    if isinstance(error, RecursionError):
        return "the template nests or calls itself too deeply"
    if isinstance(error, MemoryError):
        return "the template needs too much memory"
    if isinstance(error, UnicodeEncodeError):
        return "the template writes half a character (a lone surrogate)"
    message = error.message if isinstance(error, jinja2.TemplateSyntaxError) else str(error)
    text = _ADDRESS.sub("", message or "") or type(error).__name__
    if isinstance(error, jinja2.TemplateSyntaxError):
        text = f"{text} (line {error.lineno})"
    elif not isinstance(error, TemplateError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "…"
