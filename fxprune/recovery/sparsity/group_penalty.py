"""A penalty that grows for the channels that are weak in their group (Fang et al., "DepGraph", CVPR 2023, section 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError, shown
from fxprune.options import check_flag, real
from fxprune.recovery.sparsity.base import Sparsity, positive

__all__ = ["GroupPenalty"]


class GroupPenalty(Sparsity):
    """``strength / 2 * sum_g sum_k gamma_k I_k``, with ``I_k`` the sum of squares of all weights that go with channel ``k``.

    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3.4: all parameters that are removed together
    shrink together, the weak ones faster, with::

        gamma_k = 2 ** (alpha (max - n_k) / (max - min))

    between 1 for the strongest channel of a group and ``2 ** alpha`` for the weakest. ``n_k`` is the norm, the root of
    ``I_k``, as in the authors' Torch-Pruning 1.6, or ``I_k`` itself. The shrinkage follows the weights as they change but is
    not differentiated, so that a weight ``w`` of channel ``k`` gets ``strength gamma_k w`` added to its gradient, the half
    being there for that. Where all channels of a group are equally strong ``gamma`` is 1.

    >>> method = GroupPenalty(net, x, strength=1e-3)
    >>> net(x).sum().backward()
    >>> method.before_step()
    >>> sorted(method.progress())
    ['channels', 'off', 'penalty', 'share']

    Args:
        model, example_inputs: see `Sparsity`.
        strength: 1e-4 as in Torch-Pruning.
        alpha: how much more the weakest shrink; 4 as published.
        squared: take ``I_k`` for ``n_k``.
        biases: whether biases and the shifts of norms shrink, too; not so in Torch-Pruning.

    Raises:
        InputError: a number is out of range; see also `Sparsity`.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        *,
        strength: float = 1e-4,
        alpha: float = 4.0,
        squared: bool = False,
        biases: bool = False,
    ) -> None:
        self.strength, self.squared = positive(strength, "strength"), check_flag(squared, "squared")
        number = real(alpha)
        if number is None or not 0 <= number <= 64:
            raise InputError(f"alpha must be a number from 0 to 64, not {shown(alpha)}")
        self.alpha = float(number)
        super().__init__(model, example_inputs, biases=check_flag(biases, "biases"))
        self._with_biases = biases

    def shrinkage(self) -> dict[str, Tensor]:
        """``{group id: gamma [channels]}`` of the weights as they are."""
        with torch.no_grad():
            return {group: self._shrinkage(squares) for group, squares in self.coupled.squares().items()}

    def _shrinkage(self, squares: Tensor) -> Tensor:
        strong = squares if self.squared else squares.sqrt()
        span = strong.max() - strong.min()
        share = torch.where(span > 0, (strong.max() - strong) / span, torch.zeros_like(strong))
        return torch.exp2(self.alpha * share)

    @torch.no_grad()
    def gradients(self) -> dict[str, Tensor]:
        gamma, factor = self.shrinkage(), self.coupled.factor
        return {name: self.strength * factor(name, gamma, p) * p for name, p in self.coupled.trained.items()}

    def penalty(self) -> Tensor:
        gamma = self.shrinkage()
        squares = self.coupled.squares()
        sums = [(gamma[group] * squares[group]).sum() for group in gamma]
        return self.strength / 2 * torch.stack([s.to(sums[0]) for s in sums]).sum()

    def settings(self) -> dict[str, Any]:
        return {"strength": self.strength, "alpha": self.alpha, "squared": self.squared, "biases": self._with_biases}
