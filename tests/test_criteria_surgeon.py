"""Criterion `surgeon`: the error that the readers of a channel make without it, against least squares anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

import fxprune
from fxprune import criteria
from fxprune.state import named_tensors

torch.set_num_threads(1)


def scored(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Of the first group; no normalisation, hardly a ridge, all positions."""
    made: Any = criteria.resolve(
        "surgeon", **{"normalization": "none", "ridge": 1e-12, "positions": 10_000, "per_mac": False, **options}
    )
    analysis = fxprune.analyze(model, x[:2])
    criteria.prepare(made, model, analysis, [x[:25], x[25:]])
    found: Tensor = made(analysis.free[0], named_tensors(model))
    return found


def left(x: Tensor, w: Tensor, keep: list[int]) -> float:
    """Share of the variance of ``x w`` that columns `keep` of ``x``, and a constant, leave unexplained."""
    y = x @ w
    y, x = y - y.mean(0), x - x.mean(0)
    rest = y - x[:, keep] @ (torch.linalg.pinv(x[:, keep]) @ y) if keep else y
    return float(rest.square().sum() / y.square().sum())


def convolutions(stride: int = 1) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A model, images, and what its second convolution computes as ``x w``: nine columns a channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, stride, padding=1)).eval()
    images = torch.randn(40, 3, 8, 8)
    maps = model[:2](images).detach()
    rows = unfold(maps, 3, padding=1, stride=stride).mT.flatten(0, 1).double()
    return model, images, rows, model[2].weight.detach().flatten(1).T.double()


