"""Pruning in several threads at once: the same results as one by one, and nothing of Python or PyTorch stays patched."""

from __future__ import annotations

import builtins
import math
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxprune
from fxprune.tracing.tracer import trace_graph


class Net(nn.Module):
    """A chain of `depth` blocks, which reads sizes, the mode, and makes tensors."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()) for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        if self.training:
            x = x * 0.5
        side = max(x.shape[-1], math.ceil(x.shape[-2] / 2))
        x = x + torch.zeros(side, side)
        found: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return found


class Ranged(nn.Module):
    """Uses a size as a number of plain Python, for which PyTorch's C functions are patched, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for i in range(x.shape[-1] // 8):
            x = x + i
        found: Tensor = self.b(x)
        return found


def everything() -> dict[tuple[str, str], Any]:
    """What tracing may patch, by place."""
    places: tuple[Any, ...] = (builtins, math, torch, F, torch.Tensor, nn.Module)
    return {(owner.__name__, name): value for owner in places for name, value in vars(owner).items()}


@contextmanager
def unchanged() -> Iterator[None]:
    """Fails where something that tracing patches is another object afterwards."""
    before = everything()
    yield
    after = everything()
    assert [place for place, value in before.items() if after.get(place) is not value] == []
    added = [place for place in after if place not in before]
    assert [place for place in added if not isinstance(after[place], ModuleType)] == []


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """The results of tasks that start at the same time, a thread each."""
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        start.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(run, task) for task in tasks]]


@pytest.mark.parametrize("verify", [False, True])
def test_four_threads_prune_what_one_does(verify: bool) -> None:
    models = [Net(2, 16).eval(), Net(5, 8).eval(), Net(3, 12).train(), Ranged().eval()]
    image = torch.zeros(2, 3, 16, 16)

    def pruned(model: nn.Module) -> tuple[str, str, dict[str, Tensor]]:
        slim = fxprune.prune(model, 0.5, image, scope="layer", verify=verify)
        return slim.meta["fxprune"].plan.to_json(), slim.code, slim.state_dict()

    alone = [pruned(model) for model in models]  # before `unchanged`, as PyTorch changes itself when it imports parts late
    with unchanged():
        for _ in range(3):
            for one, other in zip(alone, together(*(lambda m=m: pruned(m) for m in models)), strict=True):  # type: ignore[misc]
                assert one[:2] == other[:2]
                torch.testing.assert_close(one[2], other[2], rtol=0, atol=0)


class Waits(Net):
    """Waits in forward until another thread is done."""

    def __init__(self, inside: threading.Event, done: threading.Event) -> None:
        super().__init__(1, 8)
        self.wait = lambda: (inside.set(), done.wait(60))

    def forward(self, x: Tensor) -> Tensor:
        self.wait()
        return super().forward(x)


def test_other_threads_run_plainly_while_one_traces() -> None:
    """Modules, modes, sizes, factories and torch.fx's own tracer, in another thread."""
    inside, done = threading.Event(), threading.Event()
    plain, image = Net(2, 8).eval(), torch.randn(2, 3, 16, 16)
    expected = plain(image)

    def trace() -> list[str]:
        return [n.name for n in trace_graph(Waits(inside, done), (image,)).graph.nodes]

    def run() -> tuple[Any, ...]:
        inside.wait(60)
        try:
            with torch.no_grad():
                found = plain(image)
            flags = [plain.training, plain.train().training, plain.eval().training]
            symbolic = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
            made = nn.Linear(2, 3)
            bare = nn.Module.__new__(nn.Module)
            return found, flags, [n.op for n in symbolic.graph.nodes], made.training, hasattr(bare, "training"), max(2, 3)
        finally:
            done.set()

    alone = [n.name for n in trace_graph(Net(1, 8), (image,)).graph.nodes]
    with unchanged():
        names, (found, flags, nodes, made, bare, largest) = together(trace, run)
    assert names == alone
    assert torch.equal(found, expected) and type(found) is Tensor
    assert flags == [False, True, False] and made is True and bare is False and largest == 3
    assert nodes == ["placeholder", "call_module", "call_module", "output"]


def test_a_function_taken_while_tracing_works_afterwards() -> None:
    """A model may import in its forward (``from torch import zeros``): what it keeps is no trap for the next trace."""
    kept: Any = types.ModuleType("kept")  # a dict would be put back after each trace

    class Keeps(Net):
        def forward(self, x: Tensor) -> Tensor:
            vars(kept).setdefault("zeros", torch.zeros)
            vars(kept).setdefault("ceil", math.ceil)
            side = kept.ceil(x.shape[-1])
            return super().forward(x + kept.zeros(side, side))

    image = torch.zeros(2, 3, 16, 16)
    traces = [trace_graph(Keeps(1, 8), (image,)).graph for _ in range(2)]
    assert [n.format_node() for n in traces[0].nodes] == [n.format_node() for n in traces[1].nodes]
    assert kept.zeros(3).tolist() == [0, 0, 0] and kept.ceil(1.5) == 2
    assert any(n.op == "call_function" and n.target is torch.zeros for n in traces[1].nodes)


def test_a_failed_trace_restores_everything() -> None:
    class Fails(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    with unchanged(), pytest.raises(fxprune.TraceError, match="no"):
        trace_graph(Fails(1, 8), (torch.zeros(2, 3, 16, 16),))
