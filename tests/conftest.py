"""The marker fast: files whose tests take less than 11 s of processor time together, measured one by one.

All of them take 90 to 100 s of processor time: with `-m fast --numprocesses 2` less than a minute on two idle cores.
"""

from pathlib import Path

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
FAST_FILES = {(folder, f"test_{name}.py") for folder, names in FAST.items() for name in names.split()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of fast files."""
    for item in items:
        path = Path(item.path)
        if (path.parent.name, path.name) in FAST_FILES:
            item.add_marker("fast")
