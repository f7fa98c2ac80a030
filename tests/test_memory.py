"""The memory of a run in closed form is what a run really allocates; budgets of it are met, alone and with others."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fxprune
from fxprune import nested
from fxprune.errors import InputError
from fxprune.options import PruneOptions


class Allocations(TorchDispatchMode):
    """Bytes of the storages that operators make, from then until they are freed."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = {t.untyped_storage()._cdata for t in nested.tensors(given)}
        self.alive: dict[int, Any] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in nested.tensors(out):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.given and key not in self.alive:
                self.now += size
                self.alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._freed(key, size))
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


def peak_of(module: nn.Module, *args: Any) -> int:
    """Bytes at the fullest moment of a run on the CPU, parameters and inputs left out."""
    mode = Allocations([list(module.eval().state_dict(keep_vars=True).values()), args])
    with torch.no_grad(), mode:
        module(*args)
    return mode.peak


class Branches(nn.Module):
    """A long skip, a concatenation, views, values in place, and a mode that changes what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.last, self.head = nn.Conv2d(24, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        x = torch.cat([self.one(stem).relu_(), self.two(stem).sigmoid()], 1)
        if self.training:
            x = x * 2 + x.mean()
        x = self.last(x) + stem
        return self.head(x.flatten(2).transpose(1, 2)).mean(1)


X = torch.rand(2, 3, 12, 12)
NAMES = ["concatenation", "zero-padded channels (ResNet option A)", "flatten before linear", "grouped convolution", "fused qkv"]


@pytest.mark.parametrize("name", ["branches", *NAMES])
def test_a_run_allocates_what_the_closed_form_says(name: str) -> None:
    torch.manual_seed(0)
    net, inputs = (Branches(), (X,)) if name == "branches" else (NETWORKS[name].build(), NETWORKS[name].inputs(2))
    analysis = fxprune.analyze(net, inputs)
    random = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.6):
        gone = {g.id: np.sort(random.choice(g.size, int(share * g.size), replace=False)) for g in analysis.free}
        gone = {name: channels for name, channels in gone.items() if len(channels)}
        cut, kept = analysis.cut(gone), np.array([g.size - len(gone.get(g.id, ())) for g in analysis.free], np.float64)
        assert analysis.memory.values(kept).max() == cut.total_memory
        slim = fxprune.rewrite.with_weights(fxprune.rewrite.rewrite(analysis, gone), net)
        measured = peak_of(slim, *inputs)
        # Products of four-dimensional tensors copy their factors for themselves.
        assert measured == cut.total_memory or (name == "fused qkv" and 1 <= measured / cut.total_memory < 1.5)


def test_slopes_are_what_one_more_channel_adds() -> None:
    memory = fxprune.analyze(Branches(), X).memory
    kept = np.array([7.0, 5.0, 6.0, 4.0])[: len(memory.slopes(np.ones(4))[0])]
    steps = np.eye(len(kept))
    added = np.stack([memory.values(kept + step) - memory.values(kept) for step in steps], axis=1)
    assert np.allclose(memory.slopes(kept), added) and len(memory.fixed) > 2  # each is linear here


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(
    "budgets", [{"memory": 0.6}, {"memory": "12 kB"}, {"memory": 0.7, "macs": 0.5, "params": 0.6}], ids=str
)
def test_a_budget_of_memory_is_met(budgets: dict[str, Any], scope: Any) -> None:
    torch.manual_seed(1)
    net = Branches().eval()
    slim = fxprune.prune(net, example_inputs=X, scope=scope, verify=False, **budgets)
    account, used = slim.meta["fxprune"].plan.account, []
    for budget in account.budgets:
        assert budget.after <= budget.target
        used.append(budget.after / budget.target)
    memory = next(budget for budget in account.budgets if budget.name == "memory")
    assert peak_of(slim, X) == 2 * memory.after
    assert max(used) > 0.99 or "below the nearest budget" in account.notes[0]


def test_what_cannot_be_met_is_said_in_bytes() -> None:
    with pytest.raises(InputError, match=r"memory=300 allows 300, where 3,456 remain"):
        fxprune.plan(Branches(), example_inputs=X, memory=300)


@pytest.mark.parametrize("wrong", ["a lot", "12 parsecs", "5 mb", "1e999 MB", "-3 MB", "0", "1", 1, -2.0, True], ids=repr)
def test_amounts_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^memory must be "):
        PruneOptions(memory=wrong)


def test_amounts_with_units_are_bytes() -> None:
    assert [PruneOptions(memory=m).memory for m in ("2 MiB", "0.5", "3kB", 0.25)] == [2**21, 0.5, 3000, 0.25]
