"""Which words of `jaxserve run` are a model, and which a question."""

import pytest

from server.chat.command import split_model_and_question


@pytest.mark.parametrize(
    ("words", "model", "question"),
    [
        ([], None, ""),
        (["org/name"], "org/name", ""),
        (["org/name-GGUF:Q4_K_M", "Hi there"], "org/name-GGUF:Q4_K_M", "Hi there"),
        (["model.gguf", "Hi", "there"], "model.gguf", "Hi there"),
        (["Why is the sky blue?"], None, "Why is the sky blue?"),
        (["two words", "and more"], None, "two words and more"),
    ],
)
def test_a_single_word_is_a_model_and_several_are_a_question(words, model, question):
    assert split_model_and_question(words) == (model, question)


def test_a_model_s_path_may_hold_spaces(tmp_path):
    path = tmp_path / "my model"
    path.mkdir()
    assert split_model_and_question([str(path), "Hi"]) == (str(path), "Hi")
