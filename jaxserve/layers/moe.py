"""Mixture of experts: a router chooses a few feed-forward blocks for every token, and sums them by weight."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.layers.experts import Experts
from jaxserve.layers.linear import Linear, matmul_precision
from jaxserve.layers.mlp import MLP, Activation, ClampedSwiGLU
from jaxserve.layers.norms import Norm, NormSpec, apply_norm
from jaxserve.parallel.ranks import ONE_RANK, Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """The rule by which experts are chosen and weighted.

    score                each expert's score: softmax over all experts, or the sigmoid of its own logit; or softmax over
                         those whose logits are near the best one's, and for the next expert over those that are left
    nearness             the greatest such distance, in parts of the larger of the two logits' sizes (Phi 3.5 MoE)
    top_k                experts a token
    renormalize          the chosen experts' weights are divided by their sum
    scale                factor of the weights
    has_expert_scale     weights are multiplied by a learned number of their expert, after that sum is 1 (Gemma 4)
    input_norm           the router reads its input through this norm, divided by the root of the width (Gemma 4)
    weighs_inputs        experts get their inputs times the weights, instead of their outputs being weighted (Llama 4)
    has_bias             a learned bias is added to the logits
    has_correction_bias  a learned bias is added to the scores for the choice, and not to the weights (DeepSeek-V3)
    num_groups           experts are divided into so many groups, of which the best top_groups are looked at; 1: none
    group_score          a group is as good as its best expert (DeepSeek-V2) or as its best two together (DeepSeek-V3)

    Raises ValueError for near_best with a correction of the choice, or with groups.
    """

    top_k: int
    score: Literal["softmax", "sigmoid", "near_best"] = "softmax"
    nearness: float = 0.0
    renormalize: bool = True
    scale: float = 1.0
    has_expert_scale: bool = False
    input_norm: NormSpec | None = None
    weighs_inputs: bool = False
    has_bias: bool = False
    has_correction_bias: bool = False
    num_groups: int = 1
    top_groups: int = 1
    group_score: Literal["best", "best_two"] = "best_two"

    def __post_init__(self) -> None:
        if self.score == "near_best" and (self.has_correction_bias or self.num_groups > 1):
            raise ValueError("score is 'near_best' with a correction or with groups, for which it has no scores.")


def route(
    logits_TE: Array, router: RouterSpec, bias_E: Array | None = None, scale_E: Array | None = None
) -> tuple[Array, Array]:
    """Return weights float32 [T, top_k] and indices int32 [T, top_k] of the experts of each token.

    bias_E: of the choice, where the router corrects it. scale_E: of the weights, where experts have one.
    """
    logits_TE = logits_TE.astype(jnp.float32)
    if router.score == "near_best":
        weight_TK, index_TK = _weigh_near_best(logits_TE, router)
    else:
        score_TE = jax.nn.softmax(logits_TE) if router.score == "softmax" else jax.nn.sigmoid(logits_TE)
        choice_TE = score_TE if bias_E is None else score_TE + bias_E
        if router.num_groups > 1:
            choice_TE = _within_best_groups(choice_TE, router)
        _, index_TK = lax.top_k(choice_TE, router.top_k)
        weight_TK = jnp.take_along_axis(score_TE, index_TK, axis=1)
    if router.renormalize:
        weight_TK = weight_TK / weight_TK.sum(axis=1, keepdims=True)
    if scale_E is not None:
        weight_TK = weight_TK * scale_E.astype(jnp.float32)[index_TK]
    return weight_TK if router.scale == 1.0 else weight_TK * router.scale, index_TK


def _weigh_near_best(logits_TE: Array, router: RouterSpec) -> tuple[Array, Array]:
    """Return the best experts, each with its share of those that are near it and no better (arXiv 2409.12136)."""
    best_TK, index_TK = lax.top_k(logits_TE, router.top_k)
    best_TK1, logits_T1E = best_TK[..., None], logits_TE[:, None]
    distance_TKE = (best_TK1 - logits_T1E) / jnp.maximum(jnp.abs(logits_T1E), best_TK1)
    is_taken_TKE = jax.nn.one_hot(index_TK, logits_TE.shape[1]).cumsum(axis=1) - jax.nn.one_hot(
        index_TK, logits_TE.shape[1]
    )
    # The distance of a best logit of 0 from itself is 0 / 0, which is not above nearness and so must count as near.
    is_near_TKE = ~(distance_TKE > router.nearness) & (is_taken_TKE == 0)
    share_TKE = jax.nn.softmax(jnp.where(is_near_TKE, logits_T1E, -jnp.inf))
    return jnp.take_along_axis(share_TKE, index_TK[..., None], axis=2)[..., 0], index_TK


def _within_best_groups(choice_TE: Array, router: RouterSpec) -> Array:
    tokens, num_experts = choice_TE.shape
    choice_TGX = choice_TE.reshape(tokens, router.num_groups, -1)
    num_best = 1 if router.group_score == "best" else 2
    group_TG = lax.top_k(choice_TGX, num_best)[0].sum(axis=-1)
    _, best_TG = lax.top_k(group_TG, router.top_groups)
    is_best_TG = jax.nn.one_hot(best_TG, router.num_groups, dtype=jnp.bool_).any(axis=1)
    return jnp.where(is_best_TG[..., None], choice_TGX, -jnp.inf).reshape(tokens, num_experts)


MOE_NORMS = ("shared_norm", "shared_post_norm", "expert_norm", "expert_post_norm")
"""Norms around the shared block and around the experts, where they have norms of their own."""


class MoE(nnx.Module):
    """A router and its experts, and where there is one a block that every token passes through beside them.

    ranks: each has some of the experts, or some of the hidden numbers of every expert, and some of those of the shared
    block, which is given without ranks: all that a rank computes is summed over them once.
    norm: of the inputs and outputs of the experts, and of those of the shared block; None: they have none of their own.
    What has a norm of its own is summed over the ranks before it.
    latent: experts read so many numbers that a projection makes of the input, and another one takes them back; None:
    they read the input. Both are linear, so parts of ranks are summed behind them, too.
    """

    def __init__(
        self,
        width: int,
        *,
        num_experts: int,
        hidden: int,
        router: RouterSpec,
        activation: Activation | ClampedSwiGLU,
        is_gated: bool,
        bias: bool,
        shared: MLP | None,
        has_shared_gate: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        ranks: Ranks = ONE_RANK,
        norm: NormSpec | None = None,
        latent: int | None = None,
    ) -> None:
        self.router_spec, self.ranks = router, ranks
        self.num_experts = num_experts
        self.router = Linear(width, num_experts, bias=router.has_bias, dtype=dtype, rngs=rngs)
        # float32: scores differ by less than the last bit that bfloat16 has of a bias of 8
        self.correction_bias = nnx.Param(jnp.zeros((num_experts,), jnp.float32)) if router.has_correction_bias else None
        self.expert_scale = nnx.Param(jnp.ones((num_experts,), dtype)) if router.has_expert_scale else None
        self.router_norm = None if router.input_norm is None else Norm(width, router.input_norm, dtype=dtype)
        norms = {} if norm is None else {name: Norm(width, norm, dtype=dtype) for name in MOE_NORMS}
        self.expert_norm, self.expert_post_norm = norms.get("expert_norm"), norms.get("expert_post_norm")
        self.shared_norm, self.shared_post_norm = norms.get("shared_norm"), norms.get("shared_post_norm")
        self.latent_down = Linear(width, latent, bias=False, dtype=dtype, rngs=rngs) if latent else None
        self.latent_up = Linear(latent, width, bias=False, dtype=dtype, rngs=rngs) if latent else None
        self.experts = Experts(
            num_experts,
            latent or width,
            hidden,
            activation=activation,
            is_gated=is_gated,
            bias=bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.shared = shared
        self.shared_gate = Linear(width, 1, bias=False, dtype=dtype, rngs=rngs) if has_shared_gate else None

    def __call__(self, x_TD: Array, is_real_T: Array) -> tuple[Array, Array]:
        """Return the block's output [T, D] for x_TD, in x's type, and the experts of each token, int32 [T, top_k].

        Tokens that are not real cost no expert. The experts are those of all ranks, best first.
        """
        weight_TK, index_TK = self._route(x_TD)
        return self._combine(x_TD, weight_TK, index_TK, is_real_T), index_TK

    def _combine(self, x_TD: Array, weight_TK: Array, index_TK: Array, is_real_T: Array) -> Array:
        """Return the block's output for tokens whose experts are chosen."""
        input_TI = apply_norm(self.expert_norm, x_TD) if self.latent_down is None else self.latent_down(x_TD)
        y_TD = self._run_experts(input_TI, weight_TK, index_TK, is_real_T)
        y_TD = y_TD if self.latent_up is None else self.latent_up(y_TD)
        if self.shared is None:
            return self.ranks.sum(y_TD)
        shared_TD = self.shared(apply_norm(self.shared_norm, x_TD))
        if self.shared_gate is not None:
            shared_TD = shared_TD * jax.nn.sigmoid(self.shared_gate(x_TD))
        if self.expert_post_norm is None or self.shared_post_norm is None:
            return self.ranks.sum(y_TD + shared_TD)
        return self.expert_post_norm(self.ranks.sum(y_TD)) + self.shared_post_norm(self.ranks.sum(shared_TD))

    def _route(self, x_TD: Array) -> tuple[Array, Array]:
        """Return the weights and the indices of each token's experts."""
        if self.router_norm is not None:
            x_TD = self.router_norm(x_TD) * x_TD.shape[1] ** -0.5
        bias_E = None if self.correction_bias is None else self.correction_bias[...]
        scale_E = None if self.expert_scale is None else self.expert_scale[...]
        return route(self.router(x_TD), self.router_spec, bias_E, scale_E)

    def _run_experts(self, x_TD: Array, weight_TK: Array, index_TK: Array, is_real_T: Array) -> Array:
        """Return the weighted sum of each token's experts [T, D], of those that this rank has."""
        weight_TK = jnp.where(is_real_T[:, None], weight_TK, 0)
        index_TK, is_here_TK = self._find_local(index_TK)
        is_real_TK = is_real_T[:, None] if is_here_TK is None else is_real_T[:, None] & is_here_TK
        if self.router_spec.weighs_inputs:
            y_TKD = self._run_on_weighted(x_TD, weight_TK, index_TK, is_real_TK)
            weight_TK = jnp.broadcast_to(is_real_TK, weight_TK.shape)
        else:
            y_TKD = self.experts(x_TD, index_TK, is_real_TK)
        y_TKD = self._add_bias(y_TKD, index_TK)
        if is_here_TK is not None:
            y_TKD = jnp.where(is_here_TK[..., None], y_TKD, 0)
        return jnp.einsum("tkd,tk->td", y_TKD, weight_TK.astype(y_TKD.dtype), precision=matmul_precision(x_TD.dtype))

    def _run_on_weighted(self, x_TD: Array, weight_TK: Array, index_TK: Array, is_real_TK: Array) -> Array:
        """Return the outputs [T, top_k, D] of experts for inputs times their weights: every choice is a token."""
        x_AD = (x_TD[:, None] * weight_TK[..., None].astype(x_TD.dtype)).reshape(-1, x_TD.shape[1])
        is_real_A1 = jnp.broadcast_to(is_real_TK, index_TK.shape).reshape(-1, 1)
        return self.experts(x_AD, index_TK.reshape(-1, 1), is_real_A1).reshape(*index_TK.shape, -1)

    def _add_bias(self, y_TKD: Array, index_TK: Array) -> Array:
        """Add the bias of down. Of ranks that share every expert the first one adds it, as their outputs are summed."""
        if self.experts.down_bias is None:
            return y_TKD
        bias_TKD = self.experts.down_bias[...][index_TK]
        if self.ranks.size > 1 and not self.ranks.splits_experts:
            bias_TKD = jnp.where(self.ranks.index == 0, bias_TKD, 0)
        return y_TKD + bias_TKD

    def _find_local(self, index_TK: Array) -> tuple[Array, Array | None]:
        """Return the experts as this rank counts them, and whether it has them; None: it has all."""
        if not self.ranks.splits_experts:
            return index_TK, None
        num = self.num_experts // self.ranks.size
        local_TK = index_TK - self.ranks.offset(num)
        return jnp.clip(local_TK, 0, num - 1), (local_TK >= 0) & (local_TK < num)
