"""Criteria that observe models whose input is a named tuple of tensors."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxprune


class Views(NamedTuple):
    """Two pictures of one scene, of different sizes."""

    near: Tensor
    far: Tensor


class TwoViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 8, 3)
        self.far = nn.Conv2d(3, 8, 3)
        self.joint = nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, views: Views) -> Tensor:
        near = self.near(views.near).relu()
        seen = near + self.far(nn.functional.interpolate(views.far, size=views.near.shape[-2:])).relu()
        return self.head(self.joint(seen).relu().mean((2, 3)))


def views(images: int) -> Views:
    return Views(torch.randn(images, 3, 12, 12), torch.randn(images, 3, 6, 6))


@pytest.mark.parametrize("criterion", ["hessian", "taylor", "hrank", "aura_mi"])
def test_batches_of_named_tuples_are_observed(criterion: str) -> None:
    model = TwoViews().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [(views(4), torch.arange(4)), (views(3), torch.arange(3))]
    slim = fxprune.prune(model, 0.5, (views(2),), criterion=criterion, data=data)
    assert slim(views(2)).shape == (2, 5)
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_fisher_information_is_that_of_single_samples() -> None:
    """One named tuple of three images scores as three of one."""
    model = TwoViews().eval()
    whole, labels = views(3), torch.tensor([0, 1, 2])
    single = [(Views(whole.near[i : i + 1], whole.far[i : i + 1]), labels[i : i + 1]) for i in range(3)]
    plans = [fxprune.plan(model, 0.5, (views(2),), criterion="hessian", data=data) for data in ([(whole, labels)], single)]
    assert plans[0].kept == plans[1].kept


def test_what_the_model_does_to_its_input_stays_there() -> None:
    """Every pass over a batch sees the user's tensors as they are."""

    class Writes(TwoViews):
        def forward(self, views: Views) -> Tensor:
            views.near.mul_(0.5)
            return super().forward(views)

    batch = (views(2), torch.arange(2))
    kept = [t.clone() for t in batch[0]]
    fxprune.plan(Writes().eval(), 0.5, (views(2),), criterion="hessian", data=[batch])
    assert all(torch.equal(a, b) for a, b in zip(kept, batch[0], strict=True))
