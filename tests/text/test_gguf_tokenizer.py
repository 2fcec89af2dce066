"""A tokenizer rebuilt from GGUF metadata gives the ids of the tokenizer it was written from."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from jaxserve.errors import BadCheckpoint
from jaxserve.text.gguf_tokenizer import build_tokenizer
from jaxserve.text.pretokenizers import PRE_TOKENIZATIONS
from jaxserve.text.tokenizer import Tokenizer
from tests import assets
from tests.text.tiny_tokenizers import byte_fallback_backend, byte_level_backend

DATA = Path(__file__).parents[1] / "data" / "text"
FILE = Path("tiny.gguf")


def metadata(backend, model: str, **extra) -> dict:
    """What a converter writes of this tokenizer, two padding tokens included."""
    content = json.loads(backend.to_str())
    added = {token["id"]: token for token in content["added_tokens"]}
    pieces = {id: piece for piece, id in content["model"]["vocab"].items()}
    pieces |= {id: token["content"] for id, token in added.items()}
    size = len(pieces)
    types = [(3 if added[id]["special"] else 4) if id in added else 1 for id in range(size)]
    types = [6 if pieces[id].startswith("<0x") else kind for id, kind in enumerate(types)]
    tokens = [*(pieces[id] for id in range(size)), f"[PAD{size}]", "<unused>"]
    merges = content["model"]["merges"]
    ranks = {"".join(pair): -float(rank) for rank, pair in enumerate(merges, 1)}
    fields = {
        "model": model,
        "tokens": tokens,
        "token_type": [*types, 4, 5],
        "merges": [" ".join(pair) for pair in merges],
        "scores": [ranks.get(token, -1e9) for token in tokens],
        **extra,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


BYTE_LEVEL, FALLBACK = byte_level_backend(), byte_fallback_backend()
OF_BYTE_LEVEL = metadata(BYTE_LEVEL, "gpt2", pre="default", eos_token_id=2, padding_token_id=0)
OF_FALLBACK = metadata(FALLBACK, "llama", bos_token_id=1, eos_token_id=2, unknown_token_id=0)
REBUILT = {
    "gpt2": Tokenizer(build_tokenizer(OF_BYTE_LEVEL, FILE)),
    "llama": Tokenizer(build_tokenizer(OF_FALLBACK, FILE)),
}


@given(st.text() | st.text("the <|im_end|><tool_call>\n "))
def test_byte_level_ids_are_the_original_s(text):
    assert REBUILT["gpt2"].encode(text) == BYTE_LEVEL.encode(text).ids


@given(st.text() | st.text("hello the H▁"))
def test_sentencepiece_ids_are_the_original_s(text):
    ids = FALLBACK.encode(text).ids
    assert REBUILT["llama"].encode(text, add_special_tokens=False) == ids
    assert REBUILT["llama"].decode(ids) == FALLBACK.decode(ids, skip_special_tokens=False)


SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*"helowrd,!a", *(f"##{each}" for each in "helowrd"), "hello", "##ld", "wor", "日"]


def wordpiece(*more: str) -> Backend:
    backend = Backend(WordPiece({piece: id for id, piece in enumerate([*SPECIALS, *PIECES, *more])}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not more)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(SPECIALS)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def wordpiece_metadata(backend: Backend) -> dict:
    """What llama.cpp's converter writes: words begin with a space, and what follows has no mark."""
    pieces = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    tokens = [
        piece if piece in SPECIALS else piece[2:] if piece.startswith("##") else f"▁{piece}" for piece, _ in pieces
    ]
    fields = {"model": "bert", "tokens": tokens, "token_type": [3 if each in SPECIALS else 1 for each in tokens]}
    fields |= {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0}
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


UNCASED, CASED = wordpiece(), wordpiece("H", "World")
OF_UNCASED, OF_CASED = wordpiece_metadata(UNCASED), wordpiece_metadata(CASED)


@given(st.text() | st.text("héllo wórld, HW日[SEP]!"))
def test_wordpiece_ids_are_the_original_s(text):
    for original, values in ((UNCASED, OF_UNCASED), (CASED, OF_CASED)):
        rebuilt = build_tokenizer(values, FILE).backend
        assert rebuilt.encode(text).ids == original.encode(text).ids
        pair, expected = rebuilt.encode(text, "hello"), original.encode(text, "hello")
        assert (pair.ids, pair.type_ids) == (expected.ids, expected.type_ids)


