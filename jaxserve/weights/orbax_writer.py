"""Writing of orbax checkpoints, leaf by leaf: no more than a few leaves are in memory, however large the model is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from jaxserve.errors import StartupError
from jaxserve.weights.orbax import WEIGHTS_DIRECTORY, PackedLeaf
from jaxserve.weights.pending import PendingTensor, ProgressCallback, make_in_order

CHUNK_BYTES = 1 << 20  # a device's part of a weight is read in whole chunks; orbax would write each weight as one


def write_weights(
    path: Path,
    tensors: Sequence[PendingTensor],
    packed: Mapping[str, PackedLeaf] | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Write leaves into the directory's `weights`, which must not be there yet.

    tensors    The leaves, named by their paths.
    packed     How those are packed whose tensors are the data of a packed leaf.
    progress   Called with ("convert", bytes written, bytes in all).

    Raises StartupError if they cannot be written.
    """
    import orbax.checkpoint as ocp

    handler = _make_handler(progress, sum(tensor.nbytes for tensor in tensors))
    registry = ocp.type_handlers.create_type_handler_registry(
        (PendingTensor, handler), (jax.Array, ocp.type_handlers.get_type_handler(jax.Array))
    )
    # Weights compress by a fifth at most, and unpacking them would take longer than reading them.
    tree_handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)
    arguments = ocp.args.PyTreeSave(
        {tensor.name: tensor for tensor in tensors},
        save_args={tensor.name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for tensor in tensors},
        custom_metadata={"packed": {name: asdict(leaf) for name, leaf in (packed or {}).items()}},
    )
    try:
        with ocp.Checkpointer(tree_handler) as checkpointer:
            checkpointer.save(path.resolve() / WEIGHTS_DIRECTORY, arguments)
    except ValueError as error:  # so tensorstore reports a disk that is full
        raise StartupError(f"{path} cannot be written: {str(error)[:300]}") from error


def _make_handler(progress: ProgressCallback | None, total: int) -> Any:
    """Make orbax's handler of numpy arrays into one of tensors that are made when it is their turn."""
    import orbax.checkpoint as ocp

    class PendingTensorHandler(ocp.type_handlers.NumpyHandler):
        """Write tensors one after the other; orbax would ask for all values at once."""

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            """Write each tensor to its end before the next one is taken."""
            done = 0
            for array, info, arg in zip(make_in_order(values), infos, args, strict=True):
                for commit in await super().serialize([array], [info], [arg]):
                    commit.result()
                done += array.nbytes
                if progress:
                    progress("convert", done, max(total, 1))
            return []

    return PendingTensorHandler(deepcopy_host_arrays=False)
