"""Gradients of a loss for the weights of a traced model: of a batch, of each sample, and products with the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fxprune import nested
from fxprune.errors import InputError, shown
from fxprune.inputs.batches import Batch
from fxprune.inputs.examples import own_copy
from fxprune.statistics.walk import Runner, failing

__all__ = ["Gradients", "Loss"]

Loss = Callable[[Any, Any], Tensor]


class Gradients:
    """Differentiates the loss of one batch, without touching ``.grad`` or ``requires_grad`` of the user's parameters.

    Attributes:
        weights: ``{name: parameter}``, detached: those that gradients are for.
        images: of the batch.
    """

    def __init__(self, runner: Runner, weights: Mapping[str, Tensor], batch: Batch, loss: Loss | None) -> None:
        self.runner, self.batch, self.loss = runner, batch, loss
        self.weights = {name: w.detach() for name, w in weights.items()}
        self.images = batch.images
        self._whole: dict[str, Tensor] | None = None

    def of_batch(self) -> dict[str, Tensor]:
        """``{name: gradient}`` of the batch's loss; zero for weights that the output does not depend on."""
        if self._whole is None:
            self._whole, _ = self._differentiate(self.batch.inputs, self.batch.labels)
        return self._whole

    def of_samples(self) -> Iterator[dict[str, Tensor]]:
        """The same for each sample by itself: as many backward passes as there are samples."""
        for i in range(self.images):
            yield self._differentiate(_sample(self.batch.inputs, i, self.images), _sample(self.batch.labels, i, self.images))[0]

    def hessian_products(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{name: H v}`` for the Hessian of the batch's loss and ``v = direction``."""
        gradients, leaves = self._differentiate(self.batch.inputs, self.batch.labels, again=True)
        slope = sum(((gradients[n] * direction[n]).sum() for n in leaves), start=torch.zeros((), device=self.runner.device))
        if not slope.requires_grad:  # the loss is linear in the weights
            return {n: torch.zeros_like(w) for n, w in leaves.items()}
        found = torch.autograd.grad(slope, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def _differentiate(self, inputs: Any, labels: Any, again: bool = False) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        leaves = {name: w.detach().requires_grad_() for name, w in self.weights.items()}
        with torch.enable_grad():
            with failing("the model"):
                output = functional_call(self.runner.module, leaves, own_copy(inputs))
            with failing("the loss"):
                value = self._loss_of(output, labels)
            if not isinstance(value, Tensor):
                raise InputError(f"the loss must be a tensor of one number, computed from the output, not {shown(value)}")
            if value.dim():
                raise InputError(f"the loss must be one number, not a tensor of shape {tuple(value.shape)}")
            if not value.requires_grad:
                raise InputError("the loss does not depend on the weights, so it has no gradient: compute it from the output")
            found = torch.autograd.grad(
                value, list(leaves.values()), allow_unused=True, materialize_grads=True, create_graph=again
            )
        gradients = dict(zip(leaves, found, strict=True))
        for name, gradient in gradients.items():
            if not bool(torch.isfinite(gradient).all()):
                raise InputError(f"the gradient of {name} is not finite: check the model, its data and the loss")
        return gradients, leaves

    def _loss_of(self, output: Any, labels: Any) -> Tensor:
        if self.loss is not None:
            return self.loss(output, labels)
        if labels is None:
            raise InputError("gradients need a loss: give batches labels, or pass loss, a function of output and labels")
        if not isinstance(output, Tensor):
            raise InputError(f"the model returns a {type(output).__name__}: pass loss, a function of output and labels")
        return torch.nn.functional.cross_entropy(output, labels)


def _sample(value: Any, i: int, images: int) -> Any:
    """Sample `i` of each tensor that has one entry an image."""

    def pick(v: Any) -> Any:
        return v[i : i + 1] if isinstance(v, Tensor) and v.dim() and len(v) == images else v

    return nested.map(pick, value)
