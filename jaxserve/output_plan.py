"""What a request wants of its answer, made ready before it runs: a grammar, a reader, the reasoning before both.

Planning blocks for as long as a grammar takes to compile: LLM and AsyncLLM call it from threads that may wait.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.config import EngineConfig
from jaxserve.errors import BadConfig, EngineStopped, InvalidParameter
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.compiler import CompiledGrammar, GrammarCompiler
from jaxserve.structured.grammar_expr import GrammarExpr, OrExpr
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.guide import ReasoningTracker
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.text.detection import collect_facts, detect_reasoning_parser, detect_tool_parser, resolve_parser
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.output_parser import OutputParser
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.reasoning import encode_reasoning_end
from jaxserve.text.tokenizer import Tokenizer

CONSTRAINT_PARAM = "structured_outputs"
JSON_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")


@dataclass(frozen=True, slots=True, eq=False)
class OutputPlan:
    """What an answer is held to, and how it is read. Serves every choice of a request.

    grammar           what the answer must be, once its reasoning has ended
    reasoning_state   where its reasoning begins, if a grammar or a budget must know where it ends
    reasoning_end_ids  the tokens by which it ends when its budget is used up
    make_parser       makes the reader of one choice; None: its text is its content
    control_tokens    special tokens that the readers must see, as OutputDialect has them
    """

    grammar: CompiledGrammar | None = None
    reasoning_state: ReasoningTracker | None = None
    reasoning_end_ids: tuple[int, ...] = ()
    make_parser: Callable[[], OutputParser] | None = None
    control_tokens: Mapping[int, str] | None = None

    @property
    def unenforced_formats(self) -> tuple[str, ...]:
        """The formats in schemas of the request that are annotations: the answer is not held to them."""
        return () if self.grammar is None else self.grammar.unenforced_formats


PLAIN_TEXT = OutputPlan()


class OutputPlanner:
    """Knows the model's dialects, and owns what compiles grammars for its tokens. Several threads may use it.

    tool_parser, reasoning_parser   which are in force, and why
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
        """eos_ids: the primary one first. Raises BadConfig for a parser that is not known."""
        facts = collect_facts(tokenizer, prompts.templates, model_config)
        found = detect_tool_parser(facts), detect_reasoning_parser(facts)
        self.tool_parser = resolve_parser(config.tool_call_parser, found[0], TOOL_PARSERS, "tool_call_parser")
        self.reasoning_parser = resolve_parser(
            config.requested_reasoning_parser, found[1], REASONING_PARSERS, "reasoning_parser"
        )
        self._check_markers(tokenizer)
        self._tokenizer = tokenizer
        self._strict_level = config.tool_strict_level
        options = config.structured_outputs_config or {}
        self._json_switches = {name: True for name in JSON_SWITCHES if options.get(name)}
        self._vocab_size, self._eos_ids = vocab_size, eos_ids
        self._dialect = OutputDialect.from_parser_names(
            self.tool_parser.name,
            self.reasoning_parser.name,
            special_token_ids(tokenizer),
            tokenizer.config.get("response_template"),
        )
        self._lock = threading.Lock()
        self._compiler: GrammarCompiler | None = None
        self._is_closed = False

    def _check_markers(self, tokenizer: Tokenizer) -> None:
        """Refuse a parser that reads whole answers by special tokens which the model does not have."""
        for field, name, known in (
            ("tool_call_parser", self.tool_parser.name, TOOL_PARSERS),
            ("reasoning_parser", self.reasoning_parser.name, REASONING_PARSERS),
        ):
            dialect = known.get(name or "")
            if not isinstance(dialect, HarmonyDialect):
                continue
            lacking = [m for m in (dialect.channel, dialect.message) if tokenizer.backend.token_to_id(m) is None]
            if lacking:
                raise BadConfig(
                    f"{field} {name!r} reads answers by the token {lacking[0]}, which this model's vocabulary lacks;"
                    " try auto."
                )

    def plan(
        self, params: SamplingParams, spec: ChatOutputSpec | None = None, prompt_ids: Sequence[int] = ()
    ) -> OutputPlan:
        """Make ready what an answer of these params needs.

        format       None: the answer is plain text that goes on from the prompt, as completions are
        prompt_ids   that prompt, where a thinking budget must know whether it has opened a section; else unused

        Raises a RequestError that names the field.
        """
        wanted, budget = self._apply_json_switches(params.structured_outputs), _thinking_budget(params)
        self._check_combination(wanted, budget, spec)
        if spec is None:
            if budget is not None:
                return self._plan_budget_only(prompt_ids)
            return PLAIN_TEXT if wanted is None else OutputPlan(self._compile(wanted))
        self._dialect.check_function_names(spec, self.tool_parser.name)
        if self._strict_level == "parameter":
            spec = replace(spec, tools=tuple(map(_as_strict, spec.tools)))
        is_constrained = wanted is not None or spec.requires_tool_call
        inside = self._dialect.starts_in_reasoning(spec, is_constrained)
        grammar = self._compile_grammar(wanted, spec, inside)
        if budget is not None and grammar and inside is False:
            raise InvalidParameter(
                "thinking_token_budget cannot be combined with a constraint on this model, which need not think before"
                " it answers; leave one of them out.",
                "thinking_token_budget",
            )
        reasoning, place, end = self._dialect.reasoning, None, ()
        if reasoning is not None and inside is not None and (budget is not None or (grammar and inside)):
            place = self._dialect.start_reasoning(self._tokenizer, inside=inside, is_constrained=grammar is not None)
            end = encode_reasoning_end(reasoning, self._tokenizer)
        return OutputPlan(
            grammar, place, end, self._parser_factory(params, spec, is_constrained), self._dialect.control_tokens
        )

    def _plan_budget_only(self, prompt_ids: Sequence[int]) -> OutputPlan:
        """Of text that goes on from a prompt: its reasoning is what the prompt has opened, or what it begins with."""
        assert self._dialect.reasoning is not None
        inside = self._dialect.ends_in_reasoning(self._tokenizer.decode(prompt_ids))
        place = self._dialect.start_reasoning(self._tokenizer, inside=inside, is_constrained=False)
        return OutputPlan(
            reasoning_state=place, reasoning_end_ids=encode_reasoning_end(self._dialect.reasoning, self._tokenizer)
        )

    def _apply_json_switches(self, wanted: StructuredOutputs | None) -> StructuredOutputs | None:
        """With those that the server's structured_outputs_config sets for every answer."""
        return replace(wanted, **self._json_switches) if wanted is not None and self._json_switches else wanted

    def _check_combination(
        self, wanted: StructuredOutputs | None, budget: int | None, spec: ChatOutputSpec | None
    ) -> None:
        """What cannot be had together, or not on this model."""
        if budget is not None and self._dialect.reasoning is None:
            raise InvalidParameter(
                "thinking_token_budget needs a model whose reasoning stands between known markers, and a reasoning"
                " parser that knows them; leave it out.",
                "thinking_token_budget",
            )
        if spec is None:
            if budget is not None and wanted is not None:
                raise InvalidParameter(
                    "thinking_token_budget cannot be combined with a constraint on text that goes on from a prompt,"
                    " which holds from the first token; leave one of them out.",
                    "thinking_token_budget",
                )
            return
        if spec.tool_choice == "auto" and spec.tools and self.tool_parser.name is None:
            raise InvalidParameter(
                "auto tool choice needs to know how the model writes its calls, which was not found in its files; name "
                "it with --tool-call-parser, or choose required, none or a function.",
                "tool_choice",
            )
        if wanted is not None and spec.requires_tool_call:
            raise InvalidParameter(
                "tool_choice demands a call, and structured_outputs another answer; only one of them can hold.",
                "tool_choice",
            )

    @property
    def num_restarts(self) -> int:
        """Helpers that were replaced because a grammar broke them."""
        return 0 if self._compiler is None else self._compiler.num_restarts

    def close(self) -> None:
        """Ends the helpers. Idempotent."""
        with self._lock:
            self._is_closed = True
            compiler = self._compiler
        if compiler is not None:
            compiler.close()

    def _parser_factory(
        self, params: SamplingParams, spec: ChatOutputSpec, is_constrained: bool
    ) -> Callable[[], OutputParser] | None:
        if not self._dialect.has_reasoning and (not spec.tools or spec.tool_choice == "none"):
            return None
        self._dialect.load_schemas(spec)
        skips = params.skip_special_tokens
        return partial(self._dialect.create_parser, spec, is_constrained=is_constrained, skip_special_tokens=skips)

    def _compile_grammar(
        self, wanted: StructuredOutputs | None, spec: ChatOutputSpec, inside: bool | None
    ) -> CompiledGrammar | None:
        """Of the answer behind its reasoning; where the model may open a section or not, of both.

        Where it may call a tool, and its content has a shape, the answer is one of the two.
        """
        offered = spec if wanted is None or spec.tool_choice == "none" else replace(spec, tool_choice="required")
        calls = self._dialect.build_shape(offered, is_constrained=self._strict_level != "auto")
        if calls is None and self._must_enforce_calls(wanted, spec):
            raise InvalidParameter(
                "Calls in this model's own format cannot be enforced: leave strict and structured_outputs out, or"
                " choose required or a function; --tool-strict-level has to be auto.",
                "tools",
            )
        if wanted is not None and calls is None and inside is not False:
            return self._compile(wanted)
        content = None if wanted is None else self._dialect.wrap_content(wanted)
        options = tuple(shape for shape in (content, calls) if shape is not None)
        if not options:
            return None
        shape = options[0] if len(options) == 1 else OrExpr(options)
        return self._compile(
            self._dialect.add_optional_reasoning(shape) if inside is False else shape, _blamed_param(wanted)
        )

    def _must_enforce_calls(self, wanted: StructuredOutputs | None, spec: ChatOutputSpec) -> bool:
        """Whether something is asked of calls that the model may choose to make."""
        if spec.tool_choice != "auto" or not spec.tools:
            return False
        is_strict = any(tool["function"].get("strict") for tool in spec.tools)
        return is_strict or wanted is not None or self._strict_level != "auto"

    def _compile(self, what: GrammarExpr, param: str = CONSTRAINT_PARAM) -> CompiledGrammar:
        with self._lock:
            if self._is_closed:
                raise EngineStopped("The engine is not running; no request can be served.")
            if self._compiler is None:
                self._compiler = GrammarCompiler(build_vocabulary(self._tokenizer, self._eos_ids, self._vocab_size))
            compiler = self._compiler
        return compiler.compile(what, param)


def special_token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Those that skip_special_tokens hides, text → id."""
    return {tokenizer.piece(token_id): token_id for token_id in sorted(tokenizer.special_ids)}


def build_vocabulary(tokenizer: Tokenizer, eos_ids: Sequence[int], vocab_size: int) -> GrammarTokenizer:
    """The tokenizer's tokens as grammars see them. size: of the model's logits."""
    tokens = None
    if tokenizer.piece_decoder is not None:
        tokens = [tokenizer.token_bytes(token_id) or b"" for token_id in range(min(tokenizer.vocab_size, vocab_size))]
    return GrammarTokenizer(tokens, special_token_ids(tokenizer), eos_ids, vocab_size)


def _as_strict(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**tool, "function": {**tool["function"], "strict": True}}


def _thinking_budget(params: SamplingParams) -> int | None:
    return params.thinking_token_budget if params.has_thinking_budget else None


def _blamed_param(wanted: StructuredOutputs | None) -> str:
    return "tools" if wanted is None else CONSTRAINT_PARAM
