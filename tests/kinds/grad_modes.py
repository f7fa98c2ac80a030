"""Parts of forward in which gradients are on or off."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tests.kinds.base import Case, net, rows

__all__ = ["CASES"]


def _linear() -> nn.Module:
    return nn.Linear(16, 16)


def _block() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16))


def _off(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.c(h)
    return h


def _half_of_a_sum(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        gate = model.c(h).sigmoid()
    return h * gate


def _nested(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        y = model.c(h)
        with torch.enable_grad():
            z = model.c(h)
        y = y * 2
    return y + z


def _by_mode(model: Any, h: Tensor) -> Tensor:
    with torch.set_grad_enabled(model.training):
        return model.c(h)


def _by_mode_or_flag(model: Any, h: Tensor) -> Tensor:
    with torch.set_grad_enabled(model.tuned or not model.training):
        return model.c(h)


def _only_in_evaluation(model: Any, h: Tensor) -> Tensor:
    with nullcontext() if model.training else torch.no_grad():
        return model.c(h) + h


def _only_in_training(model: Any, h: Tensor) -> Tensor:
    with ExitStack() as stack:
        if model.training:
            stack.enter_context(torch.no_grad())
        h = model.c(h)
    return h + 1


def _frozen_block(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.block(h)
    return model.block(h)


def _switched(model: Any, h: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    gate = model.c(h)
    torch.set_grad_enabled(before)
    return h * gate


def _left_off(model: Any, h: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    return h.relu()


class Decorated(nn.Module):
    """Methods that are decorated."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.whole = whole

    @torch.no_grad()
    def statistic(self, h: Tensor) -> Tensor:
        return h.abs().amax(0, keepdim=True)

    @torch.set_grad_enabled(False)
    def scale(self, h: Tensor) -> Tensor:
        return h.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h * self.scale(h) + self.statistic(h))


class DecoratedForward(Decorated):
    """Forward as a whole has no gradients."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def _inference(model: Any, h: Tensor) -> Tensor:
    with torch.inference_mode():
        y = model.c(h).sigmoid()
    return h + y.clone()


def _inference_off(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad(), torch.inference_mode(False):
        return model.c(h)


@torch.inference_mode()
def _decorated_inference(model: Any, h: Tensor) -> Tensor:
    return model.c(h)


def _clone_of_inference(model: Any, h: Tensor) -> Tensor:
    return _decorated_inference(model, h).clone() + h


def _detached(model: Any, h: Tensor) -> Tensor:
    return model.c(h.detach()) + h.detach().sigmoid() * h


def _detached_in_place(model: Any, h: Tensor) -> Tensor:
    y = model.c(h)
    y.detach_()
    return y + h


def _required(model: Any, h: Tensor) -> Tensor:
    y = h.detach().requires_grad_()
    return model.c(y)


def _not_required(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        y = model.c(h)
    y.requires_grad_(True)
    return y * h


def _straight_through(model: Any, h: Tensor) -> Tensor:
    return h + (h.round() - h).detach()


def _harmless_question(model: Any, h: Tensor) -> Tensor:
    if torch.is_grad_enabled() and model.checkpointing:
        raise AssertionError
    return model.c(h)


def _telling_question(model: Any, h: Tensor) -> Tensor:
    return model.c(h) if torch.is_grad_enabled() else h


def _answered_question(model: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        return h if torch.is_grad_enabled() else model.c(h)


def _set_value(model: Any, h: Tensor) -> Tensor:
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return h * 3
    return model.c(h)


class Learning(nn.Module):
    """Takes gradients in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(16, 16)

    def forward(self, h: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            return self.c(h)


CASES = [
    Case("no_grad", net(_off, c=_linear), rows),
    Case("a gate without gradients", net(_half_of_a_sum, c=_linear), rows),
    Case("enable_grad inside no_grad", net(_nested, c=_linear), rows),
    Case("gradients in training", net(_by_mode, c=_linear), rows),
    Case("gradients by a flag or the mode", net(_by_mode_or_flag, c=_linear, tuned=lambda: False), rows),
    Case("no gradients in evaluation alone", net(_only_in_evaluation, c=_linear), rows),
    Case("no gradients in training alone", net(_only_in_training, c=_linear), rows),
    Case("a block without gradients, and with", net(_frozen_block, block=_block), rows),
    Case("gradients switched off and back", net(_switched, c=_linear), rows),
    Case("gradients left off", net(_left_off), rows, refused="torch.no_grad\\(\\) still in force for its caller"),
    Case("decorated methods", lambda: Decorated(False), rows),
    Case("decorated forward", lambda: DecoratedForward(True), rows),
    Case("inference_mode", net(_inference, c=_linear), rows),
    Case("inference_mode off", net(_inference_off, c=_linear), rows),
    Case("a function decorated with inference_mode", net(_clone_of_inference, c=_linear), rows),
    Case("detach", net(_detached, c=_linear), rows),
    Case("detach_", net(_detached_in_place, c=_linear), rows),
    Case("requires_grad_ of a detached tensor", net(_required, c=_linear), rows),
    Case("requires_grad_ of what no_grad made", net(_not_required, c=_linear), rows),
    Case("straight-through rounding", net(_straight_through), rows),
    Case(
        "a question about gradients that changes nothing", net(_harmless_question, c=_linear, checkpointing=lambda: False), rows
    ),
    Case(
        "a question about gradients that changes the path", net(_telling_question, c=_linear), rows, refused="is_grad_enabled"
    ),
    Case("a question about gradients inside no_grad", net(_answered_question, c=_linear), rows),
    Case("questions about compilers", net(_set_value, c=_linear), rows),
    Case("of a part with a number", net(lambda m, h: m.parts(h), parts=lambda: nn.Sequential(nn.ReLU(), Learning())), rows),
    Case(
        "of a part called class",
        net(lambda m, h: m.parts["class"](h), parts=lambda: nn.ModuleDict({"class": Learning()})),
        rows,
    ),
]
