"""The text in which a language model is asked whether a document answers a query.

The form is that of Qwen3-Reranker's model card; a chat template that knows the roles query and document replaces it.
"""

from jaxserve.prompt_input import ChatPrompt

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
ROLES = ("query", "document")


def knows_pairs(template: str | None) -> bool:
    """Whether a chat template reads messages of a query and of a document."""
    return template is not None and all(f'"{role}"' in template or f"'{role}'" in template for role in ROLES)


def make_pair_messages(query: str, document: str) -> ChatPrompt:
    """Return the conversation that such a template renders."""
    texts = zip(ROLES, (query, document), strict=True)
    messages = [{"role": role, "content": text} for role, text in texts]
    return ChatPrompt(messages=messages, add_generation_prompt=True)


def format_pair(query: str, document: str) -> str:
    """Return the text for a model without such a template."""
    return f"{BEFORE}<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}{BEHIND}"
