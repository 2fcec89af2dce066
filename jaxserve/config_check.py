"""check_config: faults in an EngineConfig that can be found before the model is known.

Needs no JAX, so that a command line can report them without waiting for its import.
"""

from pathlib import Path

from jinja2 import TemplateError

from jaxserve.config import ATTENTION_BACKENDS, EngineConfig
from jaxserve.engine.built_programs import open_built
from jaxserve.engine.event_publisher import KVEventsConfig
from jaxserve.errors import BadConfig
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.text.chat_template import read_template
from jaxserve.text.detection import check_parser_name
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.sandbox import compile_template


def check_config(config: EngineConfig) -> None:
    """Check names, files, directories and values of a configuration. Small files are read, nothing is fetched.

    Raises BadConfig for the first setting that cannot work with any model.
    """
    check_parser_name(config.tool_call_parser, TOOL_PARSERS, "tool_call_parser")
    check_parser_name(config.requested_reasoning_parser, REASONING_PARSERS, "reasoning_parser")
    if config.attention_backend not in ATTENTION_BACKENDS:
        known = ", ".join(ATTENTION_BACKENDS)
        raise BadConfig(f"attention_backend {config.attention_backend!r} is unknown; known: {known}.")
    if config.chat_template is not None:
        _check_template(config.chat_template)
    GenerationDefaults.from_configs(config, {}, {})
    if config.tokenizer is not None and not Path(config.tokenizer).exists():
        raise BadConfig(
            f"tokenizer {config.tokenizer!r} is neither a directory nor a .gguf file here; leave it out for the"
            " model's own."
        )
    for name in ("download_dir", "compilation_cache_dir", "profile_dir"):
        _check_directory(name, getattr(config, name))
    KVEventsConfig.from_config(config)
    if config.programs is not None:
        open_built(config.programs, config.programs_sha256)


def _check_template(given: str) -> None:
    try:
        compile_template(read_template(given))
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise BadConfig(f"chat_template is no Jinja that can be used: {error}{where}.") from None


def _check_directory(name: str, given: str | None) -> None:
    """Check that a directory exists or can be created: no file has its path, or that of a parent."""
    if not given or given == "none":
        return
    path = Path(given)
    existing = next((part for part in (path, *path.parents) if part.exists()), None)
    if existing is not None and not existing.is_dir():
        raise BadConfig(f"{name} {given!r} cannot be a directory: {existing} is a file; name another.")
