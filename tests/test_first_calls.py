"""What forward sets up in the first call of a model, which is recorded and stays out of the user's model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxprune
from tests.kinds.hooks import Lazy, Shorter, Unready, collect


def test_the_users_model_stays_as_it_was() -> None:
    model = Lazy(collect)
    fxprune.trace(model, torch.randn(2, 3, 8, 8))
    assert not model.ready
    assert not any(part._forward_hooks for part in model.modules())
    other = Unready(nn.Tanh)
    fxprune.trace(other, torch.randn(2, 3, 8, 8))
    assert isinstance(other.act, nn.ReLU)


def test_what_the_first_call_went_by_is_asserted() -> None:
    recorded = fxprune.trace(Shorter(), torch.randn(2, 3, 8, 8))
    recorded(torch.randn(2, 3, 16, 16))
    with pytest.raises(AssertionError, match="16"):
        recorded(torch.randn(2, 3, 17, 17))
