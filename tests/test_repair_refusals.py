"""What `fxprune.repair` holds back, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_repair import found_of
from torch import Tensor, nn

import fxprune

# -- what is held back, and what is refused --------------------------------------------------------------------------------


def linear(inputs: int = 6) -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(200, inputs)
    return model, fxprune.prune(model, 0.5, x[:2]), x


def test_a_layer_that_does_worse_on_images_held_back_keeps_its_weights() -> None:
    """The images that are held back are others than those it learns from."""
    model, slim, x = linear()
    x = x[:10].clone()
    x[2:4] += 100
    fixed = fxprune.repair(slim, model, x, ridge=1e-9)
    (site,) = found_of(fixed).sites
    assert "held back" in site.kept and site.before == site.after
    assert all(torch.equal(a, b) for a, b in zip(fixed.parameters(), slim.parameters(), strict=True))


def test_a_model_whose_output_does_worse_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, slim, x = linear()
    monkeypatch.setattr("fxprune.recovery.repair.repairing.Repairing.output_errors", lambda self: (0.1, 0.2))
    fixed = fxprune.repair(slim, model, x)
    found = found_of(fixed)
    assert "from 0.1 to 0.2" in found.kept and found.before == found.after == 0.1 and not found.repaired
    assert "not repaired" in str(fixed.meta["fxprune"])
    assert fixed is not slim and all(torch.equal(a, b) for a, b in zip(fixed.parameters(), slim.parameters(), strict=True))


@pytest.mark.parametrize("count", [2, 5, 9])
def test_few_images_do_no_harm(count: int) -> None:
    model, slim, x = linear(40)
    found = found_of(fixed := fxprune.repair(slim, model, x[:count]))
    assert sum(found.images) == count and found.images[1] > 0 and found.after <= found.before
    assert all(bool(torch.isfinite(p).all()) for p in fixed.parameters())


def test_batches_of_any_form() -> None:
    model, slim, x = linear()
    labels = torch.zeros(20, dtype=torch.long)

    def generated() -> Iterator[Any]:
        yield from ((part, labels) for part in x.split(20))

    weights = [
        fxprune.repair(slim, model, images).state_dict()["2.weight"]
        for images in (list(x.split(20)), generated(), [{"input": part} for part in x.split(20)])
    ]
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    assert found_of(fxprune.repair(slim, model, [(x[:9], labels[:9])])).images == (7, 2)
    assert found_of(fxprune.repair(slim, model, x[:150])).images == (120, 30)


def test_what_cannot_be_repaired_is_refused_in_a_sentence() -> None:
    model, slim, x = linear()
    bad = x.clone()
    bad[3, 2] = float("nan")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((model, model, x), {}, "slim must be what"),
        ((slim, nn.Linear(6, 3), x), {}, "not made from a model like this one"),
        ((slim, model, bad), {}, "NaN or infinite"),
        ((slim, model, x[:1]), {}, "fewer than two"),
        ((slim, model, []), {}, "fewer than two"),
        ((slim, model, 3), {}, "images must be a tensor"),
        ((slim, model, "images"), {}, "images must be a tensor"),
        ((slim, model, torch.randn(20, 7)), {}, "failed on a batch"),
        ((slim, model, x), {"ridge": 0}, "ridge must be"),
        ((slim, model, x), {"norms": "fold"}, "norms must be"),
        ((slim, model, x), {"positions": 0}, "positions must be"),
        ((slim, model, x), {"memory": -1}, "memory must be"),
        ((slim, model, x), {"seed": -1}, "seed must be"),
    ]
    for given, options, words in cases:
        with pytest.raises(fxprune.InputError, match=words):
            fxprune.repair(*given, **options)


def test_values_that_are_not_finite_inside_leave_the_layer_alone() -> None:
    """The images are fine, and so is what comes out."""
    torch.manual_seed(0)

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).exp()).nan_to_num().tanh())

    model, x = Bounded(), torch.randn(50, 4)
    x[0] = 1e30
    fixed = fxprune.repair(fxprune.prune(model, 0.4, x[:2], scope="layer", verify=False), model, x)
    found = {site.name: site for site in found_of(fixed).sites}
    assert "not finite" in found["b"].kept and not found["c"].kept
    assert all(bool(torch.isfinite(p).all()) for p in fixed.parameters())


def test_the_report_is_shown_and_written() -> None:
    model, slim, x = linear()
    report = fxprune.repair(slim, model, x).meta["fxprune"]
    document = report.to_dict()["repair"]
    assert document["images"] == [160, 40]
    assert document["sites"][0]["name"] == "2" and document["options"]["ridge"] == 1e-3
    assert "repaired 1 layers and 0 norms" in str(report) and report.seconds["repair"] > 0
    assert slim.meta["fxprune"].to_dict()["repair"] is None


def test_prune_repairs_at_once() -> None:
    model, slim, x = linear()
    fixed = fxprune.prune(model, 0.5, x[:2], repair=x, criterion="l2")
    assert torch.equal(fixed.state_dict()["2.weight"], fxprune.repair(slim, model, x).state_dict()["2.weight"])
    assert fixed.meta["fxprune"].checks.passed and fixed.meta["fxprune"].repair.after < fixed.meta["fxprune"].repair.before
    for given, words in (({"repair": 5}, "repair must be images"), ({"repair": x, "submodules": "0"}, "as one graph")):
        with pytest.raises(fxprune.InputError, match=words):
            fxprune.prune(model, 0.5, x[:2], **given)
