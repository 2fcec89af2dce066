"""Choice.routed_experts: the experts that transformers chooses, whatever happens around a request."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxserve import LLM, BadConfig, InvalidParameter
from jaxserve.models.routing import RoutedLayers
from tests.models.tiny import tiny_config, write
from tests.models.torch_model import TorchModel

SETTINGS = {"max_model_len": 128, "max_num_seqs": 2, "max_num_batched_tokens": 32, "num_gpu_blocks_override": 60}
SETTINGS |= {"roofline": False, "max_logprobs": 2}
RNG = np.random.default_rng(4)
PROMPTS = [RNG.integers(0, 256, size).tolist() for size in (50, 7, 33, 20)]  # some are several chunks
GREEDY = {"temperature": 0, "ignore_eos": True}


def load(folder, family):
    """Return a model that returns its experts, and transformers' own."""
    path = write(folder, family, seed=3)
    torch_model = TorchModel(tiny_config(family), load_file(path / "model.safetensors"))
    return LLM(str(path), quiet=True, enable_return_routed_experts=True, **SETTINGS), torch_model


@pytest.fixture(scope="module")
def qwen3_moe(tmp_path_factory):
    llm, torch_model = load(tmp_path_factory.mktemp("routed"), "qwen3_moe")
    with llm:
        yield llm, torch_model


@pytest.fixture(scope="module")
def glm4_moe(tmp_path_factory):
    llm, torch_model = load(tmp_path_factory.mktemp("routed"), "glm4_moe")
    with llm:
        yield llm, torch_model


