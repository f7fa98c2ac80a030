"""The fidelity proof sees recordings that compute something else than the model, names the place, and leaves all untouched."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import fxprune
from fxprune.proofs.fidelity import check_fidelity
from fxprune.proofs.masked import masked_error
from fxprune.proofs.randomize import randomize
from fxprune.proofs.untouched import untouched
from fxprune.proofs.verify import check_rewrite
from fxprune.tracing.tracer import Traced, trace_graph


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.conv(x)).relu()) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Conv2d(3, 8, 3), Block(), Block(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.second(self.first(self.stem(x)))
        return {"logits": self.head(h.mean((2, 3))), "map": None}


def recorded(example: int = 2) -> tuple[Traced, Net]:
    model = randomize(Net())
    return trace_graph(model, (torch.zeros(example, 3, 8, 8),)), model


def node(traced: Traced, target: Any, number: int = 0) -> fx.Node:
    return [n for n in traced.graph.nodes if n.target == target][number]


def other_slope(traced: Traced, model: Any) -> None:
    node(traced, "relu", 1).target = "sigmoid"


def lost_norm(traced: Traced, model: Any) -> None:
    norm = node(traced, "second.norm")
    norm.replace_all_uses_with(norm.args[0])


def batch_averaged(traced: Traced, model: Any) -> None:
    mean = node(traced, "mean")
    mean.args = (mean.args[0], (0, 2, 3), True)


def fixed_batch(traced: Traced, model: Any) -> None:
    head = node(traced, "head")
    with traced.graph.inserting_before(head):
        head.args = (traced.graph.call_method("reshape", (head.args[0], 2, 8)),)


def other_key(traced: Traced, model: Any) -> None:
    output = node(traced, "output")
    output.args = ({"logit": output.args[0]["logits"], "map": None},)


def other_type(traced: Traced, model: Any) -> None:
    output = node(traced, "output")
    output.args = ({"logits": (output.args[0]["logits"],), "map": None},)


def other_container(traced: Traced, model: Any) -> None:
    model.register_forward_hook(lambda m, a, out: OrderedDict(out))


def in_half(traced: Traced, model: Any) -> None:
    """In float64, autocast does nothing."""
    own = model.second.forward
    model.second.forward = lambda x: own_in_half(own, x)


def own_in_half(forward: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return forward(x)


def no_dropout(traced: Traced, model: Any) -> None:
    drop = node(traced, "first.drop")
    drop.replace_all_uses_with(drop.args[0])
    traced.graph.erase_node(drop)


def detached(traced: Traced, model: Any) -> None:
    norm = node(traced, "second.norm")
    with traced.graph.inserting_before(norm):
        norm.args = (traced.graph.call_method("detach", norm.args),)


def hooked(traced: Traced, model: Any) -> None:
    model.second.register_forward_hook(lambda m, a, out: out * 1.01)


def counting(traced: Traced, model: Any) -> None:
    model.register_buffer("seen", torch.zeros(()))
    model.register_forward_pre_hook(lambda m, a: m.seen.add_(1) and None)


def growing(traced: Traced, model: Any) -> None:
    """Equal on the first call, as far as anybody can see."""
    model.calls = 0

    def grow(m: Any, a: Any, out: Any) -> Any:
        m.calls += 1
        return out if m.calls == 1 else {**out, "logits": out["logits"] * m.calls}

    model.register_forward_hook(grow)


# Fault -> where it is, and whether evaluation alone shows it.
FAULTS: dict[str, tuple[Callable[[Traced, Any], None], str, bool]] = {
    "another function": (other_slope, "'second'", True),
    "a norm is lost": (lost_norm, "'second'", True),
    "images are averaged": (batch_averaged, "shape", True),
    "the batch is a number": (fixed_batch, "fails where the model runs", True),
    "another key": (other_key, "keys", True),
    "another type": (other_type, "a tuple in the recording and a Tensor in the model", True),
    "another container": (other_container, "a dict in the recording and a OrderedDict in the model", True),
    "less precision inside": (in_half, "'second.conv'", True),
    "a hook": (hooked, "'second'", True),
    "a buffer that counts": (counting, "the buffer seen", True),
    "a count in Python": (growing, "batch 1", True),
    "no dropout": (no_dropout, "training", False),
    "no gradient": (detached, "gets a gradient in the model alone", False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_recording_with_one_fault_is_refused_by_name(fault: str) -> None:
    change, place, early = FAULTS[fault]
    traced, model = recorded()
    assert check_fidelity(traced, model).passed and check_fidelity(traced, model, thorough=True).passed
    change(traced, model)
    if not early:
        assert check_fidelity(traced, model).passed
    with pytest.raises(fxprune.Unfaithful, match=place):
        check_fidelity(traced, model, thorough=not early)


def test_what_ran_is_said() -> None:
    traced, model = recorded()
    found = check_fidelity(traced, model, thorough=True)
    assert list(found.errors) == [
        "evaluation, batch 2",
        "evaluation, batch 1",
        "evaluation, batch 3",
        "evaluation, 8 -> 4",
        "evaluation, height 8 -> 4",
        "training, batch 2",
        "training, batch 1",
    ]
    assert "evaluation, 3 -> 4" in found.skipped and not found.refused and found.error == 0
    assert list(check_fidelity(trace_graph(model, (torch.zeros(1, 3, 8, 8),)), model).errors) == [
        "evaluation, batch 1",
        "evaluation, batch 2",
    ]


class Picky(nn.Module):
    """Takes another way for other sizes, which the recording does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head(h.relu() if x.shape[2] > 6 else h.sigmoid())


