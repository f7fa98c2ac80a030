"""Hooks of modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.kinds.base import Case, images, rows

__all__ = ["CASES", "Lazy", "Shorter", "Small", "Unready", "collect", "dressed"]


class Small(nn.Module):
    """A convolution with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 4)
        self.seen: list[Tensor] = []
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.act(self.norm(self.conv(x))))
        return self.head(h.mean((2, 3)))


def dressed(dress: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    """Makes a `Small` to which something was done."""

    def make() -> nn.Module:
        model = Small()
        dress(model)
        return model

    return make


def _twice(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def _shift_inputs(module: nn.Module, args: Any) -> Any:
    return args[0] + 1


def _with_keywords(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return (), {"input": args[0] * 3}


def _keywords_after(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output + args[0].mean()


class Collecting(Small):
    """Stores what its parts give, as feature extractors do, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.body.register_forward_hook(self.store)
        self.conv.register_forward_hook(functools.partial(self.store_as, 1))

    def store(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)

    def store_as(self, number: int, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output.sum() * number)

    def forward(self, x: Tensor) -> Any:
        self.seen.clear()
        out = super().forward(x)
        return out, self.seen[0], self.seen[1].mean((2, 3))


class Passing(Small):
    """Hooks and unhooks in forward."""

    def forward(self, x: Tensor) -> Tensor:
        with self.conv.register_forward_hook(_twice):
            out = super().forward(x)
        return out + super().forward(x)


class Leaving(Small):
    """Hooks in forward, and forgets it."""

    def forward(self, x: Tensor) -> Tensor:
        self.conv.register_forward_hook(_twice)
        return super().forward(x)


class Lazy(Small):
    """Hooks its parts in its first call, as libraries do that collect features."""

    ready = False

    def __init__(self, hook: Callable[..., Any]) -> None:
        super().__init__()
        self.hook = hook

    def forward(self, x: Tensor) -> Any:
        if not self.ready:
            for part in (self.conv, self.body):
                part.register_forward_hook(self.hook, always_call=True)
            self.ready = True
        _COLLECTED.append([])
        try:
            out = super().forward(x)
            return out, sum(feature.mean() for feature in _COLLECTED[-1])
        finally:
            _COLLECTED.pop()


class Late(Small):
    """Hooks a part after its first call, which computes something else."""

    ready = False

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if not self.ready:
            self.conv.register_forward_hook(_twice)
            self.ready = True
        return out


class Unready(Small):
    """Puts another part into its place in the first call."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.make, self.ready = make, False

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.act = self.make()  # type: ignore[assignment]
            self.ready = True
        return super().forward(x)


class Shorter(Small):
    """Its first small image has it leave out a part for good, as a library falls back to a simpler form of attention."""

    simple = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.simple and x.shape[-1] <= 16:
            self.simple = True
        return super().forward(x) if self.simple else self.head(self.conv(x).mean((2, 3)))


def _run_before(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.eval()(*images(2))
    return model


def _once(model: Small) -> None:
    def first_time(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        handle.remove()
        return output * 2

    handle = model.conv.register_forward_hook(first_time)


def _closure(model: Small) -> None:
    norm, head = model.norm, model.head
    model.conv.register_forward_hook(
        lambda m, i, o: nn.functional.conv2d(o * head.weight.mean(), model.body[0].weight, norm.bias, padding=1)
    )


def _mask(model: Small) -> None:
    with torch.no_grad():
        prune.l1_unstructured(model.conv, "weight", amount=0.5)
        prune.random_structured(model.head, "weight", amount=2, dim=1)


def _outside(model: Small) -> None:
    seen: list[Tensor] = []
    model.conv.register_forward_hook(lambda m, i, o: seen.append(o))


def _detached(model: Small) -> None:
    seen: dict[str, Tensor] = {}
    model.body.register_forward_hook(lambda m, i, o: seen.update(body=o.detach().mean()))


def _asserting(model: Small) -> None:
    def check(module: nn.Module, args: Any, output: Tensor) -> None:
        assert output.dim() == 4
        assert args[0].shape[2:] == output.shape[2:]

    for part in (model.conv, model.norm, model.body):
        part.register_forward_hook(check)


def _write(model: Small) -> None:
    def write(module: nn.Module, args: Any, output: Tensor) -> None:
        output.mul_(2)

    model.norm.register_forward_hook(write)


_COLLECTED: list[list[Tensor]] = []


def collect(module: nn.Module, args: Any, output: Tensor) -> None:
    if _COLLECTED:
        _COLLECTED[-1].append(output)


class Outside(Small):
    """Hooks collect into a place of the library while forward asks for it."""

    def __init__(self) -> None:
        super().__init__()
        for part in (self.conv, self.norm, self.body):
            part.register_forward_hook(collect)

    def forward(self, x: Tensor) -> Any:
        _COLLECTED.append([])
        try:
            out = super().forward(x)
            return out, sum(feature.mean() for feature in _COLLECTED[-1])
        finally:
            _COLLECTED.pop()


def _on_gradient(model: Small) -> None:
    model.conv.weight.register_hook(lambda g: g * 0)


def _after_gradient(model: Small) -> None:
    model.conv.weight.register_post_accumulate_grad_hook(lambda p: None)


def _store_on_module(module: Any, args: Any, output: Tensor) -> None:
    module.last = output


class Reading(Small):
    """Reads what a hook stored on the part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(_store_on_module)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.conv.last.mean()  # type: ignore[operator, union-attr]


def _stacked(model: Small) -> None:
    model.norm.register_forward_hook(_twice)
    model.norm.register_forward_hook(lambda m, i, o: o + 1, prepend=True)


def _state(model: Small) -> None:
    model.conv._register_state_dict_hook(lambda m, state, prefix, meta: None)
    model.register_state_dict_pre_hook(lambda m, prefix, keep: None)


CASES = [
    Case("output of a layer", dressed(lambda m: m.conv.register_forward_hook(_twice)), images),
    Case("output of a norm", dressed(lambda m: m.norm.register_forward_hook(_twice)), images),
    Case("output of an activation", dressed(lambda m: m.act.register_forward_hook(_twice)), images),
    Case("output of a container", dressed(lambda m: m.body.register_forward_hook(_twice)), images),
    Case("output of the model", dressed(lambda m: m.register_forward_hook(_twice)), images),
    Case("input of a layer", dressed(lambda m: m.conv.register_forward_pre_hook(_shift_inputs)), images),
    Case("input of a norm", dressed(lambda m: m.norm.register_forward_pre_hook(_shift_inputs)), images),
    Case("input of the model", dressed(lambda m: m.register_forward_pre_hook(_shift_inputs)), images),
    Case(
        "input becomes a keyword",
        dressed(lambda m: m.conv.register_forward_pre_hook(_with_keywords, with_kwargs=True)),
        images,
    ),
    Case("hook with keywords", dressed(lambda m: m.conv.register_forward_hook(_keywords_after, with_kwargs=True)), images),
    Case("always called", dressed(lambda m: m.conv.register_forward_hook(_twice, always_call=True)), images),
    Case("two hooks in order", dressed(_stacked), images),
    Case("features collected", Collecting, images),
    Case("stored on the part", Reading, images),
    Case("closure over parts", dressed(_closure), images),
    Case("registered for one call", Passing, images),
    Case("masks of torch.nn.utils.prune", dressed(_mask), images),
    Case("hooks of the state", dressed(_state), images),
    Case("left registered", Leaving, images, refused="hooks of the module 'conv' are not the same"),
    Case("removed by itself", dressed(_once), images, refused="hooks of the module 'conv' are not the same"),
    Case("registered in the first call", lambda: Lazy(collect), images),
    Case("registered in the first call, of a model that has run", lambda: _run_before(Lazy(collect)), images),
    Case("registered late", Late, images, refused="hooks of the module 'conv' .* run the model once before"),
    Case("registered late, of a model that has run", lambda: _run_before(Late()), images),
    Case("a part made in the first call", lambda: Unready(nn.Tanh), images),
    Case("falls back in the first call", Shorter, images),
    Case("collected outside for forward", Outside, images),
    Case("checks shapes", dressed(_asserting), images),
    Case("writes into the output", dressed(_write), images),
    Case("keeps what it makes", dressed(_detached), images, refused="a hook on 'body' .* keeps what it sees"),
    Case("only looks on", dressed(_outside), images, refused="a hook on 'conv' .* keeps what it sees"),
    Case(
        "gradient of a module",
        dressed(lambda m: m.conv.register_full_backward_hook(lambda m, i, o: None)),
        images,
        refused="'conv' has a hook on gradients",
    ),
    Case(
        "gradient before a module",
        dressed(lambda m: m.register_full_backward_pre_hook(lambda m, g: None)),
        images,
        refused="the model has a hook on gradients",
    ),
    Case("gradient of a parameter", dressed(_on_gradient), images, refused="'conv.weight' has a hook on its gradient"),
    Case("after the gradient", dressed(_after_gradient), images, refused="'conv.weight' has a hook on its gradient"),
    Case("hook on one linear layer", lambda: _rows_hook(), rows),
]


def _rows_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model[0].register_forward_hook(lambda m, i, o: torch.tanh(o))
    return model
