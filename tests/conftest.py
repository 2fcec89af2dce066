"""The markers fast and long.

fast: files whose tests take less than 11 s of processor time together, measured one by one. All of them take 90 to
100 s: with `-m fast --numprocesses 2` less than a minute on two idle cores.
long: files that show over HTTP, with real weights, what tests of the rooms below show with fakes, or try a thing with
every call or schema that there is. scripts/test leaves them out, unless they are asked for: `scripts/test -m long`.
"""

import pytest

FAST = {
    "api": "output_plan progress_bars signatures",
    "cache": "audit pages pool prefix sizing",
    "engine": "beam_manager buckets compile contracts priorities profiler repetition roofline scheduler stats thread",
    "models": "architectures",
    "parallel": "placement",
    "sampling": "columns",
    "server": "auth body chat_message chat_stream custom_middleware errors reasoning_fields reasoning_reply"
    " reply_headers tools_reply truncation writer",
    "tests": "dependencies docstrings exact_json generation_defaults sampling_params structure",
    "text": "added_tokens chat_template detection detokenizer messages prompt_reasoning reasoning stop template_text"
    " text_stream tiktoken_files tool_schemas",
    "weights": "fetch gguf gguf_files hub layouts load orbax protobuf safetensors",
}
LONG = {
    "contract": "hostile_grammars_over_http many_schemas_over_http messages_over_http parsing_over_http"
    " structured_holding_over_http structured_schemas_over_http",
    "end_to_end": "every_call_fails_once",
}


def _list_files(marked: dict[str, str]) -> set[tuple[str, str]]:
    return {(folder, f"test_{name}.py") for folder, names in marked.items() for name in names.split()}


FAST_FILES, LONG_FILES = _list_files(FAST), _list_files(LONG)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of fast and of long files."""
    for item in items:
        file = (item.path.parent.name, item.path.name)
        if file in FAST_FILES:
            item.add_marker("fast")
        if file in LONG_FILES:
            item.add_marker("long")
