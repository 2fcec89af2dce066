"""PoolingPreparer: what can be known of a request that is embedded, scored or classified without running the model."""

from collections.abc import Sequence

from jaxserve.admission import QueueSlot
from jaxserve.errors import GenerationFailed
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.output_plan import PLAIN_TEXT
from jaxserve.pooling_params import PoolingParams
from jaxserve.preparation import Ready
from jaxserve.prompt_input import ChatPrompt, PoolingInput, TextPair, TextPrompt
from jaxserve.request_limits import RequestLimits
from jaxserve.sampling_params import SamplingParams, check_token_ids
from jaxserve.text.pair_encoding import EncodedTexts, encode_texts
from jaxserve.text.pair_prompt import format_pair, knows_pairs, make_pair_messages
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer

MAX_CUTS = 4  # of a document until its prompt is short enough; its end may be tokenized otherwise when it is cut


class PoolingPreparer:
    """Prepares requests for one model that pools. Its methods block: call them from threads that may wait."""

    def __init__(self, tokenizer: Tokenizer, prompts: PromptRenderer, limits: RequestLimits) -> None:
        self._tokenizer, self._prompts, self._limits = tokenizer, prompts, limits
        self._knows_pairs = knows_pairs(prompts.templates.default_source)

    def prepare_all(
        self,
        inputs: Sequence[PoolingInput],
        params: PoolingParams,
        slot: QueueSlot | None = None,
        *,
        cache_salt: str | None = None,
        data_parallel_rank: int | None = None,
    ) -> list[Ready]:
        """Tokenize, truncate and check all inputs of a request.

        Raises RequestError, which names the field, for a request that cannot be served, and GenerationFailed if the
        slot is released meanwhile: nobody waits for the result.
        """
        task = self._limits.get_task("embed", "score", "classify")
        sampling = SamplingParams(max_tokens=0, echo_only=True, priority=params.priority)
        sampling.check_priority(self._limits.config.scheduling_policy)
        max_tokens = self._limits.get_pooled_length(params)
        prepared = []
        for each in inputs:
            if slot is not None and slot.is_released:
                raise GenerationFailed("The request was given up while its texts were prepared.")
            encoded = self._tokenize(each, params, max_tokens, task)
            self._limits.check_pooled_length(encoded.token_ids)
            prepared.append(
                Ready(
                    prompt_ids=tuple(encoded.token_ids),
                    params=sampling,
                    output_plan=PLAIN_TEXT,
                    slot=slot,
                    cache_salt=cache_salt,
                    data_parallel_rank=data_parallel_rank,
                    pooling=task.spec,
                    second_start=encoded.second_start,
                )
            )
        return prepared

    def _tokenize(
        self, given: PoolingInput, params: PoolingParams, max_tokens: int | None, task: PoolingTask
    ) -> EncodedTexts:
        side = params.truncation_side
        match given:
            case TextPrompt():
                self._prompts.check_text(given.text, counting=max_tokens is not None)
                return encode_texts(
                    self._tokenizer,
                    given.text,
                    max_tokens=max_tokens,
                    side=side,
                    add_special_tokens=given.add_special_tokens,
                )
            case ChatPrompt():
                token_ids = self._prompts.render_chat(given, counting=max_tokens is not None).token_ids
            case TextPair():
                return self._tokenize_pair(given, params, max_tokens, task)
            case _:
                check_token_ids("prompt", given, self._limits.vocab_size)
                token_ids = given
        if max_tokens is not None and len(token_ids) > max_tokens:
            token_ids = token_ids[-max_tokens:] if side == "left" else token_ids[:max_tokens]
        return EncodedTexts(token_ids)

    def _tokenize_pair(
        self, pair: TextPair, params: PoolingParams, max_tokens: int | None, task: PoolingTask
    ) -> EncodedTexts:
        for text in (pair.first, pair.second):
            self._prompts.check_text(text, counting=max_tokens is not None)
        if not self._knows_pairs and task.pair_format is None:
            side = params.truncation_side
            return encode_texts(self._tokenizer, pair.first, pair.second, max_tokens=max_tokens, side=side)
        token_ids, document = self._encode_question(pair.first, pair.second, task), pair.second
        for _ in range(MAX_CUTS):
            if max_tokens is None or len(token_ids) <= max_tokens:
                break
            own_ids = self._tokenizer.encode(document, add_special_tokens=False)
            num_kept = max(0, len(own_ids) - (len(token_ids) - max_tokens))
            own_ids = own_ids[len(own_ids) - num_kept :] if params.truncation_side == "left" else own_ids[:num_kept]
            document = self._tokenizer.decode(own_ids)
            token_ids = self._encode_question(pair.first, document, task)
        return EncodedTexts(token_ids)

    def _encode_question(self, query: str, document: str, task: PoolingTask) -> Sequence[int]:
        """Return the ids of the prompt in which a model is asked about a pair of texts."""
        if self._knows_pairs:
            return self._prompts.render_chat(make_pair_messages(query, document), counting=True).token_ids
        assert task.pair_format is not None
        return self._prompts.encode(
            format_pair(task.pair_format, query, document), add_special_tokens=False, counting=True
        )
