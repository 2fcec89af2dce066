"""The markers fast and long.

fast: files whose tests take less than 11 s of processor time together, measured one by one. All of them take 90 to
100 s: with `-m fast --numprocesses 2` less than a minute on two idle cores.
long: what took longest of the whole suite, a quarter of its time, and shows again what shorter tests show: with real
clients and corpora of schemas, on eight devices step by step, and with bugs that the simulation must find. scripts/test
leaves them out unless they are asked for: `scripts/test -m long`. Those with real weights have a shorter sibling in
end_to_end/test_real_weights.py.
"""

import pytest

FAST = {
    "api": "output_plan progress_bars signatures",
    "cache": "audit events pages pool prefix sizing",
    "deploy": "deploy_guides deploy_image deploy_kubernetes deploy_queries deploy_systemd deploy_tracing",
    "engine": "beam_manager buckets compile contracts priorities profiler repetition roofline scheduler stats thread",
    "models": "architectures",
    "parallel": "placement",
    "ray_serve": "ray_forwarding ray_prompts ray_relay ray_settings",
    "sampling": "columns",
    "server": "auth body chat_message chat_stream custom_middleware errors reasoning_fields reasoning_reply"
    " reply_headers tools_reply truncation writer",
    "tests": "dependencies docstrings exact_json generation_defaults sampling_params structure",
    "text": "added_tokens chat_template detection detokenizer messages prompt_reasoning reasoning stop template_text"
    " text_stream tiktoken_files tool_schemas",
    "weights": "fetch gguf gguf_files hub layouts load orbax protobuf safetensors",
}
LONG = (
    "api/test_conversion.py::test_leaves_of_every_other_family_are_turned_back",
    "end_to_end/test_clients.py",
    "contract/test_hostile_grammars_over_http.py",
    "contract/test_many_schemas_over_http.py",
    "contract/test_structured_schemas_over_http.py",
    "engine/test_packed.py::test_without_a_compiler_the_plain_product_serves",
    "models/test_gemma3_270m.py::test_logits_match_transformers_behind_the_window",
    "models/test_smollm2.py::test_twenty_prompts_are_continued",
    "parallel/test_eight_devices.py::test_on_eight_devices[check_families.py]",
    "parallel/test_eight_devices.py::test_on_eight_devices[check_tokens.py]",
    "simulation/test_simulation.py::test_a_bug_is_found",
    "structured/test_schema_corpora.py",
)


FAST_FILES = {(folder, f"test_{name}.py") for folder, names in FAST.items() for name in names.split()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark fast and long tests."""
    for item in items:
        if (item.path.parent.name, item.path.name) in FAST_FILES:
            item.add_marker("fast")
        if any(part in item.nodeid for part in LONG):
            item.add_marker("long")
