"""What a model that pools makes of its hidden vectors: on the device (PoolingSpec), and behind it (PoolingTask)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from jaxserve.models.dense_params import DenseModule

PoolingKind: TypeAlias = Literal["last", "mean", "cls", "all"]
"""The vector of the last token, the mean of all, that of the first token, or every token's vector as it is."""
PoolingTaskName: TypeAlias = Literal["embed", "score", "classify"]
"""A vector of a text; one score of a pair of texts; a probability for each of several labels."""
ScoreActivation: TypeAlias = Literal["sigmoid", "softmax", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingSpec:
    """The pooling of a sequence on the device.

    kind         Which vectors are pooled, and how.
    answer_ids   The tokens whose logits behind the last token are the output, such as those of "no" and "yes"; None:
                 the output is the pooled vector, or what the model's dense layers make of it.
    is_whole     Every token sees all others, so that sequences are computed whole, each in one call.
    """

    kind: PoolingKind
    answer_ids: tuple[int, ...] | None = None
    is_whole: bool = False

    @property
    def may_read_prefix_cache(self) -> bool:
        """Whether the output needs no hidden vectors but those behind a cached prefix."""
        return self.kind == "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingTask:
    """The meaning of a model's outputs, as its files say.

    name               What it is served for.
    spec               The pooling on the device.
    normalizes         Embeddings have length 1.
    dimensions         The lengths to which an embedding may be cut (matryoshka); True: any; empty: none.
    activation         Of scores and of labels.
    labels             The names of the labels, by index.
    prompts            Texts that go before a text, by name.
    default_prompt     The one of them that goes before a text if the request names none.
    pair_format        The text in which a language model is asked about a pair of texts, with {query} and {document} in
                       it; None: both are encoded as the tokenizer does.
    modules            Dense layers that have files of their own.
    max_tokens         The longest sequence that the model's files allow; None: what its network has positions for.
    reason             What has decided the task, for people.
    """

    name: PoolingTaskName
    spec: PoolingSpec
    normalizes: bool = False
    dimensions: tuple[int, ...] | Literal[True] = ()
    activation: ScoreActivation = "none"
    labels: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pair_format: str | None = None
    modules: tuple[DenseModule, ...] = ()
    max_tokens: int | None = None
    reason: str = ""

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees all others; a pair of texts is one sequence then, with two types of tokens."""
        return self.spec.is_whole
