"""Modules whose forward is not that of their class, or is not reached by a call of the module."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.kinds.base import Case, images, net, rows
from tests.kinds.hooks import Small, dressed

__all__ = ["CASES"]


def _method(model: Small) -> None:
    def forward(self: Small, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3))) * 2

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def _around_the_model(model: Small) -> None:
    old = model.forward

    @functools.wraps(old)
    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return old(*args, **kwargs).tanh()

    model.forward = forward  # type: ignore[method-assign]


def _as_accelerate_does(model: Small) -> None:
    for part in (model, model.conv, model.norm, model.head):
        old = part.forward

        def new_forward(module: Any, *args: Any, _old: Any = old, **kwargs: Any) -> Any:
            args = tuple(a + 1 for a in args)
            return module._old_forward(*args, **kwargs)

        part._old_forward = old  # type: ignore[assignment]
        part.forward = functools.update_wrapper(functools.partial(new_forward, part), old)  # type: ignore[assignment]


def _wrapped(name: str) -> Callable[[Any], None]:
    def dress(model: Small) -> None:
        part = getattr(model, name)
        old = part.forward
        part.forward = lambda x: 2 * old(x) - 1

    return dress


def _bound_default(model: Small) -> None:
    model.conv.forward = lambda x, old=model.conv.forward: old(x) * 3  # type: ignore[misc]


def _of_another(model: Small) -> None:
    body = model.body
    model.act.forward = lambda x: body[1](x) + model.norm.weight[:, None, None]  # type: ignore[method-assign]


def _no_grad(model: Small) -> None:
    model.norm.forward = torch.enable_grad()(model.norm.forward)  # type: ignore[method-assign]


class Scaled(nn.Module):
    """Another ``__call__``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Standardised(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Same(nn.Conv2d):
    """Padding by the size of the input, and the class's forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Direct(nn.Conv2d):
    """The method that forward calls."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * 2, self.bias)


class LowRank(nn.Linear):
    """Something beside the layer, as LoRA has it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after)
        self.down, self.up = nn.Linear(before, 2, bias=False), nn.Linear(2, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


class Chain(nn.Sequential):
    """The class's forward between others."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.Sequential.forward(self, x.relu()).tanh()


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, w: Tensor) -> Tensor:
        return w * 2


class Past(Small):
    """Past the call of a norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.norm.forward(self.conv(x))).mean((2, 3)))


def _parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    return model


def _lazy(ran: bool) -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))
    if ran:
        model(torch.zeros(2, 8))
    return model


def _own(kind: Any, *args: Any, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return nn.Sequential(kind(3, 16, *args, **settings), nn.ReLU(), nn.Conv2d(16, 4, 3))

    return make


_MODEL: list[nn.Module] = []


def _reaching_itself() -> nn.Module:
    model = Small()
    _MODEL[:] = [model]
    model.act.forward = lambda x: x + _MODEL[0].norm.weight.sum()  # type: ignore[method-assign]
    return model


CASES = [
    Case("method on the model", dressed(_method), images),
    Case("wrapped model", dressed(_around_the_model), images),
    Case("as accelerate does", dressed(_as_accelerate_does), images),
    Case("wrapped convolution", dressed(_wrapped("conv")), images),
    Case("wrapped norm", dressed(_wrapped("norm")), images),
    Case("wrapped linear layer", dressed(_wrapped("head")), images),
    Case("wrapped container", dressed(_wrapped("body")), images),
    Case("old forward as a default", dressed(_bound_default), images),
    Case("closure over another part", dressed(_of_another), images),
    Case("decorated", dressed(_no_grad), images),
    Case("__call__ of the class", Scaled, rows),
    Case("weight standardisation", _own(Standardised, 3, padding=1), images),
    Case("padding, then the class's own", _own(Same, 3), images),
    Case("_conv_forward", _own(Direct, 3, padding=1), images),
    Case("beside a linear layer", lambda: nn.Sequential(LowRank(8, 16), nn.ReLU(), LowRank(16, 4)), rows),
    Case("own Sequential", lambda: Chain(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), rows),
    Case("forward called", net(lambda m, h: m.c.forward(h).relu(), c=nn.Linear(16, 16)), rows),
    Case("forward of the class", net(lambda m, h: nn.Linear.forward(m.c, h).relu(), c=nn.Linear(16, 16)), rows),
    Case("norm's forward called", Past, images),
    Case("weight used directly", net(lambda m, h: F.linear(h, m.c.weight).relu(), c=nn.Linear(16, 16)), rows),
    Case("parametrized", _parametrized, rows),
    Case("lazy, after a run", lambda: _lazy(True), rows),
    Case("the model by a global name", _reaching_itself, images, refused="reaches"),
]
