"""Slice parameters and buffers to what the plan keeps; everything else is copied, so nothing is shared with the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.passes.base import Context, Pass
from fxprune.tracing.module import copied, replace_tensors

__all__ = ["SliceTensors", "sliced"]


def sliced(tensor: Tensor, kept: Mapping[int, np.ndarray]) -> Tensor:
    """A copy of a tensor with only the kept entries of some axes.

    >>> sliced(torch.arange(6).reshape(2, 3), {1: np.array([0, 2])})
    tensor([[0, 2],
            [3, 5]])
    """
    data = tensor.detach()
    # The axis that loses most goes first: the copies in between stay small.
    for axis, indices in sorted(kept.items(), key=lambda item: len(item[1]) / tensor.shape[item[0]]):
        data = data.index_select(axis, torch.from_numpy(np.ascontiguousarray(indices)).to(data.device))
    return data if kept else data.clone()


@dataclass(frozen=True)
class SliceTensors(Pass):
    """``weight[64, 32, 3, 3] -> weight[kept][:, kept_in]``, ties and requires_grad included."""

    name: ClassVar[str] = "slice-tensors"

    def run(self, module: fx.GraphModule, context: Context) -> Counter[str]:
        kept = context.analysis.kept_tensors(context.removed)
        counters: Counter[str] = Counter()
        new: dict[int, Tensor] = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            axes = kept.get(name, {})
            new[id(tensor)] = copied(tensor, sliced(tensor, axes))
            counters["tensors sliced"] += bool(axes)
            counters["entries removed"] += tensor.numel() - new[id(tensor)].numel()
        replace_tensors(module, new)
        return counters
