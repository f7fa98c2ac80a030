"""Fold the second factor of over-parameterised convolutions into their kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from fxprune.errors import PruneError
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.do_conv import folded, layers_of

__all__ = ["FoldFactors"]


@dataclass(frozen=True)
class FoldFactors(Pass):
    """``DOConv2d(8, 8, 3, d_mul=9) -> Conv2d(8, 8, 3)``: the kernel is computed once, and kept."""

    name: ClassVar[str] = "fold-factors"
    stage: ClassVar[Stage] = "training"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: nn.Module, context: Context | None = None) -> PassResult:
        layers = layers_of(module)
        for layer in layers.values():
            folded(layer)
        return PassResult.of(layers_folded=len(layers))

    def ensures(self, module: nn.Module, context: Context | None = None) -> None:
        if left := layers_of(module):
            raise PruneError(f"{next(iter(left))!r} is over-parameterised still")
