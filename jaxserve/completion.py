"""Merge the text deltas of one prompt into its Completion."""

from collections.abc import Iterable

import numpy as np

from jaxserve.outputs import Choice, Completion, FinishReason, TextDelta, ToolCall, ToolCallDelta, Usage
from jaxserve.preparation import Ready


def merge_deltas(ready: Ready, deltas: Iterable[TextDelta]) -> Completion:
    """Return the Completion that all deltas of a request add up to."""
    by_choice: list[list[TextDelta]] = [[] for _ in range(ready.params.n)]
    for delta in deltas:
        by_choice[delta.index].append(delta)
    choices = tuple(_merge_choice(index, own_deltas) for index, own_deltas in enumerate(by_choice))
    usage = Usage(
        prompt_tokens=len(ready.prompt_ids),
        completion_tokens=sum(len(choice.token_ids) for choice in choices),
        cached_tokens=by_choice[0][0].num_cached_tokens,
    )
    prompt_logprobs = next((delta.prompt_logprobs for delta in by_choice[0] if delta.prompt_logprobs is not None), None)
    return Completion(ready.prompt_ids, choices, usage, prompt_logprobs)


def _merge_choice(index: int, deltas: list[TextDelta]) -> Choice:
    last = deltas[-1]
    has_logprobs = any(delta.logprobs is not None for delta in deltas)
    experts = [delta.routed_experts for delta in deltas if delta.routed_experts is not None]
    return Choice(
        index=index,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        finish_reason=last.finish_reason or FinishReason.ABORT,
        stop_reason=last.stop_reason,
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs or ()) if has_logprobs else None,
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=_merge_tool_calls([call for delta in deltas for call in delta.tool_calls]),
        num_reasoning_tokens=sum(delta.num_reasoning_tokens for delta in deltas),
        routed_experts=np.concatenate(experts) if experts else None,
    )


def _merge_tool_calls(deltas: list[ToolCallDelta]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(first.id, first.name or "", "".join(delta.arguments for delta in deltas if delta.index == first.index))
        for first in deltas
        if first.id is not None
    )
