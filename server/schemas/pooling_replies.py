"""The types of the replies of models that pool."""

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from server.schemas.generation_replies import describe


class PoolingUsage(TypedDict):
    """Token counts of a request; nothing is generated."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: Literal[0]
    prompt_tokens_details: NotRequired[Annotated[dict[str, int], describe("If some were cached.")]]


class EmbeddingJson(TypedDict):
    """The embedding of one input."""

    index: int
    object: Literal["embedding"]
    embedding: Annotated[list[float] | str, describe("Numbers, or base64 of little-endian float32.")]


class EmbeddingList(TypedDict):
    """The embeddings, in the order of the inputs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[EmbeddingJson]
    usage: PoolingUsage


class PooledJson(TypedDict):
    """The pooled result of one input."""

    index: int
    object: Literal["pooling"]
    data: Annotated[list[float] | list[list[float]] | str, describe("A vector, or one for each token.")]


class PooledList(TypedDict):
    """The pooled results of the inputs, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PooledJson]
    usage: PoolingUsage


class ClassificationJson(TypedDict):
    """The probabilities of one input's labels."""

    index: int
    label: Annotated[str, describe("The most probable one.")]
    probs: list[float]
    num_classes: int


class ClassificationList(TypedDict):
    """The classes of the inputs, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ClassificationJson]
    usage: PoolingUsage


class ScoreJson(TypedDict):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(TypedDict):
    """The scores of the pairs, in their order."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreJson]
    usage: PoolingUsage


class RankedDocument(TypedDict):
    """A document as it was sent."""

    text: str


class RerankResult(TypedDict):
    """One ranked document."""

    index: Annotated[int, describe("Its place in the request.")]
    document: NotRequired[RankedDocument]
    relevance_score: float


class RerankUsage(TypedDict):
    """Token counts of a ranking."""

    total_tokens: int


class Ranking(TypedDict):
    """The documents, best first; of equal ones the earlier first."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]
