"""The answer of POST /v1/chat/completions: one object, or role, echo, delta, finish and usage chunks."""

from typing import Any

from jaxserve import TextDelta
from server.logprobs import chat_entries
from server.replies import Frame, UsageKeeper, gently, total_usage, whole_prompt_table
from server.runs import Run
from server.schemas.chat import ChatRequest

WHOLE, CHUNK = "chat.completion", "chat.completion.chunk"


def echoed(request: ChatRequest, role: str) -> str | None:
    """The last message's text, when it is to be repeated in front of the answer."""
    last = request.messages[-1]
    return last.text if request.echo and last.role == role else None


def prompt_text(request: ChatRequest, run: Run) -> dict[str, str | None]:
    """What the template made of the messages, when it was asked for; whether it was truncated or not."""
    return {"prompt_text": run.jobs[0].prompt_text} if request.return_prompt_text else {}


class ChatReply:
    """The whole answer at once."""

    def __init__(self, request: ChatRequest, frame: Frame, run: Run) -> None:
        self._request, self._frame, self._run = request, frame, run

    async def whole(self) -> dict[str, Any]:
        """Waits for all choices. Raises what ended the run."""
        choices = await self._run.whole()
        job, news = self._run.jobs[0], self._run.prompts[0]
        return {
            **self._frame.head(WHOLE),
            "choices": [await self._choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": self._frame.fingerprint,
            "usage": total_usage(self._frame, self._run, sum(len(choice.token_ids) for choice in choices)),
            "prompt_logprobs": await whole_prompt_table(news.logprobs, job.params.prompt_logprobs or 0),
            "prompt_token_ids": list(job.prompt_ids) if self._request.return_token_ids else None,
            "kv_transfer_params": None,
            **prompt_text(self._request, self._run),
        }

    async def _choice(self, choice: TextDelta) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {
                "role": self._frame.role,
                "content": (echoed(self._request, self._frame.role) or "") + choice.text,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": await self._logprobs(choice) if self._request.logprobs else None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": list(choice.token_ids) if self._request.return_token_ids else None,
        }

    async def _logprobs(self, choice: TextDelta) -> dict[str, Any]:
        k, as_ids = self._run.jobs[0].params.logprobs or 0, self._frame.tokens_as_ids
        return {"content": await gently(choice.logprobs or (), lambda entries: chat_entries(entries, k, as_ids))}


class ChatStream:
    """The answer chunk by chunk; every generated token appears in exactly one of them."""

    def __init__(self, request: ChatRequest, frame: Frame, run: Run) -> None:
        self._request, self._frame, self._run = request, frame, run
        self._usage = UsageKeeper(request, frame, run)
        self._tells_tokens = bool(request.logprobs or request.return_token_ids)

    def opening(self) -> list[dict[str, Any]]:
        """A role chunk for each choice, and the echoed text behind them."""
        indices = range(self._run.num_choices)
        roles = [self._chunk(index, {"role": self._frame.role, "content": ""}) for index in indices]
        if self._request.return_token_ids:
            for chunk in roles:
                chunk["prompt_token_ids"] = list(self._run.jobs[0].prompt_ids)
        for chunk in roles:
            chunk |= prompt_text(self._request, self._run)
        text = echoed(self._request, self._frame.role)
        return roles + [self._chunk(index, {"content": text}) for index in indices if text]

    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]:
        """One chunk; none when nothing can be told yet."""
        is_last = delta.finish_reason is not None
        has_news = delta.text or (self._tells_tokens and delta.token_ids)
        self._usage.count(delta)
        if not (has_news or is_last):
            return []
        chunk = self._chunk(delta.index, {"content": delta.text} if has_news else {}, is_last=is_last)
        choice = chunk["choices"][0]
        if self._request.logprobs and delta.logprobs:
            k, as_ids = self._run.jobs[0].params.logprobs or 0, self._frame.tokens_as_ids
            choice["logprobs"] = {"content": chat_entries(delta.logprobs, k, as_ids)}
        if is_last:
            choice["finish_reason"] = delta.finish_reason
            choice["stop_reason"] = delta.stop_reason
        if self._request.return_token_ids:
            choice["token_ids"] = list(delta.token_ids)
        return [chunk]

    def closing(self) -> list[dict[str, Any]]:
        return self._usage.closing(CHUNK)

    def _chunk(self, index: int, delta: dict[str, Any], *, is_last: bool = False) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._usage.add({**self._frame.head(CHUNK), "choices": [choice]}, index, is_last=is_last)
