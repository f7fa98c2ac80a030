"""What users do to the modules of a network: see `grammar.wrapping`."""

from __future__ import annotations

import functools
import random
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grammar.wrapping import wrap

__all__: list[str] = []


class Around(nn.Module):
    """A module that stands for another, and does something with what it gives."""

    def __init__(self, inner: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x: Tensor, *rest: Any) -> Any:
        return self.function(self, x) if not rest else self.inner(x, *rest)


def around(*functions: Callable[[Any, Tensor], Tensor]) -> Callable[[nn.Module, int], nn.Module]:
    """A wrap that chooses one of some functions of the wrapper and its input."""
    return lambda module, choice: Around(module, functions[choice % len(functions)])


# -- hooks -----------------------------------------------------------------------------------------------------------------


def _scaled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 1.5


def _seen(module: Any, args: Any, output: Tensor) -> None:
    module.__dict__.setdefault("seen", []).append(tuple(output.shape))


def _kept(module: Any, args: Any, output: Tensor) -> None:
    module.last = output


def _shifted(module: nn.Module, args: Any) -> Any:
    return (args[0] + 0.5, *args[1:])


def _in_place(module: nn.Module, args: Any, output: Tensor) -> None:
    output.mul_(0.5)


@wrap("hook")
def hook(module: nn.Module, choice: int) -> None:
    if choice % 5 == 4:
        module.register_forward_pre_hook(_shifted)
    else:
        module.register_forward_hook((_scaled, _seen, _kept, _in_place)[choice % 5])


@wrap("closure hook")
def closure_hook(module: nn.Module, choice: int) -> None:
    gain = nn.Parameter(torch.full((1,), 1.0 + choice))
    if choice % 2:
        module.gain = gain
    factor = 1.0 + choice / 4
    module.register_forward_hook(lambda m, args, out: out * (m.gain if choice % 2 else factor))


# -- forwards on instances -------------------------------------------------------------------------------------------------


@wrap("instance forward")
def instance_forward(module: nn.Module, choice: int) -> None:
    old = module.forward
    if choice % 4 == 0:
        module.forward = lambda *args, **kwargs: old(*args, **kwargs).neg()
    elif choice % 4 == 1:
        module.forward = types.MethodType(lambda self, *args: type(self).forward(self, *args) * 2, module)
    elif choice % 4 == 2:
        module.forward = functools.partial(_doubled, old)
    else:

        @functools.wraps(old)
        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                args = (args[0] * 1.0, *args[1:])
            return old(*args, **kwargs)

        module.forward = forward


def _doubled(forward: Any, *args: Any) -> Any:
    return forward(*args) * 2


# -- contexts --------------------------------------------------------------------------------------------------------------


def _without_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return self.inner(x)


def _with_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(self.training):
        return self.inner(x)


