"""Submodules that cannot be pruned, and models that cannot be traced whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.submodules import Caller, Options, X, detector, images
from torch import Tensor, nn

import fxprune
from fxprune import nested

# -- errors ------------------------------------------------------------------------------------------------------------


class Wrapped:
    """An object around tensors, as torchvision's ImageList."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def reads_inside(m: Any, x: Tensor) -> Tensor:
    return m.part(x) + x @ m.part.a.weight.T @ x.new_ones(12, 4)


def tied(m: nn.Module) -> nn.Module:
    m.other = nn.Linear(16, 12)
    m.other.weight = m.part.a.weight
    return m


ERRORS = {
    "no such module": (lambda: detector(), "bodi", r"matches no module.*did you mean 'body'"),
    "never called": (lambda: Caller(Options(), lambda m, x: x), "part", "'part' is never called"),
    "called in parts": (
        lambda: Caller(Options(), lambda m, x: m.part(x) + m.part.b(m.part.a(x))),
        "part",
        "outside of its own forward",
    ),
    "called in several ways": (
        lambda: Caller(Options(), lambda m, x: m.part(x) + m.part(x, gain=5.0)),
        "part",
        "in several ways",
    ),
    "objects": (lambda: Caller(Options(), lambda m, x: m.part(x, Wrapped(x))), "part", "an object of type Wrapped"),
    "no tensor": (lambda: Caller(Options(), lambda m, x: m.part(1.0)), "part", "without any tensor"),
    "tied with the rest": (
        lambda: tied(Caller(Options(), lambda m, x: m.part(x))),
        "part",
        r"'part\.a\.weight' is the same tensor as 'other",
    ),
    "model fails": (lambda: Caller(Options(), lambda m, x: m.part(x[:, :, :, :7])), "part", "fails on the example inputs"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_recorded_gets_one_clear_sentence(kind: str) -> None:
    model, name, message = ERRORS[kind]
    inputs = images() if kind == "no such module" else X
    with pytest.raises(fxprune.InputError, match=message):
        fxprune.prune(model(), 0.5, inputs, submodules=name)


def test_a_result_that_does_not_run_is_refused() -> None:
    model = Caller(Options(), reads_inside)
    with pytest.raises(fxprune.NotEquivalent, match="other than by calling them"):
        fxprune.prune(model, 0.5, X, submodules="part")


def test_settings_that_forward_writes_do_not_go_stale() -> None:
    class Writes(Options):
        limit = 3

        def __init__(self) -> None:
            super().__init__()
            self.rows = 0
            self.unit = 4

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            self.rows = len(x)
            return super().forward(x)

    def call(m: Any, x: Tensor) -> Tensor:
        return m.part(x) * (m.part.rows if reads else m.part.unit * m.part.limit)

    reads = False
    assert fxprune.prune(Caller(Writes(), call), 0.5, X, submodules="part").part.unit == 4
    reads = True
    with pytest.raises(fxprune.NotEquivalent, match="no attribute 'rows'"):
        fxprune.prune(Caller(Writes(), call), 0.5, X, submodules="part")


def test_code_of_the_model_before_pruning_is_not_run_on_parts() -> None:
    slim = fxprune.prune(Caller(nn.Sequential(Options(), nn.Linear(4, 4)), lambda m, x: m.part(x)), 0.5, X, submodules="part")
    with pytest.raises(fxprune.PruneError, match="called by itself"):
        slim.part.get_submodule("0")(X)
    with pytest.raises(fxprune.PruneError, match="called by itself"):
        copy.deepcopy(slim).part.get_submodule("0")(X)


def test_submodules_are_pickled_with_their_checks(tmp_path) -> None:
    slim = fxprune.prune(detector().eval(), 0.5, images(), submodules=["body"])
    torch.save(slim, tmp_path / "slim.pt")
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "slim.pt", weights_only=False)(X)[1], slim(X)[1])
    listed = fxprune.prune(detector(), 0.5, images(), submodules=["head"])
    torch.save(listed, tmp_path / "listed.pt")
    head = torch.load(tmp_path / "listed.pt", weights_only=False).head
    maps = [torch.randn(2, 8, 4, 4)] * 2
    assert all(map(torch.equal, nested.tensors(head(maps)), nested.tensors(listed.head(maps))))
    with pytest.raises(AssertionError, match="another value"):
        head(maps[:1])


def test_nothing_to_prune_inside() -> None:
    with pytest.raises(fxprune.NothingToPrune, match="part of the model's output"):
        fxprune.prune(detector(), 0.5, images(), submodules="body.fine")


def test_criteria_that_observe_the_whole_model_are_refused() -> None:
    with pytest.raises(fxprune.InputError, match="reads weights alone"):
        fxprune.prune(detector(), 0.5, images(), criterion="taylor", data=[X], submodules="body")


# -- what a model that cannot be traced whole is told ------------------------------------------------------------------


def test_the_error_names_the_largest_submodules_that_can_be_pruned() -> None:
    with pytest.raises(fxprune.TraceError, match=r"submodules=\['body', 'head'\]"):
        fxprune.prune(detector(), 0.5, images())
    fxprune.prune(detector(), 0.5, images(), submodules=["body", "head"])


def test_the_error_looks_into_submodules_that_cannot_be_traced_either() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = detector()
            self.first = nn.Sequential(nn.Conv2d(3, 9, 1), nn.Conv2d(9, 3, 1))

        def forward(self, x: Tensor) -> Any:
            return self.inner(list(self.first(x)))

    for call in (fxprune.analyze, fxprune.trace):
        with pytest.raises(fxprune.TraceError, match=r"submodules=\['inner.body', 'inner.head', 'first'\]"):
            call(Outer(), X)


def test_the_error_looks_into_a_submodule_that_was_named() -> None:
    outer = Caller(detector(), lambda m, x: m.part(list(x)))
    with pytest.raises(fxprune.TraceError, match=r"submodules=\['part.body', 'part.head'\]"):
        fxprune.prune(outer, 0.5, X, submodules="part")
    fxprune.prune(outer, 0.5, X, submodules=["part.body", "part.head"])


def test_a_model_that_fails_on_its_inputs_is_told_nothing_of_submodules() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 5)), nn.Linear(6, 2))
    with pytest.raises(fxprune.TraceError) as caught:
        fxprune.prune(model, 0.5, X)
    assert "submodules=['" not in str(caught.value)


def test_a_list_of_images_is_one_input() -> None:
    slim = fxprune.prune(detector(), 0.5, list(X), submodules="body")
    assert slim.body.stem.out_channels == 8
