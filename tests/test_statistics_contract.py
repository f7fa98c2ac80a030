"""The pass over the data serves whatever keeps the contract; batches are taken apart by the names of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group, Member
from fxprune.criteria import resolve
from fxprune.criteria.observing import ActivationCriterion, GradientCriterion
from fxprune.errors import InputError
from fxprune.inputs.batches import class_labels, random_batches, read_batch
from fxprune.statistics import Maps, Statistics, gather
from fxprune.statistics.contract import ActivationObserver, GradientObserver, Key, Sums
from fxprune.statistics.gradients import Gradients


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()


class Means(ActivationObserver):
    """Mean activation of every channel: no criterion, it scores nothing."""

    needs_analysis = True

    def prepare(self, analysis: Analysis, tensors: Mapping[str, Tensor]) -> None:
        self.names = sorted(tensors)

    def observe(self, maps: Maps) -> Sums:
        return {"total": maps.values.double().flatten(2).mean(2).sum(0), "images": maps.images}

    def receive(self, sums: Mapping[Key, Sums], analysis: Analysis) -> None:
        self.found = {key: s["total"] / s["images"] for key, s in sums.items()}


class Slopes(GradientObserver):
    """The gradient of the mean loss, summed over each output channel."""

    def speaks(self, group: Group) -> list[Member]:
        return [m for m in group.members if m.role == "producer"]

    def observe(self, gradients: Gradients) -> dict[str, Tensor]:
        return gradients.of_batch()

    def receive(self, sums: Mapping[Key, Sums], analysis: Analysis) -> None:
        self.found = {key: s["channels"] / s["batches"] for key, s in sums.items()}


def test_observers_need_not_be_criteria() -> None:
    net, means, slopes = model(), Means(), Slopes()
    data = [(torch.randn(4, 3, 8, 8), torch.arange(4)) for _ in range(2)]
    analysis = fxprune.analyze(net, data[0][0])
    gather(net, analysis, [means, slopes], data)
    assert means.names == sorted(name for name, _ in net.named_parameters())
    images = torch.cat([x for x, _ in data])
    expected = net[1](net[0](images)).double().flatten(2).mean(2).mean(0)
    assert torch.allclose(means.found["0.weight", 0], expected, atol=1e-6)
    total = torch.zeros(6, dtype=torch.float64)
    for x, y in data:
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        assert net[0].weight.grad is not None
        total += net[0].weight.grad.double().flatten(1).sum(1)
    assert torch.allclose(slopes.found["0.weight", 0], total / 2, atol=1e-6)


def test_criteria_keep_the_contract() -> None:
    assert issubclass(ActivationCriterion, ActivationObserver) and issubclass(GradientCriterion, GradientObserver)


def test_what_is_no_observer_is_refused() -> None:
    net = model()
    with pytest.raises(InputError, match="L1 reads no statistics"):
        Statistics(net, fxprune.analyze(net, torch.randn(1, 3, 8, 8)), [resolve("l1")])  # type: ignore[list-item]


def test_settings_of_statistics_are_checked_by_name() -> None:
    net = model()
    analysis = fxprune.analyze(net, torch.randn(1, 3, 8, 8))
    assert Statistics(net, analysis, [], classes=7).classes == 7
    with pytest.raises(TypeError, match="callibration"):
        Statistics(net, analysis, [], callibration=8)


def read(batch: Any, *names: str) -> Any:
    return read_batch(batch, names, torch.device("cpu"))


def test_batches_are_taken_apart() -> None:
    x, y = torch.randn(2, 3), torch.tensor([1, 6])
    assert read(x, "x").labels is None
    assert read([x, y], "x").labels.tolist() == [1, 6]
    assert read({"x": x, "target": y}, "x").labels.tolist() == [1, 6]
    assert read((x, x), "a", "b").labels is None
    assert read(([x, {"more": x}], y), "nested").images == 2
    assert class_labels(read((x, y), "x"), 4).tolist() == [1, 2]


def test_inputs_that_a_batch_does_not_name_have_their_defaults() -> None:
    x, y = torch.randn(2, 3), torch.tensor([1, 6])
    inputs: dict[str, tuple[Any, ...]] = {"x": (), "mask": (None,), "gain": (2.0,), "labels": (None,)}
    found = read_batch({"x": x, "labels": y, "mask": x}, inputs, torch.device("cpu"))
    assert found.inputs[0] is x and found.inputs[1] is x and found.inputs[2:] == (2.0, None) and found.labels is y
    assert read_batch(x, inputs, torch.device("cpu")).inputs[1:] == (None, 2.0, None)
    with pytest.raises(fxprune.InputError, match="2 inputs, but the model takes 4"):
        read_batch((x, y), inputs, torch.device("cpu"))
    with pytest.raises(fxprune.InputError, match="has no 'x', an input of the model"):
        read_batch({"mask": x}, inputs, torch.device("cpu"))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"y": torch.zeros(2)}, "has no 'x'"),
        ((torch.zeros(2),) * 3, "3 inputs, but the model takes 1"),
        ("images", "not str"),
        (torch.zeros(0, 3), "no images"),
        (([1, 2],), "no images"),
    ],
)
def test_other_batches_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(batch, "x")


def test_random_batches_have_labels_where_there_are_classes() -> None:
    inputs = (torch.randn(2, 3, 8, 8),)
    labelled = random_batches(model(), inputs, seed=3)
    assert len(labelled) == 8 and all(x.shape == (2, 3, 8, 8) and 0 <= int(y.max()) < 5 for x, y in labelled)
    assert all(
        torch.equal(a, b)
        for one, two in zip(labelled, random_batches(model(), inputs, 3), strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert all(len(batch) == 1 for batch in random_batches(model()[:2], inputs))
