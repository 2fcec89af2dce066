"""Names of GGUF files: those of parts, and the choice of one by a quantization's name, as in org/repo-GGUF:Q4_K_M.

Repositories put the name at the end of the file's, behind a dash, a dot or a folder, in either case: Model-Q4_K_M.gguf,
model.q4_k_m.gguf, Q4_K_M/Model-00001-of-00002.gguf.
"""

import re
from collections.abc import Iterable

from jaxserve.errors import BadConfig

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|BF16|F16|F32|FP16|FP32|MXFP4\w*))$", re.IGNORECASE)
_MAX_LISTED = 20


def list_parts(name: str) -> list[str]:
    """Return the names of all parts of the model that the file is a part of, or that of the file alone."""
    match = _PART.search(name.removesuffix(".gguf"))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        return [name]
    num = int(match[2])
    return [f"{name[: match.start()]}-{index:05}-of-{num:05}.gguf" for index in range(1, num + 1)]


def find_only_model(names: Iterable[str]) -> str | None:
    """Return the one file, or the first part of the one model in parts; None if there is none, or another one."""
    names = sorted(names)
    return names[0] if names and names == list_parts(names[0]) else None


def describe_missing_parts(names: Iterable[str]) -> str:
    """Return the names of the parts that are missing, if these are some of one model; else nothing."""
    names = set(names)
    parts = list_parts(min(names)) if names else []
    return _listed(part for part in parts if part not in names) if names <= set(parts) else ""


def quant_of_file(name: str) -> str | None:
    """Return the quantization in a file's name, in capitals, or None."""
    stem = _PART.sub("", name.removesuffix(".gguf"))
    match = _QUANT.search(stem) or _QUANT.search(stem.rpartition("/")[0])
    return match[1].upper() if match else None


def choose_file(model: str, quant: str, names: Iterable[str]) -> str:
    """Return the one file of that quantization, or its first part. Raises BadConfig if there is none, or several."""
    names = [name for name in sorted(names) if not name.rpartition("/")[2].lower().startswith("mmproj")]
    if not names:
        raise BadConfig(f"The hub model {model} has no .gguf files, so no {quant}; leave out :{quant}.")
    matching = [name for name in names if _has_quant(quant, name)]
    if not matching:
        raise BadConfig(f"The hub model {model} has no .gguf file of {quant}; {describe_choices(model, names)}.")
    if missing := describe_missing_parts(matching):
        raise BadConfig(f"The hub model {model} lacks parts of its {quant}: {missing}.")
    found = find_only_model(matching)
    if found is None:
        raise BadConfig(
            f"The hub model {model} has {len(matching)} .gguf files of {quant}; name one of them: "
            + _listed(f"{model}/{name}" for name in matching)
            + "."
        )
    return found


def describe_choices(model: str, names: Iterable[str]) -> str:
    """Return what can be asked for instead: quantizations where the names have them, else the files."""
    names = sorted(names)
    whole = [name for name in names if name == list_parts(name)[0]]
    quants = [quant_of_file(name) for name in whole]
    known = sorted({quant for quant in quants if quant})
    if known and len(known) == len(whole):
        return "choose one of them: " + _listed(f"{model}:{quant}" for quant in known)
    return "name one of them: " + _listed(f"{model}/{name}" for name in names)


def _has_quant(quant: str, name: str) -> bool:
    stem, wanted = _PART.sub("", name.removesuffix(".gguf")).lower(), quant.lower()
    folder = stem.rpartition("/")[0].rpartition("/")[2]
    return folder == wanted or re.search(rf"(?:^|[-._/]){re.escape(wanted)}$", stem) is not None


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _MAX_LISTED} more" if len(shown) > _MAX_LISTED else ""
    return ", ".join(shown[:_MAX_LISTED]) + more
