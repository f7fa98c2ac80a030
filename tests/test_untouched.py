"""A model comes out of a proof as it was, whatever its code does to it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.proofs.fidelity import check_fidelity
from fxprune.tracing.tracer import trace_graph
from fxprune.tracing.untouched import untouched
from tests.networks.proved import Net


class Stateful(Net):
    """Counts, averages, draws and writes, on itself and on what it reaches by a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(4))
        self.notes: list[int] = []
        self.calls = 0
        other = self.head

        def note(module: nn.Module, args: Any, out: Any) -> None:
            self.calls += 1
            self.notes.append(self.calls)
            other.touched = True
            with torch.no_grad():
                other.bias.data.add_(0.0).mul_(1.0)
                self.average.mul_(0.9).add_(out["logits"].detach().mean(0))
            random.random()
            np.random.rand()
            torch.rand(1)

        self.register_forward_hook(note)


def state_of(model: Stateful) -> tuple[Any, ...]:
    tensors = {n: (id(t), t.tolist(), t.requires_grad, t.grad, t.data_ptr()) for n, t in model.named_parameters()}
    buffers = {n: (id(t), t.tolist()) for n, t in model.named_buffers()}
    attributes = {n: (list(m.__dict__), len(m._forward_hooks), m.training) for n, m in model.named_modules()}
    return tensors, buffers, attributes, model.calls, list(model.notes)


def generators() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_what_code_does_to_the_model_by_closures_is_undone() -> None:
    model = Stateful()
    model.second.eval()
    model.head.bias.requires_grad_(False)
    before, drawn = state_of(model), generators()
    with untouched(model):
        model(torch.ones(2, 3, 8, 8))
        model.head.weight.data.mul_(2)
        assert model.calls == 1 and model.average.abs().max() > 0 and generators() != drawn
    assert state_of(model) == before and generators() == drawn


def test_a_refused_model_is_as_it_was() -> None:
    model = Stateful()
    model.register_forward_hook(lambda m, a, out: (m.average.add_(1), None)[1])
    traced = trace_graph(Net(), (torch.zeros(2, 3, 8, 8),))
    before, drawn = state_of(model), generators()
    with pytest.raises(fxprune.Unfaithful, match="the buffer average"):
        check_fidelity(traced, model)
    assert state_of(model) == before and generators() == drawn


def test_what_is_watched_within_what_is_watched_is_put_back_at_its_own_end() -> None:
    """One mode serves both; each puts back what was written since it began, and a mode that failed leaves nothing behind."""
    outer, inner, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    ones = [torch.ones(2, 2) for _ in range(2)]
    before = [model.weight.detach().clone() for model in (outer, inner, other)]
    with torch.no_grad(), untouched(outer):
        outer.weight.add_(1)
        with pytest.raises(ValueError, match="inside"), untouched(inner, outer):
            inner.weight.add_(1)
            outer.weight.add_(1)
            raise ValueError("inside")
        assert torch.equal(inner.weight, before[1]) and torch.equal(outer.weight, before[0] + 1)
        with untouched(other):
            other.weight.mul_(torch.stack(ones).sum(0))
        assert torch.equal(other.weight, before[2])
        inner.weight.add_(1)  # nobody watches it any more
    assert torch.equal(outer.weight, before[0]) and torch.equal(inner.weight, before[1] + 1)
    with torch.no_grad(), untouched(inner):
        inner.weight.zero_()
    assert torch.equal(inner.weight, before[1] + 1)
