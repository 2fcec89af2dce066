"""What a GGUF file says of pooling, in the words of the files that sentence-transformers writes.

Source: llama.cpp's enum llama_pooling_type, and conversion/gemma.py for the Dense modules of EmbeddingGemma.
"""

from collections.abc import Mapping
from pathlib import Path

from jaxserve.engine.sentence_transformers import SentenceTransformersFiles
from jaxserve.layers.dense import DenseSpec
from jaxserve.models.dense_params import DenseModule, DenseStems
from jaxserve.models.pooling_spec import PoolingKind
from jaxserve.weights.gguf_metadata import GGUFMetadata
from jaxserve.weights.gguf_names import DENSE_NAMES
from jaxserve.weights.gguf_parts import merge_tensors, read_headers
from jaxserve.weights.gguf_ranking import RANK

KINDS: Mapping[int, PoolingKind] = {1: "mean", 2: "cls", 3: "last"}
NO_POOLING = 0
PAIR_TEMPLATE = "tokenizer.chat_template.rerank"  # llama.cpp's, with {query} and {document} in it


def read_gguf_pooling(path: Path) -> SentenceTransformersFiles:
    """Return what the file says; llama.cpp's servers bring embeddings to length 1, so these are, too.

    Raises BadCheckpoint for a kind of pooling that is not known.
    """
    headers = read_headers(path)
    metadata = GGUFMetadata(path, headers[0].metadata)
    kind = metadata.find(".pooling_type")
    if kind not in (None, NO_POOLING, RANK, *KINDS):
        raise metadata.unsupported(".pooling_type", kind, f"one of {', '.join(map(str, (NO_POOLING, *KINDS, RANK)))}")
    shapes = {name: tensor.shape for name, tensor in merge_tensors(headers).items()}
    stems = {stem: shapes.get(f"{name}.weight", ()) for name, stem in DENSE_NAMES.items()}
    pair_format = metadata.values.get(PAIR_TEMPLATE)
    return SentenceTransformersFiles(
        is_there=kind in KINDS,
        pooling=None if kind is None else KINDS.get(kind),
        modules=tuple(_make_module(stem, shape) for stem, shape in stems.items() if len(shape) == 2),
        normalizes=True,
        pair_format=pair_format if isinstance(pair_format, str) else None,
    )


def _make_module(stem: str, shape: tuple[int, ...]) -> DenseModule:
    width_out, width_in = shape
    spec = DenseSpec(width_in=width_in, width_out=width_out, bias=False)
    return DenseModule(spec, DenseStems((stem,)), stem.partition("/")[0])