def test_wordpiece_without_the_tokens_around_a_text_is_refused():
    with pytest.raises(BadCheckpoint, match=r"cls_token_id or seperator_token_id is missing"):
        build_tokenizer({key: value for key, value in OF_CASED.items() if "cls" not in key}, FILE)


def test_special_tokens_and_ids_come_from_the_metadata():
    tokenizer = REBUILT["gpt2"]
    assert tokenizer.special_tokens == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (2, None)
    assert tokenizer.special_ids == {0, 1, 2}


def test_tokens_that_only_pad_the_table_do_not_exist():
    size = BYTE_LEVEL.get_vocab_size()
    assert REBUILT["gpt2"].vocab_size == size
    assert REBUILT["gpt2"].decode([size, size + 1]) == ""


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [({}, [1], []), ({"add_bos_token": False}, [], []), ({"add_eos_token": True}, [1], [2])],
)
def test_the_flags_say_what_frames_a_text(flags, before, after):
    fields = OF_FALLBACK | {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    tokenizer = Tokenizer(build_tokenizer(fields, FILE))
    assert tokenizer.encode("x") == before + tokenizer.encode("x", add_special_tokens=False) + after


def test_templates_have_names():
    fields = OF_BYTE_LEVEL | {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b"}
    fields["tokenizer.chat_templates"] = ["tool_use"]
    assert build_tokenizer(fields, FILE).chat_templates == {"default": "a", "tool_use": "b"}


def pretokenized() -> list:
    golden = json.loads((DATA / "pretokenized.json").read_text())
    return [(name, golden["texts"], cuts) for name, cuts in golden["pieces"].items()]


@pytest.mark.parametrize(
    ("name", "texts", "cuts"), pretokenized(), ids=lambda value: value if type(value) is str else ""
)
def test_texts_are_cut_as_by_the_models_that_carry_the_rule(name, texts, cuts):
    rule = PRE_TOKENIZATIONS[name]
    if rule.create_normalizer is not None:
        texts = [rule.create_normalizer().normalize_str(text) for text in texts]
    assert [[piece for piece, _ in rule.create_pre_tokenizer().pre_tokenize_str(text)] for text in texts] == cuts


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "t5"}, "t5"),
        ({"pre": "unheard-of"}, "unheard-of"),
        ({"tokens": None}, "tokens"),
        ({"token_type": [1]}, "token_type"),
        ({"merges": ["nospace"]}, "merges"),
        ({"merges": ["a zzzz"]}, "merges"),
        ({"merges": 3}, "merges"),
    ],
)
def test_what_is_missing_or_unknown_is_named(change, word):
    fields = OF_BYTE_LEVEL | {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    with pytest.raises(BadCheckpoint, match=word):
        build_tokenizer(fields, FILE)


def llama_cpp_vectors(name: str) -> list[tuple[str, list[int]]]:
    texts = (DATA / "llama_cpp.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(id) for id in line.split()] for line in (DATA / name).read_text().split("\n")]
    return list(zip(texts, ids, strict=False))


@pytest.mark.assets
def test_smollm2_s_ids_are_those_of_its_own_tokenizer():
    tokenizer = Tokenizer.load(assets.model())
    cases = json.loads((DATA / "smollm2_ids.json").read_text())["cases"]
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]


@pytest.mark.assets
def test_qwen_s_ids_are_those_of_the_published_vectors():
    tokenizer = Tokenizer.load(assets.model("qwen2.5-coder-0.5b"))
    for text, ids in llama_cpp_vectors("llama_cpp_qwen2.out"):
        assert tokenizer.encode(text, add_special_tokens=False) == ids


@pytest.mark.assets
def test_the_storyteller_s_ids_are_those_of_the_published_vectors():
    tokenizer = Tokenizer.load(assets.model("stories15m"))
    for text, ids in llama_cpp_vectors("llama_cpp_llama_spm.out"):
        assert tokenizer.encode(text, add_special_tokens=False) == ids


@pytest.mark.assets
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [9259, 1902]),
        ("  two  spaces\n\n\ttab", [138, 13498, 138, 35220, 108, 255968, 4823]),
        ("naïve 🙂 漢字", [1789, 238527, 560, 57235, 236743, 201637]),
        ("<start_of_turn>user\n", [105, 2364, 107]),
    ],
)
def test_gemma_3_s_ids_are_those_of_its_own_tokenizer(text, ids):
    tokenizer = Tokenizer.load(assets.model("gemma-3-270m"))
    assert tokenizer.encode(text) == [2, *ids]
    assert tokenizer.decode(ids) == text
