"""The fidelity proof sees recordings that compute something else than the model, names the place, and leaves all untouched."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxprune
from fxprune.proofs.fidelity import check_fidelity
from fxprune.proofs.randomize import randomize
from fxprune.proofs.trials import bound_axes, other_sizes
from fxprune.tracing.tracer import Traced, trace_graph
from tests.networks.proved import Net


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
    assert not found.skipped and not found.refused and found.error == 0
    assert list(check_fidelity(trace_graph(model, (torch.zeros(1, 3, 8, 8),)), model).errors) == [
        "evaluation, batch 1",
        "evaluation, batch 2",
    ]


def test_a_large_model_runs_at_fewer_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, model = recorded()
    monkeypatch.setattr("fxprune.proofs.fidelity._WORK", 1.0)
    found = check_fidelity(traced, model, thorough=True)
    assert list(found.errors) == ["evaluation, batch 2", "evaluation, batch 1", "training, batch 2"]
    assert list(found.skipped) == [
        "evaluation, batch 3",
        "evaluation, 8 -> 4",
        "evaluation, height 8 -> 4",
        "training, batch 1",
        "training, batch 3",
    ]
    assert all("left out" in why for why in found.skipped.values())


class Table(nn.Module):
    """Adds the start of a table, whose width is a layer's, to sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x + self.table[: x.shape[1]]).relu())


BOUND = {
    "channels of images": (nn.Conv2d(3, 4, 3), (2, 3, 8, 8), {(0, 1)}),
    "of equal size": (nn.Conv2d(8, 4, 3), (2, 8, 8, 8), {(0, 1)}),
    "padded": (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), (2, 3, 8, 8), {(0, 1)}),
    "features, and no steps": (Table(), (2, 6, 5), {(0, 2)}),
    "normalized": (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2)), (2, 4, 6), {(0, 2)}),
    "through a view": (nn.Sequential(nn.Unflatten(2, (2, 3)), nn.Linear(3, 2)), (2, 4, 6), set()),
}


@pytest.mark.parametrize("kind", BOUND)
def test_axes_as_many_as_a_weight_has_are_not_resized(kind: str) -> None:
    model, shape, bound = BOUND[kind]
    traced = trace_graph(model, (torch.zeros(shape),))
    assert bound_axes(traced) == bound
    taken = [inputs[0][0].shape for _, inputs in other_sizes(traced.example, bound)]
    assert taken and all(new[d] == shape[d] for new in taken for _, d in bound)


class Asks(nn.Module):
    """Goes another way in other dtypes."""

    def __init__(self, ask: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.inner, self.head, self.ask = nn.Linear(8, 16), nn.Linear(16, 4), ask

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return self.head(h.relu() if self.ask(h) else h.sigmoid())


ASKED: dict[str, Callable[[Tensor], bool]] = {
    "one class": lambda h: isinstance(h, torch.FloatTensor),
    "several": lambda h: isinstance(h, (torch.FloatTensor, torch.HalfTensor)),
    "not another": lambda h: not isinstance(h, torch.FloatTensor),
    "type": lambda h: h.type() == "torch.FloatTensor",
    "dtype": lambda h: h.dtype == torch.float32,
    "bytes": lambda h: h.element_size() == 4,
    "limits": lambda h: torch.finfo(h.dtype).eps > 1e-10,
}


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_way_that_a_dtype_decides_is_not_hidden_in_float64(kind: str, dtype: torch.dtype) -> None:
    model, x = randomize(Asks(ASKED[kind])).to(dtype), torch.zeros(2, 8, dtype=dtype)
    try:
        slim = fxprune.prune(model, 0.25, x)
    except fxprune.Unfaithful as error:
        assert "own forward" in str(error)
        return
    assert ("relu" in str(slim.graph)) is model.ask(x)


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