def _in_half(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = self.inner(x)
    return y.float()


def _detached(self: Any, x: Tensor) -> Tensor:
    return self.inner(x.detach()) + self.inner(x)


wrap("context")(around(_without_gradients, _with_gradients, _in_half, _detached))

# -- writes ----------------------------------------------------------------------------------------------------------------


def _every_second(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x).clone()
    y[:, ::2].mul_(2.0)
    return y


def _out(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    with torch.no_grad():
        total = torch.empty_like(y)
        torch.add(y, 1.0, out=total)
    return y + total


def _assigned(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x).clone()
    y[:, 0] = 0.0
    return y


def _of_data(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    y.data.clamp_(-1.0, 1.0)
    return y


def _filled(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y.masked_fill_(y < -2, -2.0) if not y.requires_grad else y.masked_fill(y < -2, -2.0)


wrap("write")(around(_every_second, _out, _assigned, _of_data, _filled))

# -- state -----------------------------------------------------------------------------------------------------------------


class Counting(Around):
    """Counts its calls, in Python and in a buffer."""

    def __init__(self, inner: nn.Module, choice: int) -> None:
        super().__init__(inner, _counted)
        self.calls, self.choice, self.size = 0, choice, None
        self.register_buffer("average", torch.zeros(()))


def _counted(self: Any, x: Tensor) -> Tensor:
    y: Tensor = self.inner(x)
    choice = self.choice % 6
    if choice == 0:
        self.calls += 1
    elif choice == 1:
        self.calls += 1
        y = y * self.calls
    elif choice == 2:
        self.average.mul_(0.9).add_(y.detach().mean(), alpha=0.1)
    elif choice == 3:
        self.average = 0.9 * self.average + 0.1 * y.detach().mean()
        y = y + self.average
    elif choice == 4:
        self.size = y.shape[2:] if y.dim() > 2 else None
    elif self.training and random.random() < 0.5:
        y = y * 2
    return y


@wrap("state")
def state(module: nn.Module, choice: int) -> nn.Module:
    return Counting(module, choice)


# -- calls, names, code in C -----------------------------------------------------------------------------------------------


def _by_keyword(self: Any, x: Tensor) -> Tensor:
    return self.inner(input=x) if isinstance(self.inner, (nn.Conv2d, nn.Linear)) else self.inner(x)


def _again(self: Any, x: Tensor) -> Tensor:
    return self.inner(x) + self.inner.forward(x)


def _checkpointed(self: Any, x: Tensor) -> Tensor:
    return checkpoint(self.inner, x, use_reentrant=False)


def _reentrant(self: Any, x: Tensor) -> Tensor:
    return checkpoint(self.inner, x, use_reentrant=True)


wrap("call")(around(_by_keyword, _again, _checkpointed, _reentrant))

NAMES = ["class", "self", "with space", 'quo"te', "x", "relu", "graph", "_constant0", "a-b", "training_", "len", "new\nline"]


@wrap("name")
def odd_name(module: nn.Module, choice: int) -> nn.Module:
    held = nn.Module()
    held.add_module(NAMES[choice % len(NAMES)], module)
    return Around(held, lambda self, x: self.inner._modules[NAMES[choice % len(NAMES)]](x))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and everywhere
    scripted = torch.jit.script(_swish)


wrap("code in C")(
    around(
        lambda self, x: Twice.apply(self.inner(x)),
        lambda self, x: scripted(self.inner(x)),
        lambda self, x: torch.pow(self.inner(x), 2.0),
        lambda self, x: torch.where(self.inner(x) > 0, 1.0, 0.5),
        lambda self, x: torch.remainder(self.inner(x), 2),
        lambda self, x: torch.autograd.Variable(self.inner(x)),
    )
)

# -- sizes, dtypes, batches ------------------------------------------------------------------------------------------------


def _viewed(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y.reshape(y.shape[0], y.shape[1], -1).view(y.size())


def _sample_by_sample(self: Any, x: Tensor) -> Tensor:
    return torch.cat([self.inner(x[i : i + 1]) for i in range(x.shape[0])])


def _one_or_more(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y.sigmoid() if x.shape[0] == 1 else y


def _through_double(self: Any, x: Tensor) -> Tensor:
    return self.inner(x).double().tanh().to(x.dtype)


def _as_the_weight(self: Any, x: Tensor) -> Tensor:
    weight = next(self.inner.parameters(), x)
    return self.inner(x.to(weight.dtype)).type_as(x)


def _dropped(self: Any, x: Tensor) -> Tensor:
    return F.dropout(self.inner(x), 0.3, self.training)


def _in_training(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y + torch.randn_like(y) if self.training else y


def _masked_by_values(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y * 2 if bool((y > 0).any()) else y


wrap("size")(around(_viewed, _sample_by_sample, _one_or_more))
wrap("dtype")(around(_through_double, _as_the_weight))
wrap("mode")(around(_dropped, _in_training, _masked_by_values))


@wrap("reparametrised")
def reparametrised(module: nn.Module, choice: int) -> None:
    if isinstance(getattr(module, "weight", None), Tensor) and module.weight.dim() > 1:
        tools = nn.utils.parametrizations
        (tools.weight_norm, tools.spectral_norm, tools.orthogonal)[choice % 3](module)
