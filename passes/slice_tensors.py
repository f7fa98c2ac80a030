"""Slice parameters and buffers to what the plan keeps; everything else is copied, so nothing is shared with the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, fx

from fxprune.errors import PruneError
from fxprune.passes.base import Context, Pass, PassResult
from fxprune.state import copied, named_tensors, replace_tensors, sliced
from fxprune.tracing.labelling.quick_shapes import empty

__all__ = ["SliceTensors"]


@dataclass(frozen=True)
class SliceTensors(Pass):
    """``weight[64, 32, 3, 3] -> weight[kept][:, kept_in]``, ties and requires_grad included."""

    name: ClassVar[str] = "slice-tensors"
    shapes: ClassVar[Literal["open"]] = "open"

    def requires(self, module: fx.GraphModule, context: Context) -> None:
        if self.name in context.counters:
            raise PruneError("the model is sliced already: a second time would take other channels")

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        kept = context.cut.tensors
        counters: Counter[str] = Counter()
        new: dict[int, Tensor] = {}
        for name, tensor in named_tensors(module, once=True).items():
            axes = kept.get(name, {})
            new[id(tensor)] = copied(tensor, _sliced(tensor, axes))
            counters["tensors sliced"] += bool(axes)
            counters["entries removed"] += tensor.numel() - new[id(tensor)].numel()
        replace_tensors(module, new)
        return PassResult(bool(counters["tensors sliced"]), counters)


def _sliced(tensor: Tensor, kept: Mapping[int, np.ndarray]) -> Tensor:
    if not tensor.is_meta:
        return sliced(tensor, kept)
    return empty(tensor, [len(kept[d]) if d in kept else n for d, n in enumerate(tensor.shape)])
