"""The text in which a language model is asked whether a document answers a query.

Its form comes with the model (PoolingTask.pair_format); a chat template that knows the roles query and document
replaces it.
"""

import re

from jaxserve.prompt_input import ChatPrompt

ROLES = ("query", "document")
PLACE = re.compile(r"\{(query|document)\}")


def knows_pairs(template: str | None) -> bool:
    """Whether a chat template reads messages of a query and of a document."""
    return template is not None and all(f'"{role}"' in template or f"'{role}'" in template for role in ROLES)


def make_pair_messages(query: str, document: str) -> ChatPrompt:
    """Return the conversation that such a template renders."""
    texts = zip(ROLES, (query, document), strict=True)
    messages = [{"role": role, "content": text} for role, text in texts]
    return ChatPrompt(messages=messages, add_generation_prompt=True)


def format_pair(pair_format: str, query: str, document: str) -> str:
    """Return the text for a model without such a template."""
    texts: dict[str, str] = {"query": query, "document": document}
    return PLACE.sub(lambda place: texts[place[1]], pair_format)
