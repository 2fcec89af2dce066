"""The request fields of a vLLM that is installed or in a wheel, read from its sources without importing them.

Its pydantic models need torch to be imported; here ast reads the annotated names of their classes and base classes.
"""

import ast
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel

RECORD = Path(__file__).resolve().parents[1] / "tests" / "data" / "vllm" / "fields.json"
VERSION_FILE = "vllm/_version.py"
OTHER_FILES = ("vllm/sampling_params.py", "vllm/entrypoints/generate/generative_scoring/serving.py")


@dataclass(frozen=True, slots=True)
class VllmFields:
    """The request fields of one version of vLLM.

    version   its version
    commit    the beginning of the commit that it was built from, as its build wrote it
    fields    where they stand in our tables → the fields, sorted
    """

    version: str
    commit: str
    fields: Mapping[str, list[str]]


def pairs() -> dict[str, tuple[type[BaseModel], tuple[str, ...]]]:
    """Return for each table of FIELDS.md our schema and vLLM's classes that say the same."""
    from server.schemas.batch_chat import BatchChatRequest
    from server.schemas.chat import ChatRequest, FunctionJson, Tool
    from server.schemas.completions import CompletionRequest
    from server.schemas.constraint_fields import StructuredOutputsJson
    from server.schemas.generation import StreamOptions
    from server.schemas.generative_scoring import GenerativeScoringRequest
    from server.schemas.messages import CountTokensRequest, MessagesRequest
    from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, RerankRequest, ScoreRequest
    from server.schemas.responses import ResponsesRequest
    from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

    return {
        "/v1/chat/completions": (ChatRequest, ("ChatCompletionRequest",)),
        "/v1/chat/completions/batch": (BatchChatRequest, ("BatchChatCompletionRequest",)),
        "/v1/completions": (CompletionRequest, ("CompletionRequest",)),
        "tools": (Tool, ("ChatCompletionToolsParam",)),
        "tools[].function": (FunctionJson, ("FunctionDefinition",)),
        "stream_options": (StreamOptions, ("StreamOptions",)),
        "structured_outputs": (StructuredOutputsJson, ("StructuredOutputsParams",)),
        "/v1/responses": (ResponsesRequest, ("ResponsesRequest",)),
        "/v1/messages": (MessagesRequest, ("AnthropicMessagesRequest",)),
        "/v1/messages/count_tokens": (CountTokensRequest, ("AnthropicCountTokensRequest",)),
        "/v1/embeddings": (EmbeddingRequest, ("EmbeddingCompletionRequest", "EmbeddingChatRequest")),
        "/v1/classify": (ClassifyRequest, ("ClassificationCompletionRequest", "ClassificationChatRequest")),
        "/v1/score": (ScoreRequest, ("ScoreTextRequest",)),
        "/v1/rerank": (RerankRequest, ("RerankRequest",)),
        "/generative_scoring": (GenerativeScoringRequest, ("GenerativeScoringRequest",)),
        "/tokenize": (TokenizeRequest, ("TokenizeCompletionRequest", "TokenizeChatRequest")),
        "/detokenize": (DetokenizeRequest, ("DetokenizeRequest",)),
    }


def read_vllm(path: Path) -> VllmFields:
    """Read a wheel, or the directory that holds the package vllm, such as site-packages.

    Raises SystemExit if one of the classes is not there: it has another name now.
    """
    files = dict(_read_files(path))
    facts = ast.parse(files.pop(VERSION_FILE, ""))
    names = {
        target.id: node.value.value
        for node in facts.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    nodes = [node for text in files.values() for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    classes = {node.name: node for node in nodes}
    fields: dict[str, list[str]] = {}
    for title, (_, wanted) in pairs().items():
        if absent := [name for name in wanted if name not in classes]:
            raise SystemExit(f"{path} has no class {absent[0]} for {title}; see pairs() in {__file__}.")
        fields[title] = sorted({field for name in wanted for field in _list_fields(name, classes)})
    return VllmFields(str(names.get("version")), str(names.get("commit_id")).removeprefix("g"), fields)


def _read_files(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _is_wanted(name):
                    yield name, archive.read(name).decode()
        return
    for file in (path / "vllm").rglob("*.py"):
        if _is_wanted(name := file.relative_to(path).as_posix()):
            yield name, file.read_text(encoding="utf-8")


def _is_wanted(name: str) -> bool:
    is_protocol = name.startswith("vllm/entrypoints/") and name.endswith("/protocol.py")
    return is_protocol or name in (VERSION_FILE, *OTHER_FILES)


def _list_fields(name: str, classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """Return the annotated names of a class and of its base classes that are known."""
    if name not in classes:
        return set()
    node = classes[name]
    own = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        if not item.target.id.startswith("_") and "ClassVar" not in ast.unparse(item.annotation)
    }
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return own.union(*(_list_fields(base, classes) for base in bases))


def read_record() -> VllmFields:
    """Return the fields of the vLLM with which FIELDS.md was compared."""
    return VllmFields(**json.loads(RECORD.read_text(encoding="utf-8")))


def write_record(vllm: VllmFields) -> None:
    """Keep the fields of a vLLM as those with which FIELDS.md is compared."""
    RECORD.write_text(json.dumps(asdict(vllm), indent=1) + "\n", encoding="utf-8")


def list_differences(vllm: VllmFields) -> str:
    """Return a table of what only one side has. A key that is unknown here has no effect, as in vLLM."""
    from server.schemas.fields import get_rows

    lines = ["| Where | Only in vLLM | Only here |", "|---|---|---|"]
    for title, (schema, _) in pairs().items():
        ours, theirs = set(get_rows(schema)), set(vllm.fields[title])
        cells = (", ".join(f"`{name}`" for name in sorted(names)) for names in (theirs - ours, ours - theirs))
        lines.append(f"| `{title}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def list_drift(old: VllmFields, new: VllmFields) -> str:
    """Return what the newer vLLM has gained and lost, line by line; "" if nothing."""
    lines = []
    for title in new.fields:
        before, after = set(old.fields.get(title, ())), set(new.fields[title])
        lines += [f"{title}: + {name}" for name in sorted(after - before)]
        lines += [f"{title}: - {name}" for name in sorted(before - after)]
    return "".join(line + "\n" for line in lines)
