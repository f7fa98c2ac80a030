"""Slice parameters and buffers to what the plan keeps; everything else is copied, so nothing is shared with the source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from fxprune.passes.base import Context, Pass
from fxprune.state import copied, replace_tensors, sliced

__all__ = ["SliceTensors"]


@dataclass(frozen=True)
class SliceTensors(Pass):
    """``weight[64, 32, 3, 3] -> weight[kept][:, kept_in]``, ties and requires_grad included."""

    name: ClassVar[str] = "slice-tensors"

    def run(self, module: fx.GraphModule, context: Context) -> Counter[str]:
        kept = context.cut.tensors
        counters: Counter[str] = Counter()
        new: dict[int, Tensor] = {}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            axes = kept.get(name, {})
            new[id(tensor)] = copied(tensor, sliced(tensor, axes))
            counters["tensors sliced"] += bool(axes)
            counters["entries removed"] += tensor.numel() - new[id(tensor)].numel()
        replace_tensors(module, new)
        return counters
