"""Read vocabularies of ranked byte strings: tiktoken files, and Mistral's tekken.json.

Both are byte-level BPE in which the pair whose joint token has the lowest rank is joined first. Formats:
https://github.com/openai/tiktoken/blob/main/tiktoken/load.py (one line a token, base64 and rank) and
https://github.com/mistralai/mistral-common (tokens/tokenizers/tekken.py).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as InOrder

from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import MAX_TOKENIZER_BYTES, read_model_file
from jaxserve.text.pretokenizers import PRE_TOKENIZATIONS, PreTokenization
from jaxserve.text.token_bytes import CHAR_OF_BYTE

# model_type of config.json → the name of the family's pre-tokenization in GGUF files.
PRE_TOKENIZATION_BY_MODEL_TYPE = {
    "llama": "llama-bpe",
    "qwen": "qwen2",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
    "gpt_oss": "gpt-4o",
}
TEKKEN_NAMES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
# The special tokens of tekken files that list none (tokenizer versions up to v7), in the order of their ids.
TEKKEN_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
# Of Llama 3.1 to 3.3, behind the ranked tokens (llama-models, tokenizer.py); 3.0 has other names for unused ones.
LLAMA3_RANKS = 128_000
LLAMA3_SPECIALS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", *(f"<|reserved_special_token_{n}|>" for n in range(3, 248))),
)


def is_tiktoken_file(file: Path) -> bool:
    """Return whether the file begins with a line of base64 and a rank, as tiktoken files do whatever their name is."""
    try:
        with open(file, "rb") as opened:
            word, rank = opened.readline(4096).split()
            base64.b64decode(word, validate=True)
            return rank.isdigit()
    except (OSError, ValueError):
        return False


def read_tiktoken(file: Path, model_type: Any, names: Mapping[int, str]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Return the backend of a tiktoken file, and the tokens that have a role ("bos_token").

    model_type   That of config.json, which determines the pre-tokenization: the file does not have it.
    names        The special tokens, id → text, from tokenizer_config.json: the file does not have them.

    Raises BadCheckpoint if the file is broken, or the pre-tokenization is not known.
    """
    rule = PRE_TOKENIZATION_BY_MODEL_TYPE.get(str(model_type))
    if rule is None:
        raise BadCheckpoint(
            f"{file.name} in {file.parent} does not say how it cuts texts, and for the model_type {model_type!r} "
            "that is not known. Add the model's tokenizer.json."
        )
    try:
        ranks = {}
        for line in read_model_file(file, MAX_TOKENIZER_BYTES).splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{file.name} in {file.parent} is no tiktoken file: {error}.") from error
    roles: dict[str, str] = {}
    if not names and model_type == "llama" and len(ranks) == LLAMA3_RANKS:
        names = {LLAMA3_RANKS + index: name for index, name in enumerate(LLAMA3_SPECIALS)}
        roles = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    backend = _backend(ranks, names, PRE_TOKENIZATIONS[rule], file)
    return backend, roles


def read_tekken(file: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Return the backend of a tekken.json, and the tokens that have a role. Raises BadCheckpoint if it is broken."""
    try:
        content = json.loads(read_model_file(file, MAX_TOKENIZER_BYTES))
        config = content["config"]
        num_special, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        listed = content.get("special_tokens")
        texts = TEKKEN_SPECIALS if listed is None else _by_rank(listed)
        specials = [*texts, *(f"<SPECIAL_{id}>" for id in range(len(texts), num_special))]
        ranked = content["vocab"][: size - num_special]
        ranks = {base64.b64decode(entry["token_bytes"]): num_special + int(entry["rank"]) for entry in ranked}
        pre_tokenizer = _pre_tokenizer(str(config["pattern"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadCheckpoint(f"{file.name} in {file.parent} is no tekken file: {error!r}.") from error
    if len(specials) != num_special or len(ranks) != size - num_special:
        raise BadCheckpoint(
            f"{file.name} in {file.parent} announces {num_special} special tokens and {size} in all, and has "
            f"{len(specials)} and {len(specials) + len(ranks)}."
        )
    rule = PreTokenization(lambda: pre_tokenizer)
    backend = _backend(ranks, dict(enumerate(specials)), rule, file)
    return backend, {name: token for name, token in TEKKEN_NAMES.items() if token in specials}


def _by_rank(listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the special tokens' texts in the order of their ids. Raises ValueError unless these are 0, 1, 2, …"""
    ordered = sorted(listed, key=lambda entry: entry["rank"])
    if [entry["rank"] for entry in ordered] != list(range(len(ordered))):
        raise ValueError("the ranks of special_tokens are not 0, 1, 2, …")
    return [str(entry["token_str"]) for entry in ordered]


def _pre_tokenizer(pattern: str) -> PreTokenizer:
    try:
        split = Split(Regex(pattern), behavior="isolated")
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"the pattern {pattern[:80]!r} is no regular expression") from error
    return InOrder([split, ByteLevel(add_prefix_space=False, use_regex=False)])


def _backend(
    ranks: Mapping[bytes, int], names: Mapping[int, str], rule: PreTokenization, file: Path
) -> tokenizers.Tokenizer:
    """Return byte-level BPE with these ids. Raises BadCheckpoint if a special token is also an ordinary one."""
    vocab = {_to_alphabet(token): id for token, id in ranks.items()}
    taken = set(ranks.values())
    specials = {name: id for id, name in names.items() if id not in taken}
    if clash := specials.keys() & vocab.keys():
        raise BadCheckpoint(f"{file.name} in {file.parent} has the special token {min(clash)!r} among its others.")
    bpe = BPE(vocab=vocab | specials, merges=_merges(ranks), ignore_merges=True)  # tiktoken looks a piece up first
    backend = tokenizers.Tokenizer(bpe)
    if rule.create_normalizer is not None:
        backend.normalizer = rule.create_normalizer()
    backend.pre_tokenizer = rule.create_pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return backend


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Return every split of every token into two tokens, ordered by the rank of the whole."""
    pieces = {token: _to_alphabet(token) for token in ranks}
    ranked = []
    for token, rank in ranks.items():
        for split in range(1, len(token)):
            left, right = ranks.get(token[:split]), ranks.get(token[split:])
            if left is not None and right is not None:
                ranked.append((rank, left, right, token[:split], token[split:]))
    ranked.sort()
    return [(pieces[left], pieces[right]) for *_, left, right in ranked]


def _to_alphabet(token: bytes) -> str:
    """Return the token in GPT-2's alphabet, as byte-level vocabularies have it."""
    return "".join(CHAR_OF_BYTE[byte] for byte in token)
