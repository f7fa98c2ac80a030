"""First-order importance (published: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
Inference", ICLR 2017, and "Importance Estimation for Neural Network Pruning", CVPR 2019)."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from fxprune.criteria.observing import GradientCriterion
from fxprune.options import one_of
from fxprune.statistics.gradients import Gradients

__all__ = ["Taylor", "TaylorJoint", "TaylorL2"]

_Form = Literal["l1", "l2", "joint"]


class Taylor(GradientCriterion):
    """``sum |w * dL/dw|`` over a channel's weights, averaged over batches: the change of the loss if they went to zero.

    One backward pass a batch; the gradient is that of the batch's mean loss. The papers differ in how the terms of a channel
    are put together:

    * ``"l1"``: the sum of absolute values. In neither paper: it is what Lee et al., "SNIP", ICLR 2019, give single weights,
      added up, and the default of Torch-Pruning.
    * ``"l2"``: ``sum (w * dL/dw)^2``, of 2019: the importances of single weights, added up.
    * ``"joint"``: ``|sum w * dL/dw|``, the first-order change of the loss if the channel went as a whole. 2019 has its
      square, averaged over batches (it is what their gates after batch norms measure). 2017 has it of a channel's
      activations, ``|mean z * dL/dz|``, averaged over images; summed over positions, the products of a convolution's output
      are those of its weights.

    2017 divides the scores of each layer by their l2 norm before it ranks all channels (``normalization="l2"``); 2019
    ranks them as they are (``"none"``).

    Args:
        form: ``"l1"``, ``"l2"`` or ``"joint"``.
    """

    def __init__(self, *args: Any, form: _Form = "l1", **options: Any) -> None:
        super().__init__(*args, **options)
        self.form = one_of("form", form, get_args(_Form))

    def observe(self, gradients: Gradients) -> dict[str, Tensor]:
        products = {n: g * gradients.weights[n] for n, g in gradients.of_batch().items()}
        if self.form == "joint":
            return products
        return {n: p.abs() if self.form == "l1" else p.double().square() for n, p in products.items()}

    def of_channels(self, contribution: Tensor) -> Tensor:
        return contribution.abs()  # of sums of what is not negative, nothing changes

    def measure(self, total: Tensor, batches: float, images: float) -> Tensor:
        return total / batches


class TaylorL2(Taylor):
    """`Taylor` in its squared form, ``sum (w * dL/dw)^2``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, form="l2", **options)


class TaylorJoint(Taylor):
    """`Taylor` of a channel as a whole, ``|sum w * dL/dw|``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, form="joint", **options)