def test_a_size_that_the_recording_refuses_is_no_error() -> None:
    model = Picky()
    found = check_fidelity(trace_graph(model, (torch.zeros(2, 3, 8, 8),)), model, thorough=True)
    assert found.passed and set(found.refused) == {"evaluation, 8 -> 4", "evaluation, height 8 -> 4"}
    assert "traced for inputs where" in found.refused["evaluation, 8 -> 4"]


def test_a_call_that_the_model_ends_half_way_leaves_nothing_for_the_next() -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
    model = nn.Sequential(nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 8), block, block, nn.Linear(8, 2))
    found = check_fidelity(trace_graph(model, (torch.zeros(2, 8, 2, 2),)), model, thorough=True)
    assert "training, batch 1" in found.skipped and "training, batch 3" in found.errors


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


# -- weights that hide faults ------------------------------------------------------------------------------------------


def nothing(model: Any) -> None:
    pass


def zero_head(model: Any) -> None:
    nn.init.zeros_(model.head.weight)
    nn.init.normal_(model.head.bias)


def all_equal(model: Any) -> None:
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)


def no_number(model: Any) -> None:
    nn.init.constant_(model.head.bias, float("nan"))


def zero_branch(model: Any) -> None:
    nn.init.zeros_(model.second.norm.weight)


HIDING: dict[str, tuple[Callable[[Any], None], str]] = {
    "a head of zeros": (zero_head, "does not depend on the channels that were removed"),
    "a head of zeros alone": (all_equal, "all entries of the output are equal"),
    "a head without numbers": (no_number, "no entry of the output is a finite number"),
    "a branch times zero": (zero_branch, "the weight second.norm.weight is zero"),
    "none": (nothing, ""),
}


@pytest.mark.parametrize("kind", HIDING)
def test_weights_that_hide_faults_are_said_and_random_ones_tried(kind: str) -> None:
    change, reason = HIDING[kind]
    model, x = randomize(Net()), torch.zeros(2, 3, 8, 8)
    change(model)
    checks = fxprune.prune(model, 0.5, x).meta["fxprune"].checks
    assert checks.passed and checks.fidelity.passed
    assert (reason in "; ".join(checks.fidelity.vacuous)) if reason else not checks.fidelity.vacuous
    assert ("evaluation, batch 2, random weights" in checks.fidelity.errors) is bool(reason)


def test_a_fault_behind_zeros_is_seen_on_random_weights() -> None:
    model = randomize(Net())
    zero_head(model)
    slim: Any = fxprune.prune(model, 0.5, torch.zeros(2, 3, 8, 8), scope="layer", verify=False)
    analysis = fxprune.analyze(model, torch.zeros(2, 3, 8, 8))
    cut = analysis.cut(slim.meta["fxprune"].plan.gone(analysis.free))
    assert check_rewrite(cut, model, slim).passed
    next(n for n in slim.graph.nodes if n.target == "relu").target = "sigmoid"
    slim.recompile()
    assert masked_error(cut, model, slim) < 1e-6
    with pytest.raises(fxprune.NotEquivalent):
        check_rewrite(cut, model, slim)
