"""Calls with a backward of their own, or without code of Python: the graph keeps them whole."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, Variable
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


class Tripled(Function):
    """Its backward is not that of its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * gradient * torch.sigmoid(x)


class Scaled(Function):
    """Takes what is no tensor, keeps it apart from forward."""

    @staticmethod
    def forward(x: Tensor, scale: float = 2.0, name: str = "") -> Tensor:
        return x * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.scale * 5, None, None


class Halves(Function):
    """Several outputs, one of them none and one without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None) -> Any:
        ctx.mark_non_differentiable(signs := x.sign())
        return x.relu(), None, signs, x.abs()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * 0.5 + gradients[3], None


class Written(Function):
    """Writes into its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 7


class Rounded(Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Weighted(Function):
    """A linear layer by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return gradient @ weight, 2 * gradient.t() @ x


TRIPLED = Tripled.apply


def scripted(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in many libraries
        return torch.jit.script(function)


@scripted
def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


@scripted
def folded(x: Tensor, groups: int) -> Tensor:
    return x.view(x.size(0), groups, -1).flatten(1).relu()


@scripted
def pair(x: Tensor, twice: bool = False) -> tuple[Tensor, Tensor]:
    if twice:
        x = x * 2
    return x.relu(), x.sigmoid()


@torch.library.custom_op("fxprune_kinds::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


doubled.register_fake(lambda x: torch.empty_like(x))
doubled.register_autograd(lambda ctx, gradient: gradient * 11, setup_context=lambda ctx, inputs, output: None)


def _halves(model: nn.Module, h: Tensor) -> Tensor:
    first, nothing, signs, last = Halves.apply(h, None)
    assert nothing is None
    return first + signs * last


def _reentrant(model: Any, h: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no input has a gradient
        return checkpoint(model.layers, h, use_reentrant=True)


class Reentrant(nn.Module):
    """Layers whose parameters learn only where their input follows from other parameters."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return _reentrant(self, x)


def _front() -> nn.Module:
    return nn.Sequential(Reentrant(nn.Linear(8, 16)), nn.Linear(16, 16), Reentrant(nn.Linear(16, 4)))


def _after_frozen() -> nn.Module:
    made = nn.Sequential(nn.Linear(8, 16), Reentrant(nn.Linear(16, 16)), nn.Linear(16, 4))
    made[0].requires_grad_(False)
    return made


def _sequential(model: Any, h: Tensor) -> Tensor:
    return checkpoint_sequential(model.layers, 2, h, use_reentrant=False)


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Dropout(0.5))


CASES = [
    Case("a backward of its own", net(lambda m, h: Tripled.apply(h)), rows),
    Case("apply held as a value", net(lambda m, h: TRIPLED(h) + TRIPLED(h * 2)), rows),
    Case("a context set up apart", net(lambda m, h: Scaled.apply(h, 3.0, "by three")), rows),
    Case("defaults of forward", net(lambda m, h: Scaled.apply(h)), rows),
    Case("several outputs, one none", net(_halves), rows),
    Case("written in place", net(lambda m, h: Written.apply(h * 1) + 1), rows),
    Case("straight through", net(lambda m, h: Rounded.apply(h * 4)), rows),
    Case("a weight of the model", net(lambda m, h: Weighted.apply(h, m.c.weight), c=lambda: nn.Linear(16, 16)), rows),
    Case("a scripted function", net(lambda m, h: mish(h)), rows),
    Case("a scripted function of sizes", net(lambda m, h: folded(h, 4)), rows),
    Case("a scripted function of two outputs", net(lambda m, h: sum(pair(h, twice=True))), rows),
    Case("a custom operator", net(lambda m, h: m.layers(doubled(h)), layers=_layers), rows),
    Case("a variable", net(lambda m, h: Variable(h) + h), rows),
    Case("checkpoint", net(lambda m, h: checkpoint(m.layers, h, use_reentrant=False), layers=_layers), rows),
    Case("reentrant checkpoint", net(_reentrant, layers=_layers), rows),
    Case("reentrant checkpoint of the first layer", _front, rows),
    Case("reentrant checkpoint after a frozen layer", _after_frozen, rows),
    Case("reentrant checkpoint of a frozen model", lambda: _front().requires_grad_(False), rows),
    Case("reentrant checkpoint cut off", net(lambda m, h: _reentrant(m, h.detach()) + h, layers=_layers), rows),
    Case("checkpoint of a sequence", net(_sequential, layers=_layers), rows),
    Case("vmap", net(lambda m, h: torch.func.vmap(torch.relu)(h)), rows, refused=r"torch\.func"),
    Case("grad", net(lambda m, h: torch.func.grad(lambda t: (t**2).sum())(h)), rows, refused=r"torch\.func"),
    Case("jvp", net(lambda m, h: torch.func.jvp(torch.sin, (h,), (h,))[1]), rows, refused=r"torch\.func"),
    Case("a function as an argument", net(lambda m, h: h.apply_(abs)), rows, refused="abs is an argument of an operation"),
]
