"""Groups of one weight, and their scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fxprune import criteria
from fxprune.analysis.groups import Group, Member


def one_member(weight: Tensor, axis: int = 0, copies: int = 1) -> tuple[Group, dict[str, Tensor]]:
    channels = weight.shape[axis] // copies
    indices = np.arange(channels * copies).reshape(channels, copies)
    return Group("w", channels, (Member("w", axis, indices, "producer"),)), {"w": weight}


def scores(name: str, weight: Tensor, axis: int = 0, copies: int = 1, **options: Any) -> Tensor:
    options.setdefault("normalization", "none")
    return criteria.resolve(name, **options)(*one_member(weight, axis, copies))
