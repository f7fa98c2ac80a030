"""What else fxprune does, with a slim model that no graph can hold: each verb works, or says what it needs."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune

torch.set_num_threads(1)


class Router(nn.Module):
    """Which of two layers runs is decided by values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.easy, self.hard = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.easy(x).relu() if x.max() < 2 else self.hard(x).tanh())  # type: ignore[no-any-return]


X, Y = torch.randn(8, 6), torch.randint(0, 3, (8,))


@functools.cache
def pair() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Router().eval()
    return model, fxprune.prune(model, 0.5, X, form="module", scope="layer")


@functools.cache
def recorded() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    return fxprune.prune(model, 0.5, X, form="module")


REFUSED: dict[str, tuple[Callable[[nn.Module, Any, Path], Any], str]] = {
    "repair": (lambda model, slim, path: fxprune.repair(slim, model, X), "a repair needs .* fine-tune it instead"),
    "export": (lambda model, slim, path: fxprune.export(slim, path / "x.pt2", X), "an export needs .* as one graph"),
    "optimize": (lambda model, slim, path: fxprune.optimize(slim, X), "optimize needs .* as one graph"),
    "profile": (lambda model, slim, path: fxprune.profile(slim, X), "a latency table needs .* as one graph"),
    "save": (lambda model, slim, path: fxprune.save(slim, path / "x"), "in its own class: fxprune.store writes that"),
    "load": (lambda model, slim, path: fxprune.load(fxprune.store(slim, path)), "fxprune.restore makes what store"),
    "revise": (lambda model, slim, path: fxprune.revise(model, slim.meta["fxprune"].plan, {}), "no graph can hold"),
    "costs": (lambda model, slim, path: fxprune.costs(model, slim), "no graph can hold"),
    "apply as a graph": (lambda model, slim, path: fxprune.apply(model, slim.meta["fxprune"].plan), "form='module'"),
    "repair of its own class": (lambda model, slim, path: fxprune.repair(recorded(), model, X), "repair the graph"),
    "save of its own class": (lambda model, slim, path: fxprune.save(recorded(), path / "x"), "fxprune.store writes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_graph_says_so(name: str, tmp_path: Path) -> None:
    call, words = REFUSED[name]
    with pytest.raises(fxprune.InputError, match=words):
        call(*pair(), tmp_path)


@pytest.mark.parametrize("verb", ["trace", "analyze", "plan"])
def test_what_records_the_model_names_the_line(verb: str) -> None:
    given = (0.5, X) if verb == "plan" else (X,)
    with pytest.raises(fxprune.TraceError, match=r"depends on the values .*test_watched_verbs\.py"):
        getattr(fxprune, verb)(pair()[1], *given)


class Lazy(Router):
    """Computes its result when somebody reads it."""

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu() if x.max() < 2 else self.stem(x).tanh()
        return (self.head(layer(y)) for layer in (self.easy, self.hard))


class Sparse(Router):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu().to_sparse().to_dense() * self.stem(x).relu().to_sparse().to_dense().sum())


@pytest.mark.parametrize(("kind", "words"), [(Lazy, "returns a generator, whose tensors"), (Sparse, "operator by operator")])
def test_what_cannot_be_watched_is_refused(kind: type[nn.Module], words: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(fxprune.InputError, match=words):
        fxprune.prune(kind().eval(), 0.5, X, form="module")


def test_what_needs_none_works(tmp_path: Path) -> None:
    model, slim = pair()
    found = fxprune.validate(model, {"slim": slim}, [(X, Y)], latency=False)
    assert "slim" in str(found) and "top-1" in str(found)
    report = slim.meta["fxprune"]
    assert "was watched while it ran" in str(report) and "Router" in report.plan.summary()
    assert "stem.weight: pruned" in str(fxprune.why(slim, "stem.weight"))
    assert "<html" in fxprune.report(slim, tmp_path / "report.html").read_text()[:300]
    for other in (copy.deepcopy(slim), pickle.loads(pickle.dumps(slim)), fxprune.restore(model, fxprune.store(slim, tmp_path))):
        assert torch.equal(other(X), slim(X)) and other.meta["fxprune"].plan.kept == report.plan.kept
    assert not report.plan.diff(fxprune.Plan.from_json(report.plan.to_json())).groups
    folded = fxprune.fold(fxprune.over_parameterize(nn.Sequential(nn.Conv2d(2, 2, 3), copy.deepcopy(slim))))
    assert torch.equal(folded[1](X), slim(X))


@pytest.mark.slow
def test_it_is_trained_and_pruned_again() -> None:
    model, slim = pair()
    trained = fxprune.finetune(slim, [(X, Y)], teacher=model, epochs=1)
    assert type(trained) is Router and not torch.equal(trained.stem.weight, slim.stem.weight)
    again = fxprune.prune(trained.eval(), 0.5, X, form="module", scope="layer")
    assert again.stem.out_features == 4 and again(X).shape == (8, 3)
    assert again.meta["fxprune"].checks.passed and fxprune.verify(trained, again).passed
