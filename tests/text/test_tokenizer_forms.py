"""Every form of tokenizer loads where only jaxserve and what it declares is installed."""

import json

import pytest

from jaxserve.errors import BadCheckpoint
from jaxserve.text.tokenizer import Tokenizer
from tests import clean_environment
from tests.text.tiny_tokenizers import write_json
from tests.text.tokenizer_forms import CONTROL, FORMS, write_sentencepiece, write_tiktoken

TEXT = "The quick brown fox, over the 27 dogs. €\n 🦊"
SCRIPT = """
import json, sys
from jaxserve.text.tokenizer import Tokenizer
for directory in sys.argv[2:]:
    tokenizer = Tokenizer.load(directory)
    print(json.dumps(tokenizer.encode(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    made = {form: tmp_path_factory.mktemp("form") for form in FORMS}
    for form, write in FORMS.items():
        write(made[form])
    return made


@pytest.fixture(scope="module")
def in_a_bare_install(directories, tmp_path_factory):
    site = clean_environment.link_packages(tmp_path_factory.mktemp("site"))
    done = clean_environment.run(site, "-c", SCRIPT, TEXT, *map(str, directories.values()))
    assert done.returncode == 0, done.stderr
    return dict(zip(directories, map(json.loads, done.stdout.splitlines()), strict=True))


def test_a_bare_install_has_nothing_of_the_test_extra(tmp_path):
    site = clean_environment.link_packages(tmp_path)
    names = ("torch", "sentencepiece", "tiktoken", "onnx", "pytest")
    found = clean_environment.run(
        site, "-c", f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    )
    assert (found.stdout, found.stderr) == ("[]\n", "")


@pytest.mark.parametrize("form", FORMS)
def test_a_bare_install_reads_this_form_as_the_full_one_does(directories, in_a_bare_install, form):
    ids = in_a_bare_install[form]
    tokenizer = Tokenizer.load(directories[form])
    assert ids == tokenizer.encode(TEXT)
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT


@pytest.mark.parametrize("form", ["SentencePiece", "tekken", "tiktoken"])
def test_the_end_token_is_known_and_special(directories, form):
    tokenizer = Tokenizer.load(directories[form])
    assert tokenizer.special_tokens["eos_token"] == tokenizer.piece(tokenizer.eos_token_id)
    assert tokenizer.eos_token_id in tokenizer.special_ids


def test_added_tokens_get_the_ids_that_the_files_say(tmp_path):
    write_tiktoken(tmp_path, "qwen.tiktoken")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_token_id == tokenizer.vocab_size - 1 == 256 + 9 + 1  # one id before it is not used


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_added_to_a_sentencepiece_model_follow_its_own(tmp_path, name):
    write_sentencepiece(tmp_path)
    size = Tokenizer.load(tmp_path).vocab_size
    added = (
        {"<|turn|>": size}
        if name == "added_tokens.json"
        else {"added_tokens_decoder": {str(size): {"content": "<|turn|>", "special": True}}}
    )
    write_json(tmp_path, name, added)
    assert Tokenizer.load(tmp_path).encode("<|turn|>")[-1] == size
    write_json(tmp_path, name, json.loads(json.dumps(added).replace(str(size), "7")))
    with pytest.raises(BadCheckpoint, match="id 7"):
        Tokenizer.load(tmp_path)


def test_the_configuration_decides_what_frames_a_text(tmp_path):
    write_sentencepiece(tmp_path)
    for config, before, after in (({}, [1], []), ({"add_bos_token": False, "add_eos_token": True}, [], [2])):
        write_json(tmp_path, "tokenizer_config.json", config)
        tokenizer = Tokenizer.load(tmp_path)
        assert tokenizer.encode("fox") == before + tokenizer.encode("fox", add_special_tokens=False) + after


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.model", b"not a model", "no SentencePiece model"),
        ("tokenizer.model", b"IQ== 0\nnonsense\n", "no tiktoken file"),
        ("tokenizer.model", b"", "it has no pieces"),
        ("tekken.json", b"{}", "no tekken file: KeyError"),
        ("tekken.json", b"[", "no tekken file"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    write_json(tmp_path, "config.json", {"model_type": "llama"})
    with pytest.raises(BadCheckpoint, match=reason) as refused:
        Tokenizer.load(tmp_path)
    assert name in str(refused.value)


def test_a_tiktoken_file_of_an_unknown_family_is_refused(tmp_path):
    write_tiktoken(tmp_path)
    write_json(tmp_path, "config.json", {"model_type": "strange"})
    with pytest.raises(
        BadCheckpoint, match=r"model_type 'strange' that is not known\. Add the model's tokenizer\.json"
    ):
        Tokenizer.load(tmp_path)


def test_control_pieces_are_hidden_if_asked(directories):
    tokenizer = Tokenizer.load(directories["SentencePiece"])
    ids = tokenizer.encode(f"the{CONTROL}", add_special_tokens=False)
    assert (tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)) == (f"the{CONTROL}", "the")
