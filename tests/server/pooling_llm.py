"""PoolingLLM: the interface of an AsyncLLM whose model pools, without a model. One token is one character."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxserve import (
    ChatPrompt,
    FinishReason,
    PoolingParams,
    PoolingTask,
    SamplingParams,
    TextDelta,
    TextPair,
    TextPrompt,
)
from jaxserve.models.pooling_spec import PoolingSpec
from jaxserve.sampling_params import check_token_ids
from tests.fake_llm import BOS, FakeLLM, FakeReady

WIDTH = 4
EMBEDDER = PoolingTask(
    name="embed",
    spec=PoolingSpec(kind="last"),
    normalizes=True,
    dimensions=(2,),
    prompts={"query": "Q:", "code": "C:"},
)
SCORER = PoolingTask(name="score", spec=PoolingSpec(kind="cls"), activation="sigmoid", labels=("LABEL_0",))
CLASSIFIER = PoolingTask(
    name="classify", spec=PoolingSpec(kind="cls"), activation="softmax", labels=("bad", "good", "best")
)


@dataclass
class Cancelled:
    """A request of which nothing is left to cancel."""

    handle: Any

    def cancel(self) -> None:
        self.handle.cancel()


class PoolingLLM(FakeLLM):
    """What is pooled depends on the tokens: see `pool`. prepared: the tokens and parameters of all requests."""

    def __init__(self, task: PoolingTask = EMBEDDER, **config: Any) -> None:
        super().__init__(**config)
        self.task = task
        self.embedding_width = WIDTH
        self.prepared: list[tuple[tuple[int, ...], PoolingParams]] = []

    async def prepare_pooling(self, inputs: Sequence[Any], params: PoolingParams, slot: Any, **options: Any) -> Any:
        self.options = options
        kept = self.limits.get_pooled_length(params)
        SamplingParams(priority=params.priority).check_priority(self.config.scheduling_policy)
        return [self._prepare(each, params, kept) for each in inputs]

    def _prepare(self, given: Any, params: PoolingParams, kept: int | None) -> FakeReady:
        match given:
            case TextPrompt():
                ids = [BOS] * given.add_special_tokens + [ord(letter) for letter in given.text]
            case TextPair():
                ids = [BOS, *map(ord, given.first), BOS, *map(ord, given.second)]
            case ChatPrompt():
                assert not given.add_generation_prompt
                ids = [ord(letter) for message in given.messages for letter in message["content"]]
            case _:
                check_token_ids("prompt", given, self.vocab_size)
                ids = list(given)
        if kept is not None:
            ids = ids[-kept:] if params.truncation_side == "left" else ids[:kept]
        self.limits.check_pooled_length(ids)
        self.prepared.append((tuple(ids), params))
        sampling = SamplingParams(max_tokens=0, echo_only=True, priority=params.priority)
        return FakeReady(tuple(ids), sampling, self.options["cache_salt"], None)

    def start(
        self, ready: FakeReady, on_delta: Callable[[TextDelta], None], on_error: Callable[[Exception], None]
    ) -> Any:
        delta = TextDelta(0, "", finish_reason=FinishReason.STOP, pooled=self.pool(ready.prompt_ids))
        return Cancelled(asyncio.get_running_loop().call_soon(on_delta, delta))

    def pool(self, ids: Sequence[int]) -> np.ndarray:
        """Of an embedder: the number of tokens, the first, the last and their sum; else a number for each label."""
        if self.task.name == "embed":
            return np.array([len(ids), ids[0], ids[-1], sum(ids) % 97], np.float32)
        return np.array([ids[-1] / 100 - label for label in range(len(self.task.labels))], np.float32)
