"""OutputPlanner: prepares the grammar and the parser of an output before the request runs.

Planning blocks while a grammar compiles; LLM and AsyncLLM call it from threads that may wait.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, InvalidParameter
from jaxserve.grammar_store import GrammarStore, special_token_ids
from jaxserve.output_constraints import ReasoningSpec
from jaxserve.output_trackers import OutputTrackers
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.compiler import CompiledGrammar
from jaxserve.structured.grammar_expr import OrExpr
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.text.detection import collect_facts, detect_reasoning_parser, detect_tool_parser, resolve_parser
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.output_parser import OutputParser
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tokenizer import Tokenizer

CONSTRAINT_PARAM = "structured_outputs"
JSON_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")


@dataclass(frozen=True, slots=True, eq=False)
class OutputPlan:
    """The constraints of an output and the way to parse it. One plan serves all choices of a request.

    grammar             The grammar of the text behind the reasoning; None for free text.
    reasoning           Its reasoning section, if a grammar or a budget must know where it ends.
    reasoning_end_ids   The tokens that end the reasoning when its budget is used up.
    make_parser         Creates the parser of one choice; None: the whole text is content.
    control_tokens      The special tokens that parsers must see, as in OutputDialect.
    """

    grammar: CompiledGrammar | None = None
    reasoning: ReasoningSpec | None = None
    reasoning_end_ids: tuple[int, ...] = ()
    make_parser: Callable[[], OutputParser] | None = None
    control_tokens: Mapping[int, str] | None = None

    @property
    def unenforced_formats(self) -> tuple[str, ...]:
        """The `format` values in the request's schemas that are not enforced."""
        return () if self.grammar is None else self.grammar.unenforced_formats


PLAIN_TEXT = OutputPlan()


