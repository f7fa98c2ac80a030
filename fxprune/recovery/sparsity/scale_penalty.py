"""L1 on the scales of norms (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxprune.errors import InputError
from fxprune.options import check_flag
from fxprune.recovery.sparsity.base import Sparsity, positive
from fxprune.recovery.sparsity.coupled import Place
from fxprune.statistics.norms import norms_of

__all__ = ["ScalePenalty"]


class ScalePenalty(Sparsity):
    """``strength * sum |gamma|`` over the scales of the norms of channels that may go.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1 with ``g(s) = |s|``,
    by subgradient: ``strength sign(gamma)`` is added to a scale's gradient. The batch norms of a group, or other norms where
    it has no batch norm: those that criterion ``bn_scale`` reads.

    A channel of a residual stream is scaled by several norms, and goes only when all of them have vanished. With
    ``coupled=True`` these are one (group lasso): ``strength sum_k sqrt(sum_n gamma_nk^2)``, the same where there is one norm.

    >>> normed = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    >>> ScalePenalty(normed, x, strength=0.5).penalty().item()
    2.0

    Args:
        model, example_inputs: see `Sparsity`.
        strength: 1e-4 or 1e-5 in the paper, by network.
        coupled: the norms of one channel vanish together.

    Raises:
        InputError: no norm scales channels that may go; see also `Sparsity`.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None, *, strength: float = 1e-4, coupled: bool = False) -> None:
        self.strength, self.together = positive(strength, "strength"), check_flag(coupled, "coupled")
        super().__init__(model, example_inputs)
        self.scales: dict[str, list[Place]] = {}
        for group in self.analysis.free:
            names = {norm.scale.name for norm in norms_of(group, self.analysis.traced.tensors)}
            places = [p for p in self.coupled.parts.get(group.id, ()) if p.name in names]
            if places:
                self.scales[group.id] = places
        if not self.scales:
            raise InputError("no norm scales channels that may go, so there is nothing to penalise: take the group penalty")

    def scores(self) -> dict[str, Tensor]:
        """``{group id: [channels]}``: the greatest scale that a channel has at any of its norms."""
        with torch.no_grad():
            return {group: self._values(places).abs().amax(1) for group, places in self.scales.items()}

    @torch.no_grad()
    def gradients(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for places in self.scales.values():
            values = self._values(places)
            root = values.norm(dim=1, keepdim=True)
            slopes = torch.where(root > 0, values / root, root) if self.together else values.sign()
            widths = [p.indices.shape[1] for p in places]
            for place, part in zip(places, slopes.split(widths, dim=1), strict=True):
                parameter = self.coupled.parameter(place.name)
                if parameter.requires_grad:
                    made = found.setdefault(place.name, torch.zeros_like(parameter, dtype=values.dtype))
                    made.index_add_(0, place.on(made.device).reshape(-1), part.to(made).reshape(-1))
        return {name: self.strength * made for name, made in found.items()}

    def penalty(self) -> Tensor:
        sums = []
        for places in self.scales.values():
            values = self._values(places)
            # Not the norm, whose gradient at zero is none.
            sums.append(_root(values.square().sum(1)).sum() if self.together else values.abs().sum())
        return self.strength * torch.stack([s.to(sums[0]) for s in sums]).sum()

    def _values(self, places: list[Place]) -> Tensor:
        """``[channels, entries]``: the scales of each channel at all of its norms, in float32 or float64."""
        scales = [self.coupled.parameter(p.name) for p in places]
        parts = [s[p.on(s.device)] for s, p in zip(scales, places, strict=True)]
        kind = torch.promote_types(parts[0].dtype, torch.float32)
        return torch.cat([v.to(parts[0].device, kind) for v in parts], 1)

    def settings(self) -> dict[str, Any]:
        return {"strength": self.strength, "coupled": self.together}


def _root(squares: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    some = squares > 0
    return torch.where(some, torch.where(some, squares, torch.ones_like(squares)).sqrt(), torch.zeros_like(squares))