@pytest.mark.parametrize("stride", [1, 2])
def test_the_loss_of_a_channel_is_what_a_new_fit_leaves(stride: int) -> None:
    model, images, rows, weight = convolutions(stride)
    expected = [left(rows, weight, [i for i in range(54) if i // 9 != c]) for c in range(6)]
    assert scored(model, images, greedy=False).tolist() == pytest.approx(expected, rel=1e-5)


def test_greedy_losses_are_what_each_step_adds() -> None:
    model, images, rows, weight = convolutions()
    found, gone, before = scored(model, images), [], 0.0
    for channel in found.argsort().tolist():
        others = {c: left(rows, weight, [i for i in range(54) if i // 9 not in (*gone, c)]) for c in range(6) if c not in gone}
        assert min(others, key=others.__getitem__) == channel
        assert found[channel] == pytest.approx(others[channel] - before, rel=1e-5)
        gone, before = [*gone, channel], others[channel]


def test_a_flattened_map_and_two_readers() -> None:
    """Each channel is four columns of the first reader and one of the second, and both losses add up."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.flat, self.mean = nn.Conv2d(2, 5, 1), nn.Linear(20, 3), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x).relu()
            return self.flat(x.flatten(1)), self.mean(x.mean((2, 3)))

    model, x = Net().eval(), torch.randn(60, 2, 2, 2)
    maps = model.first(x).relu().detach().double()
    flat, mean = (layer.weight.detach().T.double() for layer in (model.flat, model.mean))
    expected = [
        left(maps.flatten(1), flat, [i for i in range(20) if i // 4 != c])
        + left(maps.mean((2, 3)), mean, [i for i in range(5) if i != c])
        for c in range(5)
    ]
    assert scored(model, x, greedy=False).tolist() == pytest.approx(expected, rel=1e-5)


def test_wide_layers_take_taps_and_then_channels_for_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, rows, weight = convolutions()
    taps, by_tap = rows.reshape(-1, 6, 9).mT.flatten(0, 1), weight.reshape(6, -1)  # each tap a row, and an output for each tap
    expected = [left(taps, by_tap, [i for i in range(6) if i != c]) for c in range(6)]
    monkeypatch.setattr("fxprune.criteria.surgeon._WIDEST", 53)
    assert scored(model, images, greedy=False).tolist() == pytest.approx(expected, rel=1e-5)
    powers = (taps - taps.mean(0)).square().sum(0) * by_tap.square().sum(1)
    monkeypatch.setattr("fxprune.criteria.surgeon._WIDEST", 5)
    for greedy in (False, True):
        found = scored(model, images, greedy=greedy)
        assert found.tolist() == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)


def test_of_uncorrelated_channels_only_the_norms_of_the_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer with 25,088 inputs and 4,096 outputs, as VGG's, would take gigabytes, and a solution of its size a channel."""
    monkeypatch.setattr("fxprune.criteria.surgeon._WIDEST", 5)
    solved: list[int] = []
    solve = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda *given: solved.append(1) or solve(*given))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 50)).eval()
    analysis, made = fxprune.analyze(model, torch.zeros(2, 3, 2, 2)), criteria.resolve("surgeon", normalization="none")
    x = torch.randn(40, 3, 2, 2)
    criteria.prepare(made, model, analysis, [x])
    (sums,) = made._sums.values()
    assert sums["weight"].shape == (6, 4, 1)
    rows, weight = model[:3](x).detach().double(), model[3].weight.detach().T.double()
    powers = ((rows - rows.mean(0)).square().sum(0) * weight.square().sum(1)).view(6, 4).sum(1)
    share = float(made._saves[analysis.free[0].id])
    found = made(analysis.free[0], named_tensors(model)) * share
    assert found.tolist() == pytest.approx((powers / powers.sum()).tolist(), rel=1e-5)
    assert len(solved) == 1  # not once a channel


def test_a_copy_costs_nothing_and_its_original_everything_once_it_went() -> None:
    model, images, *_ = convolutions()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[1] = 2 * tensor[4]
    alone, greedy = (scored(model, images, greedy=g, ridge=1e-9) for g in (False, True))
    assert set(alone.argsort()[:2].tolist()) == {1, 4} and float(alone[1] + alone[4]) < 1e-6
    assert sorted(greedy[[1, 4]].tolist())[0] < 1e-6 and sorted(greedy[[1, 4]].tolist())[1] > 0.01


def test_a_loss_counts_by_what_is_saved() -> None:
    """A channel of the first convolution is 27 products at each of 36 positions, and 36 more for each that reads it."""
    model, images, *_ = convolutions()
    share = (27 + 36) / (6 * 27 + 6 * 36)
    plain, saved = (scored(model, images, per_mac=per) for per in (False, True))
    assert saved.tolist() == pytest.approx((plain / share).tolist(), rel=1e-9)


def test_channels_that_no_such_layer_reads_score_shares_of_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)).eval()
    squares = model[0].weight.detach().double().square().sum((1, 2, 3))
    expected = (squares / squares.sum()).tolist()
    assert scored(model, torch.randn(40, 3, 4, 4)).tolist() == pytest.approx(expected, rel=1e-5)


def test_dead_inputs_and_bad_options() -> None:
    model, images, *_ = convolutions()
    with torch.no_grad():
        model[0].weight.zero_(), model[0].bias.zero_()
    assert scored(model, images).tolist() == [0.0] * 6
    for options in ({"positions": 0}, {"ridge": 0.0}):
        with pytest.raises(fxprune.InputError, match="must be positive"):
            criteria.resolve("surgeon", **options)


def test_the_report_says_where_losses_are_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, *_ = convolutions()
    data = [images[:25], images[25:]]
    exact = fxprune.prune(model, 0.5, images[:2], criterion="surgeon", data=data).meta["fxprune"]
    assert not any("surgeon" in note for note in exact.notes)
    monkeypatch.setattr("fxprune.criteria.surgeon._WIDEST", 53)
    rough = fxprune.prune(model, 0.5, images[:2], criterion="surgeon", data=data).meta["fxprune"]
    expected = "surgeon's losses are approximate for 1 of the 1 layers that read channels: they have more than 53 inputs"
    assert rough.notes.count(expected) == 1 and expected in str(rough)
