"""Second-order importance (published: LeCun et al., "Optimal Brain Damage", NIPS 1989; with the empirical Fisher
information in the Hessian's place: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018)."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import torch
from torch import Tensor

from fxprune.criteria.observing import GradientCriterion
from fxprune.errors import InputError
from fxprune.statistics.gradients import Gradients

__all__ = ["Hessian"]


class Hessian(GradientCriterion):
    """``sum w^2 h / 2`` over a channel's weights, with ``h`` the diagonal of the loss' Hessian, averaged over images.

    Args:
        estimator: ``"fisher"``: ``h`` is the mean squared gradient of single samples, so one backward pass a sample;
            ``"hutchinson"``: ``h = E[v * H v]`` over random signs ``v``, one draw and one double backward pass a batch. That
            is unbiased and may be negative. Draws depend on the seed and the batch's size alone.
    """

    def __init__(
        self, *args: Any, estimator: Literal["fisher", "hutchinson"] = "fisher", draws: int = 1, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        if estimator not in ("fisher", "hutchinson"):
            raise InputError(f"estimator must be 'fisher' or 'hutchinson', not {estimator!r}")
        if draws < 1:
            raise InputError(f"draws must be at least 1, not {draws}")
        self.estimator, self.draws = estimator, draws

    def observe(self, gradients: Gradients) -> dict[str, Tensor]:
        curvature = self._fisher(gradients) if self.estimator == "fisher" else self._hutchinson(gradients)
        return {n: gradients.weights[n].double().square() * h / 2 for n, h in curvature.items()}

    def measure(self, total: Tensor, batches: float, images: float) -> Tensor:
        return total / images

    def _fisher(self, gradients: Gradients) -> dict[str, Tensor]:
        total = {n: torch.zeros_like(w, dtype=torch.float64) for n, w in gradients.weights.items()}
        for sample in gradients.of_samples():
            for name, gradient in sample.items():
                total[name] += gradient.double().square()
        return total

    def _hutchinson(self, gradients: Gradients) -> dict[str, Tensor]:
        total = {n: torch.zeros_like(w, dtype=torch.float64) for n, w in gradients.weights.items()}
        for draw in range(self.draws):
            signs = {}
            for name, weight in gradients.weights.items():
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(f"{draw} {name}".encode()))
                sign = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
                signs[name] = sign.to(weight.device, weight.dtype)
            for name, product in gradients.hessian_products(signs).items():
                total[name] += (signs[name] * product).double() * gradients.images / self.draws
        return total
