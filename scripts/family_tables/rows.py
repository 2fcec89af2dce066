"""The rows of the tables: what is known of each architecture, from its names, specs and test results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.registry import ARCHITECTURES, MODEL_TYPES
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import LayerSpec, MoESpec
from jaxserve.models.text_part import TEXT_DEFAULTS
from scripts.family_tables.evidence import passed_cases
from scripts.family_tables.names import NAMES
from tests.models.published import PUBLISHED
from tests.text.families import FAMILIES as TOKENIZED
from tests.text.families import KNOWN_TEMPLATES
from tests.weights.packed_cases import PACKED_FORMS

KINDS = {
    LatentAttentionSpec: "latent attention",
    GatedDeltaSpec: "gated delta rule",
    KimiDeltaSpec: "Kimi delta attention",
    Mamba2Spec: "Mamba-2",
    ShortConvSpec: "short convolutions",
}
ORDER = ("attention", "windows", "keys of other layers", *KINDS.values(), "experts")
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the tables; its texts are as they are shown.

    series, models       People's names.
    architecture         The class in config.json.
    layers               Kinds of layers of the published models.
    packed, has_gguf     The packed forms that are loaded, and whether GGUF files are.
    cases                Evidence → how many cases of it have passed.
    tools, reasoning     Parsers that are detected in the files of its models, the usual one first; "none" among them.
    """

    series: str
    models: str
    architecture: str
    layers: tuple[str, ...]
    packed: tuple[str, ...]
    has_gguf: bool
    cases: Mapping[str, int]
    tools: tuple[str, ...]
    reasoning: tuple[str, ...]


def make_rows(results: Mapping[str, Iterable[str]]) -> list[TableRow]:
    """Return a row for each architecture, sorted by series and models."""
    shown = passed_cases(results)
    rows = [_make_row(name, type_, shown[type_]) for name, type_ in zip(ARCHITECTURES, MODEL_TYPES, strict=True)]
    return sorted(rows, key=lambda row: (row.series.lower(), row.models.lower()))


def _make_row(class_name: str, model_type: str, shown: Mapping[str, list[str]]) -> TableRow:
    series, models = NAMES[model_type]
    forms = {case.partition("-")[2] for case in shown.get("packed", ())}
    seen = [each for each in (*TOKENIZED, *KNOWN_TEMPLATES) if each.name in shown.get("dialects", ())]
    return TableRow(
        series=series,
        models=f"{models} (text)" if model_type in TEXT_DEFAULTS else models,
        architecture=class_name,
        layers=_list_layers(model_type),
        packed=tuple(form for form in PACKED_FORMS if form in forms),
        has_gguf=bool(shown.get("GGUF")),
        cases={name: len(cases) for name, cases in shown.items()},
        tools=_unique(each.tool_parser for each in seen),
        reasoning=_unique(each.reasoning_parser for each in seen),
    )


def _unique(names: Iterable[str | None]) -> tuple[str, ...]:
    """Return each name once, and "none" last."""
    names = list(names)
    return tuple(dict.fromkeys(name for name in names if name)) + (("none",) if None in names else ())


def _list_layers(model_type: str) -> tuple[str, ...]:
    configs = (config for config, _ in PUBLISHED.values() if config["model_type"] == model_type)
    layers = [layer for config in configs for layer in MODEL_TYPES[model_type].spec(config).layers]
    kinds = {kind for layer in layers for kind in _name_kinds(layer)}
    return tuple(kind for kind in ORDER if kind in kinds)


def _name_kinds(layer: LayerSpec) -> Iterable[str]:
    if isinstance(layer.mlp, MoESpec):
        yield "experts"
    if isinstance(layer.attention, SharedKeysSpec):
        yield "keys of other layers"
    elif isinstance(layer.attention, AttentionSpec):
        yield "attention" if layer.attention.window is None else "windows"
    else:
        yield KINDS[type(layer.attention)]