class OutputPlanner:
    """Plans outputs with the dialects of one model, and owns its grammars. Several threads may use it.

    tool_parser        The dialect of tool calls, and why it was chosen.
    reasoning_parser   The dialect of reasoning, and why it was chosen.
    trackers           Makes for the engine what follows an output.
    """

    def __init__(
        self,
        config: EngineConfig,
        tokenizer: Tokenizer,
        prompts: PromptRenderer,
        model_config: Mapping[str, Any],
        *,
        vocab_size: int,
        eos_ids: tuple[int, ...],
    ) -> None:
        """Choose the dialects by the configuration and the model's files.

        vocab_size   the number of logits
        eos_ids      the end-of-sequence tokens, the primary one first

        Raises BadConfig for a parser that is not known or does not fit the model.
        """
        facts = collect_facts(tokenizer, prompts.templates, model_config)
        self.tool_parser = resolve_parser(
            config.tool_call_parser, detect_tool_parser(facts), TOOL_PARSERS, "tool_call_parser"
        )
        self.reasoning_parser = resolve_parser(
            config.requested_reasoning_parser, detect_reasoning_parser(facts), REASONING_PARSERS, "reasoning_parser"
        )
        self._check_markers(tokenizer)
        self._tokenizer = tokenizer
        self._strict_level, self._is_auto_allowed = config.tool_strict_level, config.enable_auto_tool_choice
        options = config.structured_outputs_config or {}
        self._json_switches = {name: True for name in JSON_SWITCHES if options.get(name)}
        self._dialect = OutputDialect.from_parser_names(
            self.tool_parser.name,
            self.reasoning_parser.name,
            special_token_ids(tokenizer),
            tokenizer.config.get("response_template"),
        )
        self._grammars = GrammarStore(tokenizer, eos_ids, vocab_size, config)
        self.trackers = OutputTrackers(tokenizer, self._dialect, self._grammars)

    @property
    def reasoning_efforts(self) -> tuple[str, ...] | None:
        """The reasoning efforts that the model knows; None: its template decides."""
        return None if self._dialect.reasoning is None else self._dialect.reasoning.efforts

    def _check_markers(self, tokenizer: Tokenizer) -> None:
        """Refuse a parser that splits whole outputs by special tokens which the model does not have."""
        for field, name, known in (
            ("tool_call_parser", self.tool_parser.name, TOOL_PARSERS),
            ("reasoning_parser", self.reasoning_parser.name, REASONING_PARSERS),
        ):
            dialect = known.get(name or "")
            if dialect is None:
                continue
            missing = [token for token in dialect.required_tokens if tokenizer.backend.token_to_id(token) is None]
            if missing:
                raise BadConfig(
                    f"{field} {name!r} reads answers by the token {missing[0]}, which this model's vocabulary lacks;"
                    " try auto."
                )

    def plan(
        self, params: SamplingParams, spec: ChatOutputSpec | None = None, prompt_ids: Sequence[int] = ()
    ) -> OutputPlan:
        """Prepare the output of a request.

        spec         how a chat output is parsed; None for text that continues the prompt, as in completions
        prompt_ids   the prompt of such a text if it has a thinking budget: it may have opened a reasoning section

        Raises InvalidParameter, which names the field, for a constraint that cannot be enforced, EngineStopped after
        `close`.
        """
        constraint, budget = self._apply_json_switches(params.structured_outputs), _thinking_budget(params)
        check_thinking_budget(params, has_reasoning=self._dialect.reasoning is not None)
        self._check_combination(constraint, budget, spec)
        if spec is None:
            if budget is not None:
                return self._plan_budget_only(prompt_ids)
            return (
                PLAIN_TEXT if constraint is None else OutputPlan(self._grammars.compile(constraint, CONSTRAINT_PARAM))
            )
        self._dialect.check_function_names(spec, self.tool_parser.name)
        if self._strict_level == "parameter":
            spec = replace(spec, tools=tuple(map(_as_strict, spec.tools)))
        is_constrained = constraint is not None or spec.requires_tool_call
        inside = self._dialect.starts_in_reasoning(spec, is_constrained)
        grammar = self._compile_grammar(constraint, spec, inside)
        if budget is not None and grammar and inside is False:
            raise InvalidParameter(
                "thinking_token_budget cannot be combined with a constraint on this model, which need not think before"
                " it answers; leave one of them out.",
                "thinking_token_budget",
            )
        dialect, reasoning, end_ids = self._dialect.reasoning, None, ()
        if dialect is not None and inside is not None and (budget is not None or (grammar and inside)):
            reasoning = ReasoningSpec(inside, is_constrained=grammar is not None)
            end_ids = self._dialect.encode_reasoning_end(self._tokenizer)
        make_parser = self._parser_factory(params, spec, is_constrained)
        return OutputPlan(grammar, reasoning, end_ids, make_parser, self._dialect.control_tokens)

    def _plan_budget_only(self, prompt_ids: Sequence[int]) -> OutputPlan:
        """Plan a continued text with a thinking budget.

        Its reasoning is the section that the prompt has opened, else one that the text begins with.
        """
        assert self._dialect.reasoning is not None
        inside = self._dialect.ends_in_reasoning(self._tokenizer.decode(prompt_ids))
        end_ids = self._dialect.encode_reasoning_end(self._tokenizer)
        return OutputPlan(reasoning=ReasoningSpec(inside), reasoning_end_ids=end_ids)

    def _apply_json_switches(self, constraint: StructuredOutputs | None) -> StructuredOutputs | None:
        """Add the switches that structured_outputs_config sets for every output."""
        if constraint is None or not self._json_switches:
            return constraint
        return replace(constraint, **self._json_switches)

    def _check_combination(
        self, constraint: StructuredOutputs | None, budget: int | None, spec: ChatOutputSpec | None
    ) -> None:
        """Refuse combinations that exclude each other, or that this model cannot serve."""
        if spec is None:
            if budget is not None and constraint is not None:
                raise InvalidParameter(
                    "thinking_token_budget cannot be combined with a constraint on text that goes on from a prompt,"
                    " which holds from the first token; leave one of them out.",
                    "thinking_token_budget",
                )
            return
        if spec.tools:
            check_tool_choice(spec, self.tool_parser.name, is_auto_allowed=self._is_auto_allowed)
        if constraint is not None and spec.requires_tool_call:
            raise InvalidParameter(
                "tool_choice demands a call, and structured_outputs another answer; only one of them can hold.",
                "tool_choice",
            )

    @property
    def num_cached_grammars(self) -> int:
        """The number of grammars that are kept for later requests."""
        return self._grammars.num_cached

    @property
    def has_broken_workers(self) -> bool:
        """Whether no worker can be started any more."""
        return self._grammars.has_broken_workers

    @property
    def num_restarts(self) -> int:
        """The number of worker processes that were replaced because a grammar broke them."""
        return self._grammars.num_restarts

    def close(self) -> None:
        """End the worker processes. Idempotent."""
        self._grammars.close()

    def _parser_factory(
        self, params: SamplingParams, spec: ChatOutputSpec, is_constrained: bool
    ) -> Callable[[], OutputParser] | None:
        if not self._dialect.has_reasoning and (not spec.tools or spec.tool_choice == "none"):
            return None
        self._dialect.load_schemas(spec)
        return partial(
            self._dialect.create_parser,
            spec,
            is_constrained=is_constrained,
            skip_special_tokens=params.skip_special_tokens,
        )

    def _compile_grammar(
        self, constraint: StructuredOutputs | None, spec: ChatOutputSpec, inside: bool | None
    ) -> CompiledGrammar | None:
        """Compile the grammar of the text behind the reasoning, if anything constrains it.

        If the model may open a reasoning section or not (inside is False), the section is a part of the grammar. If it
        may call a tool and its content is constrained as well, the grammar accepts either.
        """
        offered = spec if constraint is None or spec.tool_choice == "none" else replace(spec, tool_choice="required")
        calls = self._dialect.build_expr(offered, is_constrained=self._strict_level != "auto")
        if calls is None and self._must_enforce_calls(constraint, spec):
            raise InvalidParameter(
                "Calls in this model's own format cannot be enforced: leave strict and structured_outputs out, or"
                " choose required or a function; --tool-strict-level has to be auto.",
                "tools",
            )
        if constraint is not None and calls is None and inside is not False:
            return self._grammars.compile(constraint, CONSTRAINT_PARAM)
        content = None if constraint is None else self._dialect.wrap_content(constraint)
        options = tuple(shape for shape in (content, calls) if shape is not None)
        if not options:
            return None
        shape = options[0] if len(options) == 1 else OrExpr(options)
        return self._grammars.compile(
            self._dialect.add_optional_reasoning(shape) if inside is False else shape, _blamed_param(constraint)
        )

    def _must_enforce_calls(self, constraint: StructuredOutputs | None, spec: ChatOutputSpec) -> bool:
        """Whether calls that the model may choose to make are constrained."""
        if spec.tool_choice != "auto" or not spec.tools:
            return False
        is_strict = any(tool["function"].get("strict") for tool in spec.tools)
        return is_strict or constraint is not None or self._strict_level != "auto"


