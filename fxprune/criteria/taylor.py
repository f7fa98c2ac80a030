"""First-order importance (published: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
Inference", ICLR 2017, and "Importance Estimation for Neural Network Pruning", CVPR 2019)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from fxprune.criteria.observing import GradientCriterion
from fxprune.errors import InputError
from fxprune.statistics.gradients import Gradients

__all__ = ["Taylor", "TaylorL2"]


class Taylor(GradientCriterion):
    """``sum |w * dL/dw|`` over a channel's weights, averaged over batches: the change of the loss if they went to zero.

    One backward pass a batch; the gradient is that of the batch's mean loss.

    Args:
        form: ``"l1"`` as above, or ``"l2"``: ``sum (w * dL/dw)^2``.
    """

    def __init__(self, *args: Any, form: Literal["l1", "l2"] = "l1", **options: Any) -> None:
        super().__init__(*args, **options)
        if form not in ("l1", "l2"):
            raise InputError(f"form must be 'l1' or 'l2', not {form!r}")
        self.form = form

    def observe(self, gradients: Gradients) -> dict[str, Tensor]:
        products = {n: g * gradients.weights[n] for n, g in gradients.of_batch().items()}
        return {n: p.abs() if self.form == "l1" else p.double().square() for n, p in products.items()}

    def measure(self, total: Tensor, batches: float, images: float) -> Tensor:
        return total / batches


class TaylorL2(Taylor):
    """`Taylor` in its squared form, ``sum (w * dL/dw)^2``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, form="l2", **options)
