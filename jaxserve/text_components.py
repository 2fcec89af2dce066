"""TextComponents: the tokenizer, templates, dialects and generation defaults of one model."""

import logging
from dataclasses import dataclass

from jaxserve.engine.build import CheckedModel
from jaxserve.generation_defaults import SAMPLING_DEFAULT_KEYS, GenerationDefaults
from jaxserve.model_files import blame_model_files
from jaxserve.output_plan import OutputPlanner
from jaxserve.text.deadline import limit_time
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.turn_ends import find_turn_end

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextComponents:
    """The text side of a model: from a request to token ids and from token ids to an output.

    Built from the small files of a model before any weight is read, so that a mistake in them is found at once.

    tokenizer         The tokenizer.
    defaults          Sampling defaults and end tokens from the generation config.
    further_eos_ids   End tokens beside the tokenizer's primary one.
    prompts           Renders and tokenizes prompts.
    output_planner    Prepares grammars and parsers.
    description       Facts for people, in the order to print them.
    """

    tokenizer: Tokenizer
    defaults: GenerationDefaults
    further_eos_ids: frozenset[int]
    prompts: PromptRenderer
    output_planner: OutputPlanner
    description: dict[str, str]

    @classmethod
    def from_model(cls, model: CheckedModel, tokenizer: Tokenizer) -> "TextComponents":
        """Build the components of a model.

        Raises StartupError for a template, a parser or a generation config that cannot be used with this model.
        """
        for name in sorted((model.config.override_generation_config or {}).keys() - set(SAMPLING_DEFAULT_KEYS)):
            log.warning(
                "override_generation_config has %s, which is not read; %s are", name, ", ".join(SAMPLING_DEFAULT_KEYS)
            )
        with blame_model_files("the generation config"):
            defaults = GenerationDefaults.from_configs(model.config, model.generation_config, model.model_config)
        eos_id = tokenizer.eos_token_id
        primary = () if eos_id is None else (eos_id,)
        further = defaults.eos_ids - {eos_id}
        prompts = PromptRenderer(model.config, tokenizer)
        try:
            # One limit for all prompts that are tried, so that a template that never ends delays a start only once.
            with blame_model_files(f"the chat template in {model.path}"), limit_time(model.config.template_timeout_s):
                turn_end = find_turn_end(tokenizer, prompts.templates, {*primary, *further})
                further |= {turn_end.token_id} if turn_end else set()
                planner = OutputPlanner(
                    model.config,
                    tokenizer,
                    prompts,
                    model.model_config,
                    vocab_size=model.spec.vocab_size,
                    eos_ids=(*primary, *sorted(further)),
                )
        except BaseException:
            prompts.close()
            raise
        description = {
            "sampling defaults": str(defaults),
            "tool calls": str(planner.tool_parser),
            "reasoning": str(planner.reasoning_parser),
        }
        if turn_end is not None:
            description["answers end at"] = str(turn_end)
        return cls(tokenizer, defaults, further, prompts, planner, description)

    @property
    def has_broken_workers(self) -> bool:
        """Whether the workers of templates or of grammars cannot be started any more."""
        return self.prompts.has_broken_workers or self.output_planner.has_broken_workers

    @property
    def num_restarts(self) -> int:
        """The number of worker processes that were replaced because a template or a grammar broke them."""
        return self.prompts.num_restarts + self.output_planner.num_restarts

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        self.prompts.close()
        self.output_planner.close()
