"""The answer of POST /v1/chat/completions: one object, or role, echo, delta, finish and usage chunks."""

from typing import Any

from jaxserve import TextDelta
from server.chat_message import Speech
from server.config import ServerConfig
from server.logprobs import chat_entries
from server.replies import Frame, Generated, UsageKeeper, gently, total_usage, whole_prompt_table
from server.runs import Run
from server.schemas.chat import ChatRequest
from server.schemas.tools import tool_choice
from server.tool_metrics import ToolMetrics

WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"


def speech_of(request: ChatRequest, config: ServerConfig) -> Speech:
    """An echo is the last message's text, if the one who answers is who said it."""
    role, last = request.response_role(config.response_role), request.messages[-1]
    return Speech(
        role=role,
        echo=(last.text if last.role == role else "") if request.echo else None,
        tool_choice=tool_choice(request),
        tells_reasoning=request.tells_reasoning,
        copies_reasoning=config.legacy_reasoning_content,
    )


class _Answers:
    """What the whole answer and the stream have in common. Tokens that would tell a reasoning which is not to be told
    are not told either."""

    def __init__(self, request: ChatRequest, frame: Frame, run: Run, speech: Speech, tools: ToolMetrics) -> None:
        self._request, self._frame, self._run, self._speech, self._tools = request, frame, run, speech, tools
        may_tell = speech.tells_reasoning or not frame.counts_reasoning
        self._tells_logprobs = bool(request.logprobs) and may_tell
        self._tells_ids = bool(request.return_token_ids) and may_tell

    @property
    def _prompt_text(self) -> dict[str, str | None]:
        """What the template made of the messages, when it was asked for; whether it was truncated or not."""
        return {"prompt_text": self._run.jobs[0].prompt_text} if self._request.return_prompt_text else {}

    def _count(self, delta: TextDelta, mode: str) -> None:
        if self._speech.tool_choice != "none":
            self._tools.count(mode, has_call=bool(delta.tool_calls))

    @property
    def _k(self) -> int:
        return self._run.jobs[0].params.logprobs or 0


class ChatReply(_Answers):
    """The whole answer at once."""

    async def whole(self) -> dict[str, Any]:
        """Waits for all choices. Raises what ended the run."""
        choices = await self._run.whole()
        job, news = self._run.jobs[0], self._run.prompts[0]
        return {
            **self._frame.head(WHOLE),
            "choices": [await self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._frame.fingerprint,
            "usage": total_usage(self._frame, self._run, Generated.of(choices)),
            "prompt_logprobs": await whole_prompt_table(news.logprobs, job.params.prompt_logprobs or 0),
            "prompt_token_ids": list(job.prompt_ids) if self._request.return_token_ids else None,
            "kv_transfer_params": None,
            **self._prompt_text,
        }

    async def _choice(self, choice: TextDelta) -> dict[str, Any]:
        self._count(choice, "non_streaming")
        return {
            "index": choice.index,
            "message": self._speech.message(choice),
            "logprobs": await self._logprobs(choice) if self._tells_logprobs else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._tells_ids else None,
        }

    async def _logprobs(self, choice: TextDelta) -> dict[str, Any]:
        k, as_ids = self._k, self._frame.tokens_as_ids
        return {"content": await gently(choice.logprobs or (), lambda entries: chat_entries(entries, k, as_ids))}


class ChatStream(_Answers):
    """The answer chunk by chunk; every generated token appears in exactly one of them."""

    def __init__(self, request: ChatRequest, frame: Frame, run: Run, speech: Speech, tools: ToolMetrics) -> None:
        super().__init__(request, frame, run, speech, tools)
        self._usage = UsageKeeper(request, frame, run)

    def opening(self) -> list[dict[str, Any]]:
        """A role chunk for each choice, and the echoed text behind them."""
        indices = range(self._run.num_choices)
        roles = [self._chunk(index, {"role": self._speech.role, "content": ""}) for index in indices]
        if self._request.return_token_ids:
            for chunk in roles:
                chunk["prompt_token_ids"] = list(self._run.jobs[0].prompt_ids)
        for chunk in roles:
            chunk |= self._prompt_text
        text = self._speech.echo
        return roles + [self._chunk(index, {"content": text}) for index in indices if text]

    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]:
        """One chunk; none when nothing can be told yet. A token without news still has one, if tokens are told."""
        is_last = delta.finish_reason is not None
        self._usage.count(delta)
        self._count(delta, "streaming")
        told = self._speech.delta(delta)
        if not told and delta.token_ids and (self._tells_logprobs or self._tells_ids):
            told = {"content": ""}
        if not (told or is_last):
            return []
        chunk = self._chunk(delta.index, told, is_last=is_last)
        choice = chunk["choices"][0]
        if self._tells_logprobs and delta.logprobs:
            choice["logprobs"] = {"content": chat_entries(delta.logprobs, self._k, self._frame.tokens_as_ids)}
        if is_last:
            choice["finish_reason"] = delta.finish_reason
            choice["stop_reason"] = delta.stop_reason
        if self._tells_ids:
            choice["token_ids"] = list(delta.token_ids)
        return [chunk]

    def closing(self) -> list[dict[str, Any]]:
        return self._usage.closing(CHUNK)

    def _chunk(self, index: int, delta: dict[str, Any], *, is_last: bool = False) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._usage.add({**self._frame.head(CHUNK), "choices": [choice]}, index, is_last=is_last)
