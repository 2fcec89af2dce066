"""langchain-openai: OpenAIEmbeddings with a base URL."""

import math

from checks import MODEL, URL, equal, holds, run
from langchain_openai import OpenAIEmbeddings

TEXTS = ["A cat sits on the mat.", "A kitten is on the rug.", "Shares fell by two percent."]


def model(**how):
    # Other servers' tokenizers are not OpenAI's: texts, not ids, must be sent.
    settings = {"model": MODEL, "check_embedding_ctx_length": False, "max_retries": 0, **how}
    return OpenAIEmbeddings(base_url=f"{URL}/v1", api_key="none", **settings)


def product(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def documents():
    cat, kitten, shares = model().embed_documents(TEXTS)
    holds(math.isclose(product(cat, cat), 1, abs_tol=1e-5), "not of length 1")
    holds(product(cat, kitten) > 0.5 > 0.2 > product(cat, shares), "not alike as they should be")


def a_query():
    (document, *_), query = model().embed_documents(TEXTS[:1]), model().embed_query(TEXTS[0])
    holds(math.isclose(product(document, query), 1, abs_tol=1e-5), "the query differs from the document")


def many_documents_in_batches():
    many = model(chunk_size=16).embed_documents([f"Number {number}." for number in range(50)])
    equal(len(many), 50, "embeddings")


run(documents, a_query, many_documents_in_batches)
