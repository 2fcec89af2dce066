"""Detection of checkpoint formats. Their common interface is in protocol.py."""

from collections.abc import Sequence
from pathlib import Path

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.gguf_files import describe_missing_parts, find_only_model
from jaxserve.weights.protocol import Checkpoint


def open_checkpoint(path: Path, folders: Sequence[str] = ()) -> Checkpoint:
    """Open a .gguf file, or a directory with .safetensors, one .gguf, or a saved orbax checkpoint.

    folders   Folders in a directory with .safetensors whose tensors belong to it: "2_Dense/linear.weight".

    Raises BadCheckpoint for anything else.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        from jaxserve.weights.gguf import GGUFCheckpoint

        return GGUFCheckpoint(path)
    if not path.is_dir():
        raise BadCheckpoint(f"{path} is neither a directory nor a .gguf file.")
    return _open_directory(path, folders)


def _open_directory(path: Path, folders: Sequence[str]) -> Checkpoint:
    from jaxserve.weights import orbax
    from jaxserve.weights.quantized import open_quantized
    from jaxserve.weights.safetensors import SafetensorsCheckpoint

    ggufs = sorted(path.glob("*.gguf"))
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return open_quantized(SafetensorsCheckpoint(path, folders))
    if folders:
        raise BadCheckpoint(f"{path} has weights in {folders[0]}, which are read beside .safetensors alone.")
    if orbax.is_checkpoint(path):
        return orbax.OrbaxCheckpoint(path)
    if (name := find_only_model(file.name for file in ggufs)) is not None:
        return open_checkpoint(path / name)
    if missing := describe_missing_parts(file.name for file in ggufs):
        raise BadCheckpoint(f"{path} lacks parts of its .gguf model: {missing}.")
    if ggufs:
        raise BadCheckpoint(f"{path} holds {len(ggufs)} .gguf files; name one of them, for example {ggufs[0]}.")
    if any(path.glob("*.bin")) or any(path.glob("*.pt*")):
        raise BadCheckpoint(f"{path} holds only pickled weights, which can run code; convert them to .safetensors.")
    raise BadCheckpoint(f"{path} holds no .safetensors and no .gguf file.")
