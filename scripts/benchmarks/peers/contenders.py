"""Who runs in scripts/bench peers, and by which command. A further variant of ours is one line of OURS.

Everybody gets two threads, the precision that the name says, room for 32 streams of 256 tokens, and no prefix
cache: prompts differ, but all begin with the chat template's words, which nobody shall find again. "llama.cpp file"
reads the very .gguf file that ours read.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.peers import weights

REPO = Path(__file__).resolve().parents[3]
THREADS = "2"
SLOTS, SLOT_TOKENS = 32, 512  # llama.cpp divides its cache among its slots
LONG_SLOTS, LONG_SLOT_TOKENS = 17, 5120
VLLM_VERSIONS = "from importlib.metadata import version as v; print(v('vllm') + ', torch ' + v('torch'))"

# name → flags of `jaxserve serve`; the first one is what peers are compared with in the same precision
OURS = {
    "jaxserve float32": ["--dtype", "float32", "--quantization", "none"],
    "jaxserve int8": ["--dtype", "float32", "--quantization", "int8"],
    "jaxserve int4": ["--dtype", "float32", "--quantization", "int4"],
    "jaxserve blocks": ["--dtype", "float32", "--quantization", "blocks"],
}
OUR_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Contender:
    """One server, or one program that does the same work without HTTP.

    command            starts the server on port {port}
    environment        variables on top of ours
    chunk_tokens       most prompt tokens that it computes in a step
    long_command       for the prompts that are longer than a stream, where they need other settings
    missing            why it cannot run here, and what would help
    is_static          no server: a program with the flags of `bench transformers` and writes its JSON
    version_command    prints a line with its version
    bench_command      a second opinion on prefill and decode: llama-bench, JSON on standard output
    """

    name: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    chunk_tokens: int = 0
    long_command: tuple[str, ...] | None = None
    missing: str | None = None
    is_static: bool = False
    version_command: tuple[str, ...] = ()
    bench_command: tuple[str, ...] = ()


def contenders(cache: Path, source: Path) -> list[Contender]:
    """Everybody, ours first; `cache` is where scripts/bench peers --prepare has put what they need.

    source   the model's directory or .gguf file
    """
    ours = [_jaxserve(name, flags, str(source)) for name, flags in OURS.items()]
    files = {kind: weights.gguf_path(cache, source, kind) for kind in weights.GGUF_KINDS}
    llama = [_llama_cpp(kind, cache, file) for kind, file in {**files, "file": source}.items()]
    vllm = [_vllm(dtype, cache, source) for dtype in ("float32", "bfloat16")]
    return [*ours, *llama, *vllm, _transformers(str(source))]


def _jaxserve(name: str, flags: list[str], model: str) -> Contender:
    serve = [sys.executable, "-m", "server", "serve", model, "--host", "127.0.0.1", "--port", "{port}"]
    options = ["--no-enable-prefix-caching", "--disable-access-log", *flags]
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    return Contender(name, (*serve, *options), {"PYTHONPATH": path}, OUR_CHUNK_TOKENS)


def llama_cpp_bin(cache: Path) -> Path:
    return cache / "llama.cpp" / "bin"


def _llama_cpp(kind: str, cache: Path, model: Path) -> Contender:
    tools = llama_cpp_bin(cache)
    serve = [tools / "llama-server", "-m", model, "--host", "127.0.0.1", "--port", "{port}", "-t", THREADS]
    serve += ["--no-cache-prompt", "--cache-ram", "0", "-np", "{slots}", "-c", "{cells}"]
    command, long_command = (
        tuple(str(word).replace("{slots}", str(slots)).replace("{cells}", str(slots * tokens)) for word in serve)
        for slots, tokens in ((SLOTS, SLOT_TOKENS), (LONG_SLOTS, LONG_SLOT_TOKENS))
    )
    return Contender(
        f"llama.cpp {kind}",
        command,
        chunk_tokens=2048,
        long_command=long_command,
        missing=_missing(tools / "llama-server", model),
        version_command=(str(tools / "llama-server"), "--version"),
        bench_command=(str(tools / "llama-bench"), "-m", str(model), "-t", THREADS, "-o", "json"),
    )


def vllm_venv(cache: Path) -> Path:
    return cache / "vllm"


def _vllm(dtype: str, cache: Path, source: Path) -> Contender:
    program, model = vllm_venv(cache) / "bin" / "vllm", weights.hf_path(cache, source)
    serve = [program, "serve", model, "--host", "127.0.0.1", "--port", "{port}", "--dtype", dtype]
    serve += ["--max-model-len", "8192", "--max-num-seqs", "64", "--no-enable-prefix-caching"]
    environment = {
        "LD_PRELOAD": ":".join(map(str, _preloads(cache))),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_AOT_COMPILE": "0",  # 0.32.0 stores such programs and cannot load them again
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }
    return Contender(
        f"vLLM {dtype}",
        tuple(map(str, serve)),
        environment,
        chunk_tokens=2048,
        missing=_missing(program, model),
        version_command=(str(program.with_name("python")), "-c", VLLM_VERSIONS),
    )


def _preloads(cache: Path) -> list[Path]:
    """The OpenMP library and the allocator that vLLM's manual advises to load first, as far as they are here."""
    allocators = [Path(folder) / "libtcmalloc_minimal.so.4" for folder in ("/usr/lib64", "/usr/lib/x86_64-linux-gnu")]
    return [file for file in (vllm_venv(cache) / "lib" / "libiomp5.so", *allocators) if file.exists()]


def _transformers(model: str) -> Contender:
    command = (sys.executable, str(REPO / "scripts" / "bench"), "transformers", "--model", model)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        missing = f"{error}; pip install -e '.[test]' brings it"
        return Contender("transformers float32", command, is_static=True, missing=missing)
    return Contender("transformers float32", command, is_static=True)


def _missing(*files: Path) -> str | None:
    absent = [file.name for file in files if not file.exists()]
    return f"no {' and no '.join(absent)}; scripts/bench peers --prepare makes them" if absent else None
