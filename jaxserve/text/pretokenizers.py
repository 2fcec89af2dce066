"""Pre-tokenizations before byte-level BPE, by their names in GGUF files (tokenizer.ggml.pre).

The names are those of llama.cpp's converter; what each means is read from the tokenizer.json of a model that carries
it. Every name here was checked: ids equal to the model's own tokenizer, or to llama.cpp's published test vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Punctuation, Sequence, Split

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

# Words, numbers of up to `digits` digits, signs, and spaces: GPT-4's pattern.
_GPT4 = _CONTRACTIONS + r"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|" + _SPACES
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
# Words are split where capitals follow small letters; `tail` may follow a word.
_CASED = (
    r"[^\r\n\p{{L}}\p{{N}}]?[{upper}]*[{lower}]+{tail}|[^\r\n\p{{L}}\p{{N}}]?[{upper}]+[{lower}]*{tail}"
    r"|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + _SPACES
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CJK = "[一-龥ࠀ-一가-퟿]+"


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """The steps before BPE for one kind of vocabulary.

    create_pre_tokenizer   Makes the pre-tokenizer.
    ignore_merges          A pre-token that is in the vocabulary becomes that token, without merges.
    create_normalizer      Makes the normalizer that runs first; None: none.
    adds_bos               A text begins with the BOS token if the file does not say.
    """

    create_pre_tokenizer: Callable[[], PreTokenizer]
    ignore_merges: bool = False
    create_normalizer: Callable[[], Normalizer] | None = None
    adds_bos: bool = False


def _words() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_words() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _words()])


def _falcon() -> PreTokenizer:
    split = Split(Regex("[0-9][0-9][0-9]"), behavior="isolated")
    return Sequence([Punctuation(behavior="contiguous"), _words(), Digits(individual_digits=False), split])


def _split(*patterns: str) -> Callable[[], PreTokenizer]:
    def make() -> PreTokenizer:
        cuts: list[PreTokenizer] = [Split(Regex(pattern), behavior="isolated") for pattern in patterns]
        return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])

    return make


def _deepseek_coder() -> PreTokenizer:
    cuts = [Split(Regex(p), behavior="isolated") for p in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK)]
    return Sequence([*cuts, Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt4(digits: str) -> Callable[[], PreTokenizer]:
    return _split(_GPT4.format(digits=digits))


def _cased(tail: str, digits: str) -> Callable[[], PreTokenizer]:
    return _split(_CASED.format(upper=_UPPER, lower=_LOWER, tail=tail, digits=digits))


_GPT2 = PreTokenization(_words)
_STARCODER = PreTokenization(_digits_then_words)
_QWEN2 = PreTokenization(_gpt4(""), create_normalizer=NFC)
_LLAMA3 = PreTokenization(_gpt4("{1,3}"), ignore_merges=True, adds_bos=True)
_DBRX = PreTokenization(_gpt4("{1,3}"))

PRE_TOKENIZATIONS: dict[str, PreTokenization] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "mpt": _GPT2,
    "phi-2": _GPT2,
    "smollm": _STARCODER,
    "starcoder": _STARCODER,
    "refact": _STARCODER,
    "command-r": _STARCODER,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "qwen35": PreTokenization(_split(_QWEN35), create_normalizer=NFC),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "dbrx": _DBRX,
    "smaug-bpe": _DBRX,
    "chatglm-bpe": _DBRX,
    "glm4": PreTokenization(_gpt4("{1,3}"), ignore_merges=True),
    "tekken": PreTokenization(_cased("", ""), ignore_merges=True),
    "gpt-4o": PreTokenization(_cased(_CONTRACTIONS + "?", "{1,3}"), ignore_merges=True),
    "deepseek-v3": PreTokenization(_split(*_DEEPSEEK_V3)),
    "deepseek-coder": PreTokenization(_deepseek_coder),
    "falcon": PreTokenization(_falcon),
}
