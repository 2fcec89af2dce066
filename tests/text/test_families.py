"""Real tokenizers and templates of more than twenty families: their dialects are detected and parse their calls."""

import pytest

from jaxserve.text.chat_template import ChatTemplates
from jaxserve.text.detection import collect_facts, detect_reasoning_parser, detect_tool_parser
from tests.text.families import FAMILIES, KNOWN_TEMPLATES, template_named, templates_of, tokenizer_of
from tests.text.template_corpus import templates
from tests.text.tiny_tokenizers import byte_level_backend, make

pytestmark = pytest.mark.assets


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_their_dialects_are_found(family):
    facts = collect_facts(tokenizer_of(family), templates_of(family), {"model_type": family.model_type})
    found = detect_tool_parser(facts), detect_reasoning_parser(facts)
    assert [one.name for one in found] == [family.tool_parser, family.reasoning_parser], found


@pytest.mark.parametrize("known", KNOWN_TEMPLATES, ids=lambda known: known.name)
def test_dialects_are_found_in_templates_alone(known):
    template = template_named(known.source, known.template)
    templates_ = ChatTemplates({"default": template.source}, template.special_tokens)
    facts = collect_facts(make(byte_level_backend()), templates_, {"model_type": known.model_type})
    found = detect_tool_parser(facts), detect_reasoning_parser(facts)
    assert [each.name for each in found] == [known.tool_parser, known.reasoning_parser], found


# What each template of llama.cpp's collection shows, if it is anything: tool calls, reasoning.
SHOWN = {
    "Apriel-1.6-15b-Thinker-fixed": ("jamba", None),
    "Bielik-11B-v3.0-Instruct": ("hermes", "deepseek_v3"),
    "ByteDance-Seed-OSS": ("seed_oss", "seed_oss"),
    "Cohere2MoE": ("cohere_command3", "cohere_command3"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("cohere_command3", "cohere_command3"),
    "GLM-4.6": ("glm45", "glm45"),
    "GLM-4.7-Flash": ("glm47", "glm45"),
    "GigaChat3-10B-A1.8B": ("gigachat3", None),
    "GigaChat3.1-10B-A1.8B": ("gigachat3", None),
    "HuggingFaceTB-SmolLM3-3B": (None, "qwen3"),
    "Kimi-K2-Instruct": ("kimi_k2", None),
    "Kimi-K2-Thinking": ("kimi_k2", "kimi_k2"),
    "LFM2.5-8B-A1B": ("lfm2", "deepseek_r1"),
    "MiMo-VL": ("hermes", None),
    "MiniMax-M2": ("minimax_m2", "minimax_m2"),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral", None),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen3_coder", "qwen3"),
    "NVIDIA-Nemotron-Nano-v2": (None, "deepseek_r1"),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ("hermes", None),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "Qwen-QwQ-32B": ("hermes", "deepseek_v3"),
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "qwen3"),
    "Qwen3-Coder": ("qwen3_coder", None),
    "Qwen3.5-4B": ("qwen3_coder", "qwen3"),
    "Reka-Edge": ("hermes", "deepseek_v3"),
    "Spark2.5": ("glm47", "qwen3"),
    "StepFun3.5-Flash": ("qwen3_coder", "deepseek_r1"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": (None, "deepseek_r1"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (None, "deepseek_v3"),
    "deepseek-ai-DeepSeek-V3.1": (None, "deepseek_v3"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseek_v32", "deepseek_v3"),
    "deepseek-ai-DeepSeek-V4": ("deepseek_v4", "deepseek_v3"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("deepseek_v4", "deepseek_v3"),
    "google-gemma-4-31B-it": ("gemma4", "gemma4"),
    "google-gemma-4-31B-it-interleaved": ("gemma4", "gemma4"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "granite"),
    "ibm-granite-granite-4.0": ("granite4", None),
    "ibm-granite-granite-4.1": ("granite4", None),
    "inclusionai-ling-3.0-flash": ("glm45", "qwen3"),
    "llama-cpp-deepseek-r1": ("deepseek_v3", "deepseek_r1"),
    "llama-cpp-rwkv-world": (None, "qwen3"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3_json", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3_json", None),
    "meta-llama-Llama-3.3-70B-Instruct": ("llama3_json", None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "mistral"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "moonshotai-Kimi-K2": ("kimi_k2", None),
    "openai-gpt-oss-120b": ("openai", "openai_gptoss"),
    "openbmb-MiniCPM5-1B": ("minicpm5", "qwen3"),
    "poolside-Laguna-S-2.1": ("glm47", "qwen3"),
    "poolside-Laguna-XS-2.1": ("glm45", "deepseek_v3"),
    "poolside-Laguna-XS.2": ("glm45", "deepseek_v3"),
    "unsloth-Apriel-1.5": ("jamba", None),
    "unsloth-mistral-Devstral-Small-2507": ("mistral", None),
}


def test_dialects_of_seventy_templates_are_detected_without_a_vocabulary():
    tokenizer, found = make(byte_level_backend()), {}
    for template in templates("llama-cpp"):
        facts = collect_facts(tokenizer, ChatTemplates({"default": template.source}, template.special_tokens), {})
        found[template.name] = (detect_tool_parser(facts).name, detect_reasoning_parser(facts).name)
    assert {name: parsers for name, parsers in found.items() if parsers != (None, None)} == SHOWN
    assert len(found) == 70
