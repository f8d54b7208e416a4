"""Sparse mixture of experts: a gate that picks, experts that work, and shared ones that always do."""

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..kernels import ops
from .experts import weighted


class TopK:
    """A route from logits to (picks, weights): the k best, softmaxed before or after they are chosen."""

    def __init__(self, k: int, softmax: str, normalise: bool):
        self.k, self.softmax, self.normalise = k, softmax, normalise

    def __call__(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        return ops.route(logits, k=self.k, softmax=self.softmax, normalise=self.normalise)


def top_k(k: int, *, softmax_first: bool = True, normalise: bool = True) -> TopK:
    """The usual route."""
    return TopK(k, "before" if softmax_first else "after", normalise)


def pick_biased(
    scores: mx.array,
    bias: mx.array | None,
    k: int,
    *,
    groups: int = 1,
    keep_groups: int = 1,
    group_best: int = 2,
    normalise: bool = True,
    scale: float = 1.0,
    eps: float = 1e-20,
) -> tuple[mx.array, mx.array]:
    """The ``k`` best by ``scores`` (..., experts) and a bias that only steers the choice, and their weights.

    Of ``groups`` of experts ``keep_groups`` stay in the race; a group is worth its ``group_best`` best experts.
    """
    return ops.route(scores, bias, k=k, groups=groups, keep_groups=keep_groups, group_best=group_best,
                     normalise=normalise, scale=scale, eps=eps)


class GroupedGate(nn.Module):
    """Sigmoid scores and a balancing bias, groups of experts chosen first; ``rest`` goes to pick_biased."""

    def __init__(self, dim: int, experts: int, k: int, **rest):
        super().__init__()
        self.weight = mx.zeros((experts, dim))
        self.e_score_correction_bias = mx.zeros((experts,))
        self._pick = partial(pick_biased, k=k, **rest)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        # In float32: a tie broken otherwise picks another expert.
        logits = ops.linear(x.astype(mx.float32), self.weight)
        return self._pick(mx.sigmoid(logits), self.e_score_correction_bias)


class SparseMoE(nn.Module):
    """Experts chosen by ``gate`` and ``route``, weighted and summed, plus ``shared`` ones that always work.

    ``gate`` is a Linear whose logits ``route`` turns into (picks, weights); one that knows more picks by itself.
    ``names`` are the checkpoint's for the gate, the experts and, if it isn't ``shared_experts``, what is shared.
    """

    def __init__(
        self,
        gate,
        experts,
        shared=None,
        *,
        route: Callable | None = None,
        names: tuple[str, ...] = ("gate", "switch_mlp"),
    ):
        super().__init__()
        self._names, self._route = (*names, "shared_experts")[:3], route
        self[names[0]], self[names[1]] = gate, experts
        if shared is not None:
            self[self._names[2]] = shared

    def __call__(self, x: mx.array) -> mx.array:
        y = self.chosen(x)
        return y + self[self._names[2]](x) if self._names[2] in self else y

    def chosen(self, x: mx.array) -> mx.array:
        """What the chosen experts make of ``x``, without the shared ones."""
        picks, weights = self.pick(x)
        return weighted(self[self._names[1]], x, picks, weights)

    def pick(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Which experts, and how much each counts: (..., k) twice."""
        gate = self[self._names[0]]
        return self._route(gate(x)) if self._route else gate(x)


class LatentMoE(SparseMoE):
    """Experts that work in a smaller space, between two projections; the shared one sees all of ``dim``."""

    def __init__(self, gate, experts, shared, dim: int, latent: int, *, bias: bool):
        super().__init__(gate, experts, shared)
        self.fc1_latent_proj = nn.Linear(dim, latent, bias=bias)
        self.fc2_latent_proj = nn.Linear(latent, dim, bias=bias)

    def chosen(self, x: mx.array) -> mx.array:
        picks, weights = self.pick(x)
        return self.fc2_latent_proj(weighted(self["switch_mlp"], self.fc1_latent_proj(x), picks, weights))


class SharedGateMoE(SparseMoE):
    """Experts and a shared one that has a gate of its own, a sigmoid."""

    def __init__(self, gate, experts, shared, *, route: Callable):
        super().__init__(gate, experts, shared, route=route, names=("gate", "switch_mlp", "shared_expert"))
        self.shared_expert_gate = nn.Linear(gate.weight.shape[1], 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.chosen(x) + mx.sigmoid(self.shared_expert_gate(x)) * self["shared_expert"](x)


class BiasedMoE(SparseMoE):
    """Experts chosen by the sigmoid of a linear gate and a bias that lies beside it, under the name ``bias``.

    ``bias`` is None where there is none; ``rest`` goes to pick_biased.
    """

    def __init__(self, gate, experts, shared=None, *, k: int, bias: str | None, names=("gate", "switch_mlp"), **rest):
        super().__init__(gate, experts, shared, names=names)
        self._bias, self._pick = bias, partial(pick_biased, k=k, **rest)
        if bias is not None:
            self[bias] = mx.zeros((experts.down_proj.weight.shape[0],))

    def pick(self, x: mx.array) -> tuple[mx.array, mx.array]:
        scores = mx.sigmoid(self[self._names[0]](x).astype(mx.float32))
        return self._pick(scores, None if self._bias is None else self[self._bias])
