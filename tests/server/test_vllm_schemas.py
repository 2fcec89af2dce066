"""The comparison with vLLM's request fields: what is read of its sources, and that every field of them is known."""

import zipfile

import pytest

from scripts.vllm_schemas import VllmFields, list_differences, list_drift, pairs, read_record, read_vllm
from server.schemas.fields import get_rows
from tests.sources import write

LEGACY = {"best_of", "early_stopping", "guided_decoding_backend"}  # of batches; vLLM's chat no longer has them
PROTOCOL = "vllm/entrypoints/openai/chat_completion/protocol.py"
BASE = "vllm/entrypoints/base/protocol.py"
CHAT = '''
class ChatCompletionRequest(Base):
    """A request."""

    messages: list[int]
    kinds: ClassVar[set[str]] = set()
    _hidden: bool = False

    def f(self):
        local: int = 3
'''


def write_vllm(folder, *, without=""):
    """Write a package with all the classes that are asked for, most of them empty."""
    names = {name for _, wanted in pairs().values() for name in wanted} - {"ChatCompletionRequest", without}
    classes = "".join(f"class {name}(Model): pass\n" for name in sorted(names))
    version = "__version__ = version = '9.1.0'\n__commit_id__ = commit_id = 'gabc123'\n"
    base = "class Base(Model):\n    model: str | None = None\n"
    others = {"vllm/entrypoints/api_server.py": "class Other:\n    x: int", "vllm/_version.py": version}
    return write(folder, {PROTOCOL: classes + CHAT, BASE: base, **others})


def test_fields_are_those_of_a_class_and_its_bases(tmp_path):
    vllm = read_vllm(write_vllm(tmp_path))
    assert (vllm.version, vllm.commit) == ("9.1.0", "abc123")
    assert vllm.fields["/v1/chat/completions"] == ["messages", "model"]
    assert vllm.fields.keys() == pairs().keys()


def test_a_wheel_and_a_directory_are_read_alike(tmp_path):
    folder, wheel = write_vllm(tmp_path / "site"), tmp_path / "vllm.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.rglob("*.py"):
            archive.write(file, file.relative_to(folder).as_posix())
    assert read_vllm(wheel) == read_vllm(folder)


def test_a_class_that_is_gone_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no class RerankRequest for /v1/rerank"):
        read_vllm(write_vllm(tmp_path, without="RerankRequest"))


def test_drift_is_what_has_come_and_gone():
    old, new = VllmFields("1", "", {"a": ["x", "y"]}), VllmFields("2", "", {"a": ["y", "z"], "b": ["c"]})
    assert list_drift(old, new).splitlines() == ["a: + z", "a: - x", "b: + c"]
    assert list_drift(new, new) == ""


def test_differences_are_what_one_side_has_alone():
    record = read_record()
    fields = {**record.fields, "/detokenize": ["model", "new"]}
    (row,) = [line for line in list_differences(VllmFields("2", "", fields)).splitlines() if "/detokenize" in line]
    assert row == "| `/detokenize` | `new` | `tokens` |"


@pytest.mark.parametrize("title", pairs())
def test_every_field_of_vllm_is_known(title):
    assert set(read_record().fields[title]) - set(get_rows(pairs()[title][0])) <= LEGACY
