"""litellm's embeddings and ranks, by its providers for servers like OpenAI's and vLLM."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks the network for prices

import litellm
from checks import MODEL, URL, equal, holds, run

litellm.suppress_debug_info = True
TEXTS = ["A cat sits on the mat.", "A kitten is on the rug.", "Shares fell by two percent."]
WHERE = {"api_base": f"{URL}/v1", "api_key": "none"}


def vectors(provider, **how):
    answer = litellm.embedding(model=f"{provider}/{MODEL}", input=TEXTS, **WHERE, **how)
    holds(answer.usage.prompt_tokens, "no usage")
    return [one["embedding"] for one in answer.data]


def product(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def embeddings():
    cat, kitten, shares = vectors("hosted_vllm")
    holds(product(cat, kitten) > 0.5 > 0.2 > product(cat, shares), "not alike as they should be")


def embeddings_of_openai():
    for one, other in zip(vectors("openai", encoding_format="float"), vectors("hosted_vllm"), strict=True):
        holds(abs(product(one, other) - 1) < 1e-5, "the providers differ")


def a_rank():
    answer = litellm.rerank(
        model=f"hosted_vllm/{MODEL}",
        query="Where is the cat?",
        documents=TEXTS[::-1],
        top_n=2,
        return_documents=True,
        **WHERE,
    )
    equal([one["index"] for one in answer.results], [2, 1], "the order")
    equal(answer.results[0]["document"]["text"], TEXTS[0], "the best document")
    return f"relevance {', '.join(format(one['relevance_score'], '.2f') for one in answer.results)}"


def a_rank_in_the_form_of_cohere():
    answer = litellm.rerank(
        model=f"cohere/{MODEL}", query="Where is the cat?", documents=TEXTS[::-1], api_base=URL, api_key="none"
    )
    equal([one["index"] for one in answer.results], [2, 1, 0], "the order")


run(embeddings, embeddings_of_openai, a_rank, a_rank_in_the_form_of_cohere)
