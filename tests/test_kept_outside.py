"""What hooks keep outside of the model is put back where they are refused, and a forward's writes after every run."""

from __future__ import annotations

import functools
import types
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.kinds import sampled

LIST: list[Any] = []
NUMBERS: dict[str, Any] = {"runs": 0}
TABLE: dict[str, list[Any]] = defaultdict(list)
QUEUE: deque[Any] = deque(maxlen=3)
LAST: Any = None
COUNT = 0
MODULE = types.ModuleType("kept_by_hooks")
MODULE.log = []  # type: ignore[attr-defined]


class Store:
    everything: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.inside = types.SimpleNamespace(values=[])
        self.last: Any = None

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.inside.values.append(out)
        self.everything.append(out)
        self.last = out

    def method(self, module: nn.Module, args: Any, out: Any) -> None:
        self(module, args, out)


STORE = Store()


def to_list(module: nn.Module, args: Any, out: Any) -> None:
    LIST.append(out)


def to_object(module: nn.Module, args: Any, out: Any) -> None:
    STORE(module, args, out)


def to_dict(module: nn.Module, args: Any, out: Any) -> None:
    NUMBERS["runs"] += 1
    NUMBERS.setdefault("kept", []).append(out)


def to_table(module: nn.Module, args: Any, out: Any) -> None:
    TABLE["there"].append(out)


def to_queue(module: nn.Module, args: Any, out: Any) -> None:
    QUEUE.append(out)


def to_global(module: nn.Module, args: Any, out: Any) -> None:
    global LAST, COUNT
    LAST, COUNT = out, COUNT + 1


def to_module(module: nn.Module, args: Any, out: Any) -> None:
    MODULE.log.append(out)


def to_itself(module: nn.Module, args: Any, out: Any) -> None:
    to_itself.last = out  # type: ignore[attr-defined]


def by_default(module: nn.Module, args: Any, out: Any, kept: Any = LIST) -> None:
    kept.append(out)


def with_more(kept: Any, module: nn.Module, args: Any, out: Any) -> None:
    kept.append(out)


def by_another(module: nn.Module, args: Any, out: Any) -> None:
    to_list(module, args, out)


KEEPING: dict[str, Callable[..., None]] = {
    "list": to_list,
    "object": to_object,
    "callable object": STORE,
    "method": STORE.method,
    "dict": to_dict,
    "table": to_table,
    "queue": to_queue,
    "global": to_global,
    "module": to_module,
    "function": to_itself,
    "default": by_default,
    "partial": functools.partial(with_more, LIST),
    "another function": by_another,
    "closure": lambda module, args, out: [to_list(module, args, out)][:0] or None,
}


def held() -> tuple[Any, ...]:
    lists = (LIST, Store.everything, STORE.inside.values, MODULE.log, QUEUE)
    return [*map(len, lists)], STORE.last, dict(NUMBERS), dict(TABLE), LAST, COUNT, dict(vars(to_itself))


@pytest.mark.parametrize("kind", sampled([pytest.param(kind, id=str(kind)) for kind in KEEPING]))
def test_what_a_refused_hook_kept_is_gone(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model.get_submodule("" if kind == "list" else "0").register_forward_hook(KEEPING[kind])
    before = held()
    with pytest.raises(fxprune.TraceError, match="keeps what it sees outside of the model"):
        fxprune.trace(model, torch.zeros(2, 4))
    assert held() == before


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        global COUNT
        COUNT += 1
        return self.head(self.inner(x).relu())


def test_runs_of_the_model_in_proofs_leave_no_trace() -> None:
    model, x = Counting(), torch.zeros(2, 4)
    before = held()
    slim = fxprune.prune(model, 0.5, x)
    assert fxprune.verify(model, slim, latency=False).passed
    assert held() == before
    model(x)
    assert held() != before
