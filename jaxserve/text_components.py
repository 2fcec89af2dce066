"""What the texts of a model need: its tokenizer, templates, dialects and generation defaults."""

import logging
from dataclasses import dataclass

from jaxserve.engine.build import CheckedModel
from jaxserve.generation_defaults import SAMPLING_DEFAULT_KEYS, GenerationDefaults
from jaxserve.output_plan import OutputPlanner
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.text.turn_ends import find_turn_end

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextComponents:
    """Made from a model's small files alone, before any weight is read: what is wrong in them costs nothing.

    further_eos_ids   ends of an answer beside the tokenizer's own
    description       facts for people, in the order to print them
    """

    tokenizer: Tokenizer
    defaults: GenerationDefaults
    further_eos_ids: frozenset[int]
    prompts: PromptRenderer
    output_planner: OutputPlanner
    description: dict[str, str]

    @classmethod
    def from_model(cls, model: CheckedModel, tokenizer: Tokenizer) -> "TextComponents":
        """Raises StartupError for a template, a parser or a generation config that cannot serve this model."""
        for name in sorted((model.config.override_generation_config or {}).keys() - set(SAMPLING_DEFAULT_KEYS)):
            log.warning(
                "override_generation_config has %s, which is not read; %s are", name, ", ".join(SAMPLING_DEFAULT_KEYS)
            )
        defaults = GenerationDefaults.from_configs(model.config, model.generation_config, model.model_config)
        eos_id = tokenizer.eos_token_id
        primary = () if eos_id is None else (eos_id,)
        further = defaults.eos_ids - {eos_id}
        prompts = PromptRenderer(model.config, tokenizer)
        try:
            turn_end = find_turn_end(tokenizer, prompts.templates, {*primary, *further})
            further |= {turn_end.token_id} if turn_end else set()
            preparer = OutputPlanner(
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
            "tool calls": str(preparer.tool_parser),
            "reasoning": str(preparer.reasoning_parser),
        }
        if turn_end is not None:
            description["answers end at"] = str(turn_end)
        return cls(tokenizer, defaults, further, prompts, preparer, description)

    def close(self) -> None:
        """Ends the helpers. Idempotent."""
        self.prompts.close()
        self.output_planner.close()
