"""RequestLimits: what a request may ask of one model. Each check is made once, while the request is prepared."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxserve.cache.groups import GroupSize, num_main_pages
from jaxserve.config import EngineConfig
from jaxserve.engine.beam_manager import max_beam_tokens
from jaxserve.errors import InvalidParameter, PromptTooLong
from jaxserve.generation_defaults import GenerationDefaults
from jaxserve.models.pooling_spec import PoolingTask, PoolingTaskName
from jaxserve.pooling_params import PoolingParams
from jaxserve.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one model as it is served.

    config         The configuration as resolved: every limit is a number.
    defaults       The model's longest output, if its files name one.
    vocab_size     The number of logits.
    cache_groups   The sizes of the cache groups.
    task           What the model pools for; None: it generates.
    """

    config: EngineConfig
    defaults: GenerationDefaults
    vocab_size: int
    cache_groups: tuple[GroupSize, ...]
    task: PoolingTask | None = None

    @property
    def num_pages(self) -> int:
        """The number of pages of the main cache group, page 0 included, which holds no tokens."""
        return num_main_pages(self.cache_groups)

    @property
    def has_states(self) -> bool:
        """Whether layers of the model are recurrent."""
        return any(group.is_recurrent for group in self.cache_groups)

    @property
    def max_model_len(self) -> int:
        """The most tokens of a prompt and its output together."""
        assert self.config.max_model_len
        return self.config.max_model_len

    def check_params(self, params: SamplingParams) -> SamplingParams:
        """Check sampling parameters, whatever the prompt is.

        Returns them with no more log-probabilities than there are tokens.

        Raises InvalidParameter, which names the field, for what cannot be served, and for a model that pools.
        """
        if self.task is not None:
            raise InvalidParameter(
                f"This model is served for the task {self.task.name} and generates no text; a server that does is"
                " started with --task generate."
            )
        if params.max_tokens is not None and params.max_tokens > self.max_model_len:
            raise InvalidParameter(
                f"max_tokens is {params.max_tokens} and cannot be greater than max_model_len, which is"
                f" {self.max_model_len}.",
                "max_tokens",
            )
        cap, counts = self.config.max_logprobs, {}
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(params, name)
            if count is not None and count > cap >= 0:
                raise InvalidParameter(f"{name} asks for {count} alternatives; at most {cap} are allowed.", name)
            counts[name] = count and min(count, self.vocab_size)
        params.check_vocabulary(self.vocab_size)
        params.check_priority(self.config.scheduling_policy)
        if params.routed_experts_prompt_start and not self.config.enable_return_routed_experts:
            raise InvalidParameter(
                f"routed_experts_prompt_start is {params.routed_experts_prompt_start}, and no experts are returned; a"
                " server that returns them is started with --enable-return-routed-experts.",
                "routed_experts_prompt_start",
            )
        rows = self.config.max_num_seqs
        assert rows
        if params.use_beam_search and params.n > rows:
            raise InvalidParameter(
                f"n={params.n} beams are more than the {rows} sequences that run at once (max_num_seqs).", "n"
            )
        changed = {name: count for name, count in counts.items() if count != getattr(params, name)}
        return params.derive(**changed) if changed else params

    def check_length(self, prompt_ids: Sequence[int], params: SamplingParams) -> SamplingParams:
        """Check the length of a prompt and of its output. Returns params with the max_tokens that applies.

        Raises PromptTooLong if the prompt leaves no room for an output, InvalidParameter if it is empty or leaves too
        little for min_tokens.
        """
        limit, num_prompt_tokens = self.max_model_len, len(prompt_ids)
        if not num_prompt_tokens:
            raise InvalidParameter("The prompt is empty: it has no tokens.", "prompt")
        if num_prompt_tokens >= limit:
            raise PromptTooLong(
                f"The prompt is too long. This model's maximum context length is {limit} tokens, but the prompt has"
                f" {num_prompt_tokens} tokens, which leaves no room for an answer. Please reduce the length of the"
                " messages or the prompt."
            )
        if params.routed_experts_prompt_start > num_prompt_tokens:
            raise InvalidParameter(
                f"routed_experts_prompt_start must be at most {num_prompt_tokens}, the number of tokens of the prompt,"
                f" got {params.routed_experts_prompt_start}.",
                "routed_experts_prompt_start",
            )
        if params.echo_only:
            return params.derive(max_tokens=0)
        requested = params.max_tokens or self.defaults.values.get("max_new_tokens") or limit
        max_tokens = min(limit - num_prompt_tokens, requested, self.defaults.hard_max_tokens or limit)
        if params.use_beam_search:
            page_size = self.config.page_size
            max_tokens = max_beam_tokens(num_prompt_tokens, params.n, max_tokens, self.cache_groups, page_size)
        if params.min_tokens > max_tokens:
            raise InvalidParameter(
                f"min_tokens={params.min_tokens} is more than the {max_tokens} tokens that can be generated.",
                "min_tokens",
            )
        return params.derive(max_tokens=max_tokens)

    def get_task(self, *names: PoolingTaskName) -> PoolingTask:
        """Return what the model pools for, which must be one of these tasks.

        Raises InvalidParameter if it is none of them, or the model generates.
        """
        served = "generate" if self.task is None else self.task.name
        if self.task is None or served not in names:
            raise InvalidParameter(
                f"This model is served for the task {served}; this needs one that is served with --task"
                f" {' or '.join(names)}."
            )
        return self.task

    def get_pooled_length(self, params: PoolingParams) -> int | None:
        """Return to how many tokens a text is cut; None: it is not.

        Raises InvalidParameter if that is more than the model's length.
        """
        kept = params.truncate_prompt_tokens
        if kept is not None and kept > self.max_model_len:
            raise InvalidParameter(
                f"truncate_prompt_tokens={kept} is more than the {self.max_model_len} tokens of the longest text.",
                "truncate_prompt_tokens",
            )
        return self.max_model_len if kept == -1 else kept

    def check_pooled_length(self, prompt_ids: Sequence[int]) -> None:
        """Check the length of a text that is pooled.

        Raises InvalidParameter if it has no tokens, PromptTooLong if it has too many.
        """
        if not prompt_ids:
            raise InvalidParameter("A text is empty: it has no tokens.", "prompt")
        if len(prompt_ids) > self.max_model_len:
            raise PromptTooLong(
                f"A text is too long: it has {len(prompt_ids)} tokens, and this model reads {self.max_model_len}."
                " Shorten it, or send truncate_prompt_tokens: -1."
            )


def check_rank(rank: int, num_replicas: int, name: str) -> None:
    """Check the number of a replica, which the caller has given as `name`.

    Raises InvalidParameter if there is no such replica.
    """
    if not 0 <= rank < num_replicas:
        last = num_replicas - 1
        allowed = f"from 0 to {last}: there are {num_replicas} replicas" if last else "0: there is one replica"
        raise InvalidParameter(f"{name} must be {allowed}, got {rank}.", None)
