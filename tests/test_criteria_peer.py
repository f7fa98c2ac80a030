"""Our criteria beside Torch-Pruning's, on its own groups: one ranking wherever both define the same thing.

Both see the same channels: every group that Torch-Pruning finds is one of ours. Both are asked for what convolutions and
linear layers hold, producers and consumers, because Torch-Pruning always counts both. What differs, and is therefore not
compared as it stands:

* Its magnitude for ``p = 2`` is the sum of squares, ours its root: of several layers, the mean is taken of different things.
  So l2 is compared on groups that a single layer produces, for that layer, where one is the square of the other.
* Its FPGM takes distances between ``|w|^p`` of the filters, not between the filters. With ``p = 1`` and weights that are not
  negative, both are distances between filters, and they agree; on weights of both signs they do not. After a flattened map it
  takes the entries of a channel one by one, ours takes them together: such a group is not compared.
* Its Hessian is meant to add up the squared gradients of all samples. Its sums are looked up by name and stored by tensor, so
  each sample replaces the one before: it is our ``hessian`` of the last sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.analysis.groups import Group, Member
from fxprune.criteria.weights import members_with

tp = pytest.importorskip("torch_pruning")
importance = pytest.importorskip("torch_pruning.pruner.importance")

LAYERS = [nn.Conv2d, nn.Linear]


class Small(nn.Module):
    """A residual sum and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 10, 3, stride=2)
        self.fc1, self.fc2 = nn.Linear(10 * 3 * 3, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn2(self.conv2(x))).relu()
        x = self.conv3(x).relu().flatten(1)
        return self.fc2(self.fc1(x).relu())


def make(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in evaluation mode with random norms, images and labels."""
    if name == "small":
        model, side, classes = Small(), 8, 5
    else:
        from torchvision.models import resnet18

        model, side, classes = resnet18(num_classes=20), 32, 20
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval(), torch.randn(6, 3, side, side), torch.arange(6) % classes


def pairs(model: nn.Module, images: Tensor, theirs: Any, ours: Any) -> Iterator[tuple[Group, Tensor, Tensor]]:
    """For each group of Torch-Pruning: ours, their scores, and our scores in the order of their channels."""
    analysis = fxprune.analyze(model, images)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=images)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    names = {m: n for n, m in model.named_modules()}
    found = set()
    for group in graph.get_all_groups(ignored_layers=[last], root_module_types=[*LAYERS]):
        root = f"{names[group[0].dep.layer]}.weight"
        own, member = next((g, m) for g in analysis.free for m in producers(g) if m.name == root)
        found.add(own.id)
        scores = torch.zeros(own.size, dtype=torch.float64)
        scores[torch.from_numpy(member.indices[:, 0])] = ours(own, tensors)
        yield own, theirs(group).double(), scores
    assert found == {g.id for g in analysis.free}


def producers(group: Group) -> list[Member]:
    return members_with(group, "producer")


def rank_correlation(one: Tensor, other: Tensor) -> float:
    return float(spearmanr(one, other).statistic)


def assert_agree(model: nn.Module, images: Tensor, theirs: Any, ours: Any) -> None:
    for group, one, other in pairs(model, images, theirs, ours):
        # Theirs is rounded to float32, where two channels may tie or change places.
        assert rank_correlation(one, other) == pytest.approx(1, abs=1e-4), group.id


def observed(name: str, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> Any:
    made = criteria.resolve(name, consumers=True)
    criteria.prepare(made, model, fxprune.analyze(model, data[0][0]), data)
    return made


@pytest.fixture(params=["small", pytest.param("resnet18", marks=pytest.mark.slow)])
def setting(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    return make(request.param)


def test_l1(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = setting
    theirs = importance.GroupMagnitudeImportance(p=1, target_types=LAYERS)
    assert_agree(model, images, theirs, criteria.resolve("l1", consumers=True))
    for _, one, other in pairs(model, images, theirs, criteria.resolve("l1", consumers=True, normalization="mean")):
        assert torch.allclose(one, other, rtol=1e-4)  # both are scaled to a mean of 1


def test_l2_of_the_only_producer(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = setting
    theirs = importance.GroupMagnitudeImportance(p=2, target_types=LAYERS, group_reduction="first")
    found = [p for p in pairs(model, images, theirs, criteria.resolve("l2")) if len(producers(p[0])) == 1]
    assert len(found) >= 2
    assert all(rank_correlation(one, other) == pytest.approx(1, abs=1e-4) for _, one, other in found)


def test_lamp(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = setting
    theirs = importance.LAMPImportance()
    theirs.target_types = LAYERS
    ours = criteria.resolve("lamp", consumers=True)
    assert_agree(model, images, theirs, ours)
    for _, one, other in pairs(model, images, theirs, ours):
        assert torch.allclose(one, other, rtol=1e-2)  # theirs takes differences of sums in float32


def test_batch_norm_scale(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, _ = setting
    theirs = importance.BNScaleImportance()

    def asked(group: Any) -> Tensor:
        """Theirs has no score for a group without a norm; those of ours are left out below."""
        found = theirs(group)
        return torch.zeros(len(group[0].idxs)) if found is None else found

    found = [p for p in pairs(model, images, asked, criteria.resolve("bn_scale", normalization="mean")) if p[1].any()]
    assert len(found) == (12 if hasattr(model, "layer4") else 1)
    assert all(torch.allclose(one, other, rtol=1e-5) for _, one, other in found)


def test_taylor(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = setting
    nn.functional.cross_entropy(model(images), labels).backward()
    theirs = importance.GroupTaylorImportance(target_types=LAYERS)
    assert_agree(model, images, theirs, observed("taylor", model, [(images, labels)]))


@pytest.mark.slow
def test_fpgm_on_weights_that_are_not_negative() -> None:
    model, images, _ = make("resnet18")
    theirs, ours = importance.FPGMImportance(p=1), criteria.resolve("fpgm", consumers=True)
    signed = [rank_correlation(one, other) for _, one, other in pairs(model, images, theirs, ours)]
    assert min(signed) < 0.99
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    assert_agree(model, images, theirs, ours)


def test_hessian_of_the_last_sample(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = setting
    theirs = importance.GroupHessianImportance(target_types=LAYERS)
    losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        theirs.accumulate_grad(model)
    # One call leaves the sums in the gradients, where the following calls find them.
    assert_agree(model, images, theirs, observed("hessian", model, [(images[-1:], labels[-1:])]))
    every = observed("hessian", model, [(images, labels)])
    assert min(rank_correlation(one, other) for _, one, other in pairs(model, images, theirs, every)) < 0.99