def check_thinking_budget(params: SamplingParams, *, has_reasoning: bool) -> None:
    """Check that reasoning can be counted, if the request has a budget for it.

    has_reasoning   the model's reasoning stands between markers that are known

    Raises InvalidParameter if it cannot.
    """
    if params.thinking_token_budget is not None and not has_reasoning:
        raise InvalidParameter(
            "thinking_token_budget needs a model whose reasoning stands between known markers, and a reasoning parser"
            " that knows them: --reasoning-parser names one.",
            "thinking_token_budget",
        )


def check_tool_choice(spec: ChatOutputSpec, tool_parser: str | None, *, is_auto_allowed: bool) -> None:
    """Check that the model may choose whether to call a tool, if the request says so.

    tool_parser       the dialect of the model's calls; None if it is not known
    is_auto_allowed   enable_auto_tool_choice

    Raises InvalidParameter if it may not.
    """
    if spec.tool_choice != "auto" or (is_auto_allowed and tool_parser is not None):
        return
    reason = "the first is off" if tool_parser is not None else "no parser is known for this model's tool calls"
    raise InvalidParameter(
        f'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set; {reason}. '
        'tool_choice "required", a named function and "none" need neither.',
        "tool_choice",
    )


def _as_strict(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**tool, "function": {**tool["function"], "strict": True}}


def _thinking_budget(params: SamplingParams) -> int | None:
    return params.thinking_token_budget if params.has_thinking_budget else None


def _blamed_param(constraint: StructuredOutputs | None) -> str:
    return "tools" if constraint is None else CONSTRAINT_PARAM
