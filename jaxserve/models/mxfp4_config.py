"""quantization_config of checkpoints whose experts are in MXFP4, which are read like plain ones."""

from collections.abc import Mapping

from jaxserve.models.config_reader import ConfigReader


def read_mxfp4(config: ConfigReader) -> None:
    """Accept experts in MXFP4, which weights/mxfp4.py reads; the tensors tell which modules are packed.

    Raises UnknownArchitecture for other quantizations.
    """
    value = config.get("quantization_config", None)
    if value is None:
        return
    if not isinstance(value, Mapping) or value.get("quant_method") != "mxfp4":
        raise config.unsupported("quantization_config", value, "'quant_method' 'mxfp4', or none")
    reader = ConfigReader(value, "config.json, quantization_config")
    reader.require("quant_method", "mxfp4")
    reader.get("modules_to_not_convert", [])
    reader.reject_unread(ignored=frozenset(), neutral_values={"dequantize": (False, True)})
