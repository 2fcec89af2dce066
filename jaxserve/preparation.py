"""RequestPreparer: everything that can be known of a request without running the model, found out once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxserve.admission import QueueSlot
from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.errors import GenerationFailed
from jaxserve.layers.adapter import Adapter
from jaxserve.models.pooling_spec import PoolingSpec
from jaxserve.output_plan import OutputPlan, OutputPlanner
from jaxserve.prompt_input import ChatPrompt, PromptInput, TextPrompt
from jaxserve.request_limits import RequestLimits
from jaxserve.sampling_params import SamplingParams, check_token_ids
from jaxserve.text.bad_words import encode_bad_words
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A request that is prepared: nothing checks it again. Only `prepare` makes one, and only `generate` takes it.

    prompt_ids           The tokens of the prompt, truncated if params ask for it.
    params               The sampling parameters, with the max_tokens that applies.
    output_plan          The constraints of the output and the way to parse it.
    bad_sequences        The token sequences of bad_words.
    slot                 Its places in the queue; None: it takes them when it starts.
    cache_salt           Cached prefixes are shared only among requests with the same salt.
    adapter              What changes the weights for it; None: nothing.
    data_parallel_rank   The replica that must serve it; None: any.
    is_truncated         A part of the prompt was removed.
    snapshot_borders     Positions up to which later prompts may share this one (text/prompt_borders.py), of a model
                         that needs them.
    prompt_text          The text that the chat template rendered, before any truncation; None without a conversation.
    pooling              Nothing is generated: the prompt's hidden vectors are pooled in this way.
    second_start         The position at which the second of two texts begins, for an encoder.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    output_plan: OutputPlan
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    slot: QueueSlot | None = None
    cache_salt: str | None = None
    data_parallel_rank: int | None = None
    is_truncated: bool = False
    prompt_text: str | None = None
    snapshot_borders: tuple[int, ...] = ()
    adapter: Adapter | None = None
    pooling: PoolingSpec | None = None
    second_start: int | None = None

    @property
    def unenforced_formats(self) -> tuple[str, ...]:
        """The `format` values in the request's schemas that are not enforced."""
        return self.output_plan.unenforced_formats


class RequestPreparer:
    """Prepares requests for one model. Its methods block: call them from threads that may wait."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: PromptRenderer, planner: OutputPlanner, limits: RequestLimits
    ) -> None:
        self._tokenizer, self._prompts, self._planner, self._limits = tokenizer, prompts, planner, limits

    def prepare(
        self,
        prompt: PromptInput,
        params: SamplingParams,
        output: ChatOutputSpec | None = None,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        adapter: Adapter | None = None,
        data_parallel_rank: int | None = None,
    ) -> Ready:
        """Render, tokenize, truncate and check a request, and compile its grammar.

        output    how a chat output is parsed; its prompt_text is filled in here. None for text that continues the
                  prompt
        adapter   what changes the weights for it

        Raises RequestError, which names the field, for a request that cannot be served, EngineStopped after `close`.
        """
        options: dict[str, Any] = {"cache_salt": cache_salt, "adapter": adapter}
        options["data_parallel_rank"] = data_parallel_rank
        return self.prepare_all([prompt], params, output, slot, **options)[0]

    def prepare_all(
        self,
        prompts: Sequence[PromptInput],
        params: SamplingParams,
        output: ChatOutputSpec | None = None,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        adapter: Adapter | None = None,
        data_parallel_rank: int | None = None,
    ) -> list[Ready]:
        """Prepare a request of several prompts; what they have in common is done once.

        Raises as `prepare`, and GenerationFailed if the slot is released meanwhile: nobody waits for the result.
        """
        params = self._limits.check_params(params)
        bad_sequences = encode_bad_words(params.bad_words, self._tokenizer)
        prepared = []
        for prompt in prompts:
            if slot is not None and slot.is_released:
                raise GenerationFailed("The request was given up while its prompts were prepared.")
            token_ids, prompt_text, borders = self._tokenize(prompt, params)
            prompt_ids = tuple(params.truncate(token_ids, self._limits.max_model_len))
            prompt_params = self._limits.check_length(prompt_ids, params)
            if borders and len(prompt_ids) < len(token_ids):
                borders = (len(prompt_ids),)
            prompt_output = output
            if output is not None and prompt_text is not None:
                prompt_output = replace(output, prompt_text=prompt_text)
            ready = Ready(
                prompt_ids=prompt_ids,
                params=prompt_params,
                output_plan=self._planner.plan(prompt_params, prompt_output, prompt_ids),
                bad_sequences=bad_sequences,
                slot=slot,
                cache_salt=cache_salt,
                adapter=adapter,
                data_parallel_rank=data_parallel_rank,
                is_truncated=len(prompt_ids) < len(token_ids),
                prompt_text=prompt_text,
                snapshot_borders=borders,
            )
            prepared.append(ready)
        return prepared

    def _tokenize(
        self, prompt: PromptInput, params: SamplingParams
    ) -> tuple[Sequence[int], str | None, tuple[int, ...]]:
        """Return the token ids of a prompt, the text of a conversation, and the borders if the model needs them."""
        counting = params.truncate_prompt_tokens is not None  # it may be longer than what is read of it
        match prompt:
            case ChatPrompt():
                rendered = self._prompts.render_chat(prompt, counting=counting)
                borders = self._prompts.find_borders(prompt, rendered) if self._limits.has_states else ()
                return rendered.token_ids, rendered.text, borders
            case TextPrompt():
                token_ids = self._prompts.encode(
                    prompt.text, add_special_tokens=prompt.add_special_tokens, counting=counting
                )
                return token_ids, None, (len(token_ids),) if self._limits.has_states else ()
        check_token_ids("prompt", prompt, self._limits.vocab_size)
        return prompt, None, (len(prompt),) if self._limits.has_states else ()
