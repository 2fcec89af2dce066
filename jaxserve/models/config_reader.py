"""Strict reader of a Hugging Face config.json: a key that is not read is refused.

A key that changes the arithmetic and is not understood makes a model that is nearly right, which is wrong. So a
translator takes what it knows, and `reject_unread` accepts of the rest only what is listed here.
"""

from collections.abc import Mapping
from typing import Any

from jaxserve.errors import UnknownArchitecture

_IGNORED_KEYS_TEXT = """
_attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled _name_or_path architectures
attn_implementation auto_map custom_pipelines dtype finetuning_task id2label is_llama_config label2id model_max_length
model_type name_or_path problem_type task_specific_params tokenizer_class torch_dtype transformers.js_config
transformers_version unsloth_fixed unsloth_version

attention_dropout attn_pdrop classifier_dropout dropout embd_pdrop embedding_dropout flash_attn gradient_checkpointing
hidden_dropout initializer_range pretraining_tp resid_pdrop residual_dropout use_cache
output_router_logits router_aux_loss_coef router_jitter_noise

bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id diversity_penalty do_sample
early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty forced_bos_token_id
forced_eos_token_id keys_to_ignore_at_inference length_penalty max_length min_length no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores pad_token_id
prefix remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
suppress_tokens temperature tf_legacy_loss top_k top_p torchscript typical_p use_bfloat16
"""
IGNORED_KEYS = frozenset(_IGNORED_KEYS_TEXT.split())
"""Keys that do not change what the network computes: bookkeeping, training, generation defaults and token ids.
Generation defaults in config.json are a relic; generation_config.json is where they are read from."""

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "chunk_size_feed_forward": (0,),
    "clip_qkv": (None,),
    "cross_attention_hidden_size": (None,),
    "final_logit_softcapping": (None,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "layer_types": (None,),
    "max_window_layers": (None,),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "pruned_heads": ({}, None),
    "qk_layernorm": (False,),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
    "sliding_window": (None,),
    "tie_encoder_decoder": (False,),
    "use_moe": (False,),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}
"""Keys that would change the arithmetic, with the values at which they do not."""

REQUIRED: Any = object()

MAX_SIZE = 2**31 - 1
# Each of these is described one by one before any weight is looked for.
MAX_LAYERS, MAX_EXPERTS = 1024, 4096


class ConfigReader:
    """A config being read: `get` each key that is understood, then `reject_unread`."""

    def __init__(self, config: Mapping[str, Any], where: str = "config.json") -> None:
        self._config = config
        self._where = where
        self._read: set[str] = set()

    def rename(self, names: Mapping[str, str]) -> None:
        """Read keys under other names, where they do not have these already. names: those in the file → the others."""
        self._config = {
            names.get(name, name) if names.get(name, name) not in self._config else name: value
            for name, value in self._config.items()
        }

    def replace(self, name: str, value: Any) -> None:
        """Read a key as if it had this value."""
        self._config = {**self._config, name: value}

    def get(self, name: str, default: Any = REQUIRED) -> Any:
        """Return the key's value; the default if it is absent or null. Raises UnknownArchitecture without a default."""
        self._read.add(name)
        value = self._config.get(name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise UnknownArchitecture(f"{self._where}: {name!r} is missing; it has no default.")
        return default

    def get_positive_int(self, name: str, default: Any = REQUIRED, maximum: int = MAX_SIZE) -> int:
        """Return a whole number of at least 1, and at most `maximum`."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.unsupported(name, value, "a whole number of at least 1")
        if value > maximum:
            raise self.unsupported(name, value, f"at most {maximum}")
        return value

    def get_whole_number(self, name: str, default: Any = REQUIRED) -> int:
        """Return a whole number of at least 0."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
            raise self.unsupported(name, value, "a whole number of at least 0")
        return value

    def get_positive_float(self, name: str, default: Any = REQUIRED) -> float:
        """Return a number above 0, as a float."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.unsupported(name, value, "a number above 0")
        return float(value)

    def get_bool(self, name: str, default: Any = REQUIRED) -> bool:
        """Return true or false. Raises UnknownArchitecture for another value."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.unsupported(name, value, "true or false")
        return value

    def get_object(self, name: str) -> Mapping[str, Any]:
        """Return an object; one without keys where it is absent or null. Raises UnknownArchitecture for others."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.unsupported(name, value, "an object or null")
        return value

    def has(self, name: str) -> bool:
        """Return whether the key is there, even if it is null."""
        return name in self._config

    def require(self, name: str, *allowed: Any) -> None:
        """Refuse the key unless it is absent or has one of these values. Raises UnknownArchitecture."""
        self._read.add(name)
        if name in self._config and self._config[name] not in allowed:
            raise self.unsupported(name, self._config[name], " or ".join(repr(value) for value in allowed))

    def require_each(self, values: Mapping[str, Any]) -> None:
        """Refuse keys that are neither absent or null nor have the value beside them. Raises UnknownArchitecture."""
        for name, value in values.items():
            self.require(name, value, None)

    def ignore(self, *names: str) -> None:
        """Accept keys that change nothing that is computed, whatever their values."""
        self._read.update(names)

    def unsupported(self, name: str, value: Any, expected: str) -> UnknownArchitecture:
        """Return the error that names a key, its value, and what would do."""
        return UnknownArchitecture(f"{self._where}: {name!r} is {value!r}; this model code needs {expected}.")

    def reject_unread(
        self, ignored: frozenset[str] = IGNORED_KEYS, neutral_values: Mapping[str, tuple[Any, ...]] = NEUTRAL_VALUES
    ) -> None:
        """Refuse keys that were not read and are neither inert nor neutral. Raises UnknownArchitecture, naming one."""
        for name, value in self._config.items():
            if name in self._read or name in ignored:
                continue
            if name not in neutral_values:
                raise UnknownArchitecture(
                    f"{self._where}: the key {name!r} (value {value!r}) is not known for this architecture; "
                    "a model that is nearly right is wrong. Remove it if it changes nothing that is computed."
                )
            if value not in neutral_values[name]:
                expected = " or ".join(repr(value) for value in neutral_values[name])
                raise self.unsupported(name, value, expected)
