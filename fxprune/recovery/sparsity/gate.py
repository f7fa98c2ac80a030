"""How likely batch norm and ReLU silence a channel, and the soft mask that follows from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fxprune.errors import InputError, shown
from fxprune.options import real

__all__ = ["Gate", "mean_after_relu"]


@dataclass(frozen=True)
class Gate:
    """The formulas of SCP: Kang & Han, "Operation-Aware Soft Channel Pruning using Differentiable Masks", ICML 2020.

    With scale gamma and shift beta, what leaves a batch norm is about normal, ``N(beta, gamma^2)``. Defaults are those of the
    authors' code.

    >>> gate = Gate()
    >>> scale, shift = torch.tensor([1.0, 0.1]), torch.tensor([0.0, -1.0])
    >>> gate.silence(scale, shift), gate.drop(scale, shift) >= 0.5
    (tensor([0.5199, 1.0000]), tensor([False,  True]))

    Attributes:
        tau: values up to this count as silent.
        steepness: k of the logistic function from silence to the probability of a drop.
        center: c0: a channel with that much silence is dropped in half of all draws, and for good if it has more.
        temperature: of the relaxed draws: near 0 they are 0 or 1.
        scale_weight: s, what a scale costs beside a shift in the regulariser ``shift + s |scale|``.

    Raises:
        InputError: a number is out of range.
    """

    tau: float = 0.05
    steepness: float = 20.0
    center: float = 0.95
    temperature: float = 0.5
    scale_weight: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = real(getattr(self, field.name))
            low = 0.0 if field.name != "tau" else -math.inf
            if value is None or not (low < value < math.inf) or (field.name == "center" and value >= 1):
                most = " and below 1" if field.name == "center" else ""
                allowed = "a finite number" if field.name == "tau" else f"a number above 0{most}"
                raise InputError(f"{field.name} must be {allowed}, not {shown(getattr(self, field.name))}")
            object.__setattr__(self, field.name, float(value))

    def silence(self, scale: Tensor, shift: Tensor) -> Tensor:
        """``phi = Phi((tau - beta) / (|gamma| + 1e-8))``: the share of values after the norm that are at most `tau`."""
        return torch.special.ndtr((self.tau - shift) / (scale.abs() + 1e-8))

    def logit(self, scale: Tensor, shift: Tensor) -> Tensor:
        """``k (phi - c0)``: above 0 the channel is off."""
        return self.steepness * (self.silence(scale, shift) - self.center)

    def drop(self, scale: Tensor, shift: Tensor) -> Tensor:
        """``p = sigmoid(k (phi - c0))``: the probability that a draw drops the channel."""
        return torch.sigmoid(self.logit(scale, shift))

    def mask(self, scale: Tensor, shift: Tensor, uniform: Tensor) -> Tensor:
        """A draw of the relaxed mask in (0, 1), differentiable in scale and shift; above a half the channel counts as kept.

        The first of a Gumbel-softmax over the probabilities (1 - p, p): ``sigmoid((L + log((1 - p) / p)) / temperature)``,
        where the difference of two Gumbel variables is logistic, ``L = log(u / (1 - u))``.

        Args:
            uniform: ``u``, numbers in (0, 1), one a channel.
        """
        return torch.sigmoid((torch.logit(uniform) - self.logit(scale, shift)) / self.temperature)

    def to_json(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self)


def mean_after_relu(scale: Tensor, shift: Tensor) -> Tensor:
    """``E[max(0, N(beta, gamma^2))] = beta Phi(beta / |gamma|) + |gamma| phi(beta / |gamma|)``; ``max(0, beta)`` for gamma 0.

    >>> mean_after_relu(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, -2.0]))
    tensor([0.3989, 2.0000, 0.0000])
    """
    spread = scale.abs()
    ratio = shift / torch.where(spread > 0, spread, torch.ones_like(spread))
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(spread > 0, shift * torch.special.ndtr(ratio) + spread * density, shift.clamp(min=0))
