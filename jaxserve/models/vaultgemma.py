"""VaultGemma: Gemma 2 with norms before the blocks alone."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.gemma2 import read_gemma2
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    return read_gemma2(config, architecture_name="VaultGemmaForCausalLM", model_type="vaultgemma", norm_place="pre")


ARCHITECTURE = DecoderFamily(_read, named({"mlp_norm": "pre_feedforward_layernorm"}))
