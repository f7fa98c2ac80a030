"""Norms that do not what their class does, and norms in a mode of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.base import Case, images, net, rows

__all__ = ["CASES"]


class Body(nn.Module):
    """A norm between convolutions."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 16, 3), norm, nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu())


class OtherEps(nn.BatchNorm2d):
    """Does not use its own eps."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, 0.3)


class Frozen(nn.BatchNorm2d):
    """Always by its running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, momentum=self.momentum, eps=self.eps
        )


class NoGradient(nn.BatchNorm2d):
    """Its train() leaves it in evaluation."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


class Activated(nn.BatchNorm2d):
    """A copy of the class's code with an activation, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        training = self.training if self.training else self.running_mean is None and self.running_var is None
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
        )
        return F.silu(x)


class OtherInTraining(nn.BatchNorm2d):
    """Another activation in training."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return F.relu(x) if self.training else F.silu(x)


class DropsOut(nn.BatchNorm2d):
    """Its own flag as an argument."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class Before(nn.BatchNorm2d):
    """Keyword call, and the class's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(input=x * 2)


class Parts(Body):
    """Its train() freezes a part, as detectors do."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.norm.eval()
        return self


class Block(nn.Module):
    """Freezes its norms itself, and branches on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Parts(nn.BatchNorm2d(16))
        self.drop = nn.Dropout(0.5)
        self.tail = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.body(x))
        if self.training:
            x = x * 2
        return self.tail(x)


class NeverTrains(Body):
    """No mode but one."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


class Keyword(Body):
    """The norm by a keyword."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=self.norm(input=self.conv(input=x)).relu())


class Functional(Body):
    """Functions on the parameters of parts."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        n: Any = self.norm
        h = F.batch_norm(h, n.running_mean, n.running_var, n.weight, n.bias, eps=0.1)
        return self.last(F.group_norm(h, 4, n.weight, n.bias).relu())


def _shared(model: Any, h: Tensor) -> Tensor:
    return model.c(F.layer_norm(model.c(h), (16,), model.c.weight, model.c.bias)).relu()


def _set(norm: nn.Module, **values: Any) -> nn.Module:
    for name, value in values.items():
        setattr(norm, name, value)
    return norm


def _body(make: Callable[[], nn.Module], kind: type[Body] = Body) -> Callable[[], nn.Module]:
    return lambda: kind(make())


def _in_evaluation() -> nn.Module:
    model = Body(nn.BatchNorm2d(16)).train()
    model.norm.eval()
    return model


CASES = [
    Case("another eps", _body(lambda: OtherEps(16)), images),
    Case("frozen statistics", _body(lambda: Frozen(16)), images),
    Case("train() without effect on a norm", _body(lambda: NoGradient(16)), images),
    Case("own code of a norm", _body(lambda: Activated(16)), images),
    Case("own code without momentum", _body(lambda: Activated(16, momentum=None)), images),
    Case("own code without statistics", _body(lambda: Activated(16, track_running_stats=False)), images),
    Case("another activation in training", _body(lambda: OtherInTraining(16)), images),
    Case("dropout in a norm", _body(lambda: DropsOut(16)), images),
    Case("the class's forward by keyword", _body(lambda: Before(16)), images),
    Case("no statistics", _body(lambda: nn.BatchNorm2d(16, track_running_stats=False)), images),
    Case("no momentum", _body(lambda: nn.BatchNorm2d(16, momentum=None)), images),
    Case("no affine", _body(lambda: nn.BatchNorm2d(16, affine=False)), images),
    Case("settings changed later", _body(lambda: _set(nn.BatchNorm2d(16), eps=0.5, momentum=0.7)), images),
    Case("instance norm with statistics", _body(lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True)), images),
    Case("train() of the model freezes a part", _body(lambda: nn.BatchNorm2d(16), Parts), images),
    Case("train() of a part freezes a part", Block, images),
    Case("train() without effect", _body(lambda: nn.BatchNorm2d(16), NeverTrains), images),
    Case("norm in evaluation", _in_evaluation, images),
    Case("keywords", _body(lambda: nn.BatchNorm2d(16), Keyword), images),
    Case("functions on parameters of parts", _body(lambda: nn.BatchNorm2d(16), Functional), images),
    Case("shared layer norm", net(_shared, c=lambda: nn.LayerNorm(16)), rows),
    Case("group norm", _body(lambda: nn.GroupNorm(4, 16)), images),
    Case("norm of one group", _body(lambda: nn.GroupNorm(1, 16)), images),
]
