"""build_programs: a directory with the compiled programs of a model for a machine, which need not be at hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path

import jax

from jaxserve.config import BUILD_FIELDS, EngineConfig
from jaxserve.conversion import convert_model
from jaxserve.engine.built_programs import FILES, Manifest, name_machine
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine.opened_model import open_model
from jaxserve.engine.program_build import CACHE_FIELDS, build_all, describe_settings, fingerprint, fix_cache_size
from jaxserve.engine.program_environment import describe_environment
from jaxserve.engine.program_files import CacheFiles
from jaxserve.engine.program_plan import plan_engine
from jaxserve.engine.weight_form import check_products
from jaxserve.errors import BadConfig
from jaxserve.new_directory import check_destination, make_directory
from jaxserve.parallel.placement import Placement, choose_placements
from jaxserve.parallel.targets import Target, describe_placements, find_target

MODEL = "model"  # the name of the converted model in the directory
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644  # all may read, nobody else may write


@dataclass(frozen=True, slots=True)
class BuiltDirectory:
    """The result of a build.

    path            The directory.
    digest          The SHA-256 of its manifest, which holds those of all files.
    model           The directory of the converted model; None if weights were not asked for.
    num_programs    The number of programs.
    program_bytes   Their size.
    cache           The setting of the cache's size that they were built for.
    """

    path: Path
    digest: str
    model: Path | None
    num_programs: int
    program_bytes: int
    cache: dict[str, int]


def build_programs(
    config: EngineConfig,
    destination: str | Path,
    *,
    target: str = "cpu",
    with_weights: bool = False,
    progress: ProgressCallback | None = None,
) -> BuiltDirectory:
    """Compile the programs of a model for a machine, and write them into a directory that `programs` may name.

    Nothing runs, no device but the CPU is opened, and memory holds no weights. The directory appears when all of it is
    written; everybody may read it, and nobody else write, whatever the umask is.

    A target other than cpu changes the process for good, so serve from another one: JAX has only the CPU from then on,
    and environment variables tell libtpu that it is on no TPU machine, or CUDA that there is no GPU
    (CUDA_VISIBLE_DEVICES) and XLA not to autotune (XLA_FLAGS).

    config         the model, and the settings that the programs will be served with; others must have their defaults
    destination    a directory that does not exist yet or is empty
    target         the machine: cpu is this very machine, others are v6e-4, h100x1 and so on
    with_weights   write the model, too, as `convert_model` does with the same settings
    progress       called with (phase, done, total)

    Raises BadConfig for an unknown machine, one whose compiler is missing, a destination that is not empty and settings
    that programs do not depend on or that do not fit, other StartupErrors for a model that cannot be fetched, read or
    written.
    """
    _check_fields(config)
    path = Path(destination).expanduser()
    machine = find_target(target)
    check_products(config.quantization, machine.platform)
    check_destination(path)
    with make_directory(path) as directory, _without_jax_cache():
        directory.chmod(DIRECTORY_MODE)
        placements = _describe_placements(config, machine)
        if with_weights:
            _convert(config, placements[0], directory / MODEL, progress)
            config = replace(config, model=str(directory / MODEL), revision=None)
        (directory / FILES).mkdir(mode=DIRECTORY_MODE)
        num_programs, manifest = _compile(config, machine, placements, directory, progress)
        digest = manifest.write(directory)
        _set_modes(directory)
        num_bytes = sum(file.stat().st_size for file in (directory / FILES).iterdir())
    model = path / MODEL if with_weights else None
    return BuiltDirectory(path, digest, model, num_programs, num_bytes, dict(manifest.cache))


def _set_modes(directory: Path) -> None:
    """Set the modes of a directory and of all in it, which until now have been what the umask allows."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(DIRECTORY_MODE if path.is_dir() else FILE_MODE)


def _check_fields(config: EngineConfig) -> None:
    for field in fields(EngineConfig):
        value = getattr(config, field.name)
        if field.name not in BUILD_FIELDS and value != field.default:
            raise BadConfig(f"{field.name}={value!r} changes no program; leave it out, and give it to the server.")


def _describe_placements(config: EngineConfig, target: Target) -> tuple[Placement, ...]:
    if target.platform == "cpu":
        placements = choose_placements(config)
        if placements[0].platform != "cpu":
            raise BadConfig(
                f"target='cpu' needs JAX on the CPU, and it has a {placements[0].platform}; set JAX_PLATFORMS=cpu."
            )
        return placements
    size, num_replicas = config.tensor_parallel_size, config.data_parallel_size
    return describe_placements(target, size, num_replicas, has_expert_parallelism=config.enable_expert_parallel)


def _convert(config: EngineConfig, placement: Placement, path: Path, progress: ProgressCallback | None) -> None:
    """Write the model. Accelerators pack while they load, so for them it is in bfloat16, or as it is if they will."""
    is_cpu, dtype = placement.platform == "cpu", config.dtype
    if not is_cpu and config.quantization in ("auto", "none") and dtype == "auto":
        dtype = "bfloat16"
    convert_model(
        config.model,
        path,
        format="orbax",
        quantization=config.quantization if is_cpu else "auto",
        dtype=dtype,
        revision=config.revision,
        download_dir=config.download_dir,
        token=config.hf_token,
        progress=progress,
    )


def _compile(
    config: EngineConfig,
    target: Target,
    placements: tuple[Placement, ...],
    directory: Path,
    progress: ProgressCallback | None,
) -> tuple[int, Manifest]:
    """Compile the programs of every replica, and return their number and the manifest."""
    environment = describe_environment(placements[0])
    files = CacheFiles(directory / FILES, name_machine(environment))
    num_programs, first = 0, None
    for placement in placements:
        model = open_model(config, placement, progress, None)
        if first is None:
            config = fix_cache_size(config, plan_engine(config, model, None))
        plan = plan_engine(config, model, None)
        num_programs += build_all(plan, model, files, progress)
        first = first or (describe_settings(plan, model), fingerprint(plan, model))
    assert first is not None
    digests = {}
    for file in sorted((directory / FILES).iterdir()):
        digests[file.name] = sha256(file.read_bytes()).hexdigest()
    cache = {name: value for name in CACHE_FIELDS if (value := getattr(config, name)) is not None}
    return num_programs, Manifest(target.name, environment, *first, cache, digests)


@contextmanager
def _without_jax_cache() -> Iterator[None]:
    """Keep JAX's own cache out: programs that come from it could not be written."""
    before = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009, an attribute that checkers do not see
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
