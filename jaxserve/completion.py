"""Merge the text deltas of one prompt into its Completion."""

from jaxserve.output_stream import OutputStream
from jaxserve.outputs import Choice, Completion, FinishReason, TextDelta, ToolCall, ToolCallDelta, Usage


def merge_deltas(stream: OutputStream, deltas: list[TextDelta]) -> Completion:
    """Return the Completion that all deltas of a stream add up to."""
    choices = tuple(
        _merge_choice(index, [delta for delta in deltas if delta.index == index])
        for index in range(len(stream.choice_ids))
    )
    usage = Usage(
        prompt_tokens=stream.num_prompt_tokens,
        completion_tokens=sum(len(choice.token_ids) for choice in choices),
        cached_tokens=next((delta.num_cached_tokens for delta in deltas if delta.index == 0), 0),
    )
    prompt_logprobs = next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None)
    return Completion(stream.requests[0].prompt_ids, choices, usage, prompt_logprobs)


def _merge_choice(index: int, deltas: list[TextDelta]) -> Choice:
    last = deltas[-1]
    has_logprobs = any(delta.logprobs is not None for delta in deltas)
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
    )


def _merge_tool_calls(deltas: list[ToolCallDelta]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(first.id, first.name or "", "".join(delta.arguments for delta in deltas if delta.index == first.index))
        for first in deltas
        if first.id is not None
    )
