"""Tiny random checkpoints whose sizes can be divided by eight, and their decoders on some ranks."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxserve.attention import AttentionInputs, list_backends
from jaxserve.attention.page_types import choose_page_type
from jaxserve.cache.groups import make_groups
from jaxserve.cache.pages import CacheTypes, make_pages
from jaxserve.config import EngineConfig
from jaxserve.layers import quant
from jaxserve.layers.adapted import set_slot
from jaxserve.layers.scaled_weight import ScaledForm
from jaxserve.models import registry
from jaxserve.models.partition import check_partition, local_caches, place_factors, place_params
from jaxserve.native import library
from jaxserve.parallel.placement import choose_placements
from jaxserve.parallel.sharding import BY_VOCAB, STACKED, WHOLE, split_specs
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from jaxserve.weights.peft import read_adapter
from tests.engine.hlo import instructions
from tests.models.tiny import load_script

script = load_script("make_tiny_model")
HEADS = {"num_attention_heads": 8, "head_dim": 16, "num_hidden_layers": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},  # dense, with fewer key heads than the most ranks
    "gemma3": {"num_key_value_heads": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo2": {"num_key_value_heads": 8},  # norms over all heads together
    "starcoder2": {"num_key_value_heads": 4},  # biases, of sums over ranks, too
    "qwen3_moe": {"num_key_value_heads": 1},
    "minicpm3": {  # latents, which every rank has whole
        "num_key_value_heads": 8,
        "head_dim": None,
        "intermediate_size": 192,
    },
    "granitemoehybrid": {  # two groups of heads of Mamba-2: of several ranks, or of one each
        "num_key_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
        "mamba_d_state": 8,
        "num_local_experts": 0,
    },
    "gpt_oss": {
        "num_key_value_heads": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },  # experts with biases
    "gemma4": {"num_global_key_value_heads": 2},  # experts and a dense block with norms of their own
    "gemma4_e2b": {  # layers that read the keys of others, and inputs of the layers' own, 64 numbers a token
        "num_hidden_layers": 4,
        "hidden_size_per_layer_input": 16,
    },
}
PACKABLE: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 32, "intermediate_size": 256},
    "qwen3_moe": {"head_dim": 32, "intermediate_size": 256, "moe_intermediate_size": 256, "mlp_only_layers": []},
}
"""Sizes of which an eighth is a multiple of 32."""


def write(directory: Path, family: str, **others: Any) -> Path:
    """Write the checkpoint of a family, unless it is there. others: further sizes of its config.json."""
    if not (directory / "model.safetensors").exists():
        directory.mkdir(parents=True, exist_ok=True)
        config = script.tiny_config(family) | HEADS | FAMILIES[family] | others
        script.write_json(directory / "config.json", config)
        script.write_tokenizer(directory)
        save_file(script.random_weights(config, seed=5), directory / "model.safetensors")
    return directory


class Prefill:
    """The forward pass of one prompt on some ranks: logits, and the compiled program.

    adapter   The directory of an adapter, and the ranks and slots that there are for it; None: there is none.
    scaled    The form of weights with scales; None: none has them.
    """

    def __init__(
        self,
        directory: Path,
        num_tokens: int,
        adapter: tuple[Path, int, int] | None = None,
        scaled: ScaledForm | None = None,
        **sizes: Any,
    ) -> None:
        config = EngineConfig(**({"quantization": "none"} | sizes))
        [placement] = choose_placements(config)
        checkpoint = open_checkpoint(directory)
        architecture = registry.find_architecture(checkpoint.config)
        spec, backend = architecture.spec(checkpoint.config), list_backends("reference", "cpu")[0]
        check_partition(spec, placement.ranks, config.quantization if scaled is None else "none")
        params = architecture.params(spec)
        shapes = registry.abstract_params(params, jnp.float32, config.quantization, scaled=scaled)
        targets = place_params(shapes, params, spec, placement)
        self.leaves = load_params(checkpoint, params, targets)
        self.vocab_size = spec.vocab_size
        groups = make_groups(local_caches(architecture.cache(spec), placement.size))
        types = CacheTypes(choose_page_type(config.kv_cache_dtype, jnp.float32), jnp.float32)
        make = partial(make_pages, backend, groups, num_pages=[4] * len(groups), page_size=16, types=types)
        self.pages = placement.jit(make, (), STACKED)()
        graphdef, _ = registry.abstract_decoder(spec, jnp.float32, placement.ranks)
        inputs, layout = one_prompt(num_tokens), None
        self.stacks: Any = ()
        if adapter is not None:
            path, rank, num_slots = adapter
            layout = place_factors(params, spec, placement, num_slots=num_slots, rank=rank, dtype=np.dtype(np.float32))
            zeros = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape), leaf.sharding), layout.stacks)
            each, factors = split_specs(layout.stacks), layout.fill_up(read_adapter(path, "a", params, rank))
            write = placement.jit(partial(set_slot, rank), (each, WHOLE, each), each, donate_argnums=0)
            self.stacks = write(zeros, np.int32(num_slots), factors)

        def forward(leaves: Any, stacks: Any, pages: Any, token_T: Any) -> Any:
            if layout is not None:
                leaves = leaves | dict(layout.adapt(leaves, stacks, jnp.full(num_tokens, layout.num_slots)))
            decoder = registry.merge_params(graphdef, leaves)
            hidden_TD, pages, _ = decoder(token_T, (inputs,) * spec.num_layers, pages, backend)
            return decoder.compute_logits(hidden_TD), pages

        specs = (split_specs(self.leaves), split_specs(self.stacks), STACKED, WHOLE)
        program = placement.jit(forward, specs, (BY_VOCAB, STACKED), donate_argnums=2)
        token_T = jax.ShapeDtypeStruct((num_tokens,), jnp.int32)
        self.program = program.lower(self.leaves, self.stacks, self.pages, token_T).compile()

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the weights that one device has."""
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(self.leaves))

    def logits(self, token_T: np.ndarray) -> np.ndarray:
        """Return the logits after each token; run once, since the pages are donated."""
        logits_TV, _ = self.program(self.leaves, self.stacks, self.pages, token_T)
        return np.asarray(logits_TV)[:, : self.vocab_size]


def keep_activations(monkeypatch: Any) -> None:
    """Compute products with packed weights from activations as they are, which kernels would round to int8."""
    monkeypatch.setattr(quant, "round_activations", lambda x_TI: x_TI)
    monkeypatch.setattr(library, "is_usable", lambda: False)


COLLECTIVE = re.compile(r"^(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)")


def list_collectives(program: Any) -> list[tuple[str, int]]:
    """Return the collectives of a compiled program: each with the number of values that a device exchanges."""
    return [(op, size) for _, op, size in instructions(program.as_text()) if COLLECTIVE.match(op)]


def one_prompt(num_tokens: int) -> AttentionInputs:
    """Return the inputs of attention for one prompt in pages 1 to 3."""
    position_T = np.arange(num_tokens, dtype=np.int32)
    return AttentionInputs(
        position_T=position_T,
        slot_T=position_T + 16,
        page_table_BW=np.array([[1, 2, 3]], np.int32),
        length_B=np.array([num_tokens], np.int32),
        query_start_B1=np.array([0, num_tokens], np.int32),
        max_queries_per_row=num_tokens,
    )