@pytest.fixture(params=["qwen3_moe", "glm4_moe"])
def family(request):
    """One with a layer without experts, and one with groups of experts."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def llm(qwen3_moe):
    return qwen3_moe[0]


def experts_of(llm, prompt, **params):
    """Return the tokens of prompt and output, and their experts."""
    [completion] = llm.generate([prompt], **params)
    [choice] = completion.choices
    return [*prompt, *choice.token_ids], choice.routed_experts


def test_they_are_those_of_transformers_from_cache_and_in_any_batch(family):
    llm, torch_model = family
    for _ in range(2):
        for prompt, completion in zip(PROMPTS, llm.generate(PROMPTS, max_tokens=20, **GREEDY), strict=True):
            [choice] = completion.choices
            expected = torch_model.experts([*prompt, *choice.token_ids[:-1]])
            assert choice.routed_experts.dtype == np.uint8
            assert choice.routed_experts.shape == expected.shape == (len(prompt) + 19, *expected.shape[1:])
            assert (np.sort(choice.routed_experts) == np.sort(expected)).all()
    assert llm.stats().counters["prefix_cache_hits"] > 0


def test_the_best_expert_comes_first(qwen3_moe):
    llm, torch_model = qwen3_moe
    tokens, experts = experts_of(llm, PROMPTS[0], max_tokens=2, **GREEDY)
    assert (experts == torch_model.experts(tokens[:-1])).all()


def test_each_choice_has_its_own(family):
    llm, torch_model = family
    [completion] = llm.generate([PROMPTS[2]], n=6, temperature=1.5, seed=3, max_tokens=9, ignore_eos=True)
    assert len({choice.token_ids for choice in completion.choices}) > 1
    for choice in completion.choices:
        expected = torch_model.experts([*PROMPTS[2], *choice.token_ids[:-1]])
        assert (np.sort(choice.routed_experts) == np.sort(expected)).all()


def test_preempted_requests_have_what_they_have_alone(llm, tmp_path):
    path = write(tmp_path, "qwen3_moe", seed=3)
    settings = SETTINGS | {"num_gpu_blocks_override": 1 + 10}
    alone = [experts_of(llm, prompt, max_tokens=60, **GREEDY)[1] for prompt in PROMPTS]
    with LLM(str(path), quiet=True, enable_return_routed_experts=True, **settings) as small:
        together = small.generate(PROMPTS, max_tokens=60, **GREEDY)
        assert small.stats().counters["num_preemptions"] > 0
    for expected, completion in zip(alone, together, strict=True):
        assert (completion.choices[0].routed_experts == expected).all()


def test_what_a_beam_search_has_cached_is_returned_to_a_request_and_not_to_the_search(llm):
    prompt = [9, *PROMPTS[0]]
    [completion] = llm.generate([prompt], n=2, use_beam_search=True, max_tokens=30, ignore_eos=True)
    assert [choice.routed_experts for choice in completion.choices] == [None] * 2
    longer = [*prompt, *completion.choices[0].token_ids, 5]
    cached = experts_of(llm, longer, max_tokens=1, **GREEDY)[1]
    computed = experts_of(llm, longer, max_tokens=1, prompt_logprobs=0, **GREEDY)[1]
    assert (cached == computed).all()


@pytest.mark.parametrize("start", [1, 16, 33, 50])
def test_the_first_tokens_of_a_prompt_may_be_left_out(llm, start):
    whole = experts_of(llm, PROMPTS[0], max_tokens=5, **GREEDY)[1]
    rest = experts_of(llm, PROMPTS[0], max_tokens=5, routed_experts_prompt_start=start, **GREEDY)[1]
    assert (rest == whole[start:]).all()


def test_one_token_has_none_where_the_prompt_is_left_out(llm):
    experts = experts_of(llm, PROMPTS[1], max_tokens=1, routed_experts_prompt_start=len(PROMPTS[1]), **GREEDY)[1]
    assert experts.shape == (0, 3, 3)


def test_an_output_that_ends_early_has_those_of_its_tokens(llm):
    tokens, whole = experts_of(llm, PROMPTS[3], max_tokens=30, skip_special_tokens=False, **GREEDY)
    letter = next(letter for letter in llm.detokenize(tokens[len(PROMPTS[3]) + 2 :]) if letter != "\ufffd")
    cut, experts = experts_of(llm, PROMPTS[3], max_tokens=30, stop=letter, skip_special_tokens=False, **GREEDY)
    assert len(cut) < len(tokens) and (experts == whole[: len(cut) - 1]).all()


def test_a_grammar_that_is_complete_leaves_no_token_out(llm):
    tokens, experts = experts_of(
        llm, PROMPTS[1], temperature=0, structured_outputs={"choice": ["ab", "cd"]}, max_tokens=9
    )
    assert len(experts) == len(tokens) - 1


def test_pieces_of_a_stream_are_the_whole(llm):
    pieces = list(llm.stream(PROMPTS[3], max_tokens=9, **GREEDY))
    experts = [piece.routed_experts for piece in pieces if piece.routed_experts is not None]
    tokens, whole = experts_of(llm, PROMPTS[3], max_tokens=9, **GREEDY)
    assert (np.concatenate(experts) == whole).all() and len(whole) == len(tokens) - 1


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"routed_experts_prompt_start": 8}, "must be at most 7, the number of tokens of the prompt, got 8"),
        ({"routed_experts_prompt_start": -1}, "at least 0"),
        ({"routed_experts_prompt_start": 2, "use_beam_search": True}, "not available with use_beam_search"),
    ],
)
def test_a_start_that_cannot_be_is_refused(llm, params, reason):
    with pytest.raises(InvalidParameter, match=reason) as caught:
        llm.generate([PROMPTS[1]], max_tokens=2, **params)
    assert caught.value.param == "routed_experts_prompt_start"


def test_a_model_is_refused_that_has_no_experts_or_keeps_not_all_tokens(tmp_path):
    with pytest.raises(BadConfig, match="num_scheduler_steps=2 gives a row several tokens"):
        moe = str(write(tmp_path / "moe", "qwen3_moe"))
        LLM(moe, quiet=True, enable_return_routed_experts=True, num_scheduler_steps=2, **SETTINGS)
    dense, windows = write(tmp_path / "dense", "llama"), write(tmp_path / "windows", "mixtral", sliding_window=20)
    with pytest.raises(BadConfig, match="needs a model with experts, and LlamaForCausalLM has none; leave it out"):
        LLM(str(dense), quiet=True, enable_return_routed_experts=True, **SETTINGS)
    with pytest.raises(BadConfig, match="needs a layer that attends to all tokens"):
        LLM(str(windows), quiet=True, enable_return_routed_experts=True, **SETTINGS)


@pytest.mark.parametrize(("num_experts", "dtype"), [(8, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_ids_have_the_smallest_type_that_holds_them(num_experts, dtype):
    layers = RoutedLayers((1,), 2, 1, num_experts)
    assert layers.dtype == dtype and layers.token_bytes == 2 * np.dtype(dtype).itemsize
    assert layers.expand(np.full((3, 1, 1), 7, dtype)).tolist() == [[[0], [7]]] * 3
