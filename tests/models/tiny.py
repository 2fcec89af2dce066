"""scripts/make_tiny_model as a module: tiny_config, random_weights, write, and the names it knows."""

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name: str):
    """An executable without .py, imported; leaves no bytecode beside it."""
    loader = SourceFileLoader(name, str(SCRIPTS / name))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


_script = load_script("make_tiny_model")
tiny_config, random_weights, write = _script.tiny_config, _script.random_weights, _script.write
write_tokenizer = _script.write_tokenizer
FAMILIES = tuple(_script.ARCHITECTURES)
OF_EACH_KIND = (
    *("llama", "gemma3", "gemma4", "gemma4_e2b", "olmo2", "granite", "stablelm", "phi3", "cohere2"),
    *("qwen3_moe", "gpt_oss", "glm4_moe", "llama4"),
    *("deepseek_v2", "minicpm3", "qwen3_next", "qwen3_5_moe", "kimi_linear", "lfm2_moe", "granitemoehybrid"),
)
"""One family of each kind of layer, cache and router."""
