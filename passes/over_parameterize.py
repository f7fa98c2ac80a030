"""Give convolutions a second factor, to be trained with it and folded afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from fxprune.errors import InputError
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.do_conv import factored, layers_of, sites_of

__all__ = ["OverParameterize"]

_SHOWN = 3


@dataclass(frozen=True)
class OverParameterize(Pass):
    """``Conv2d(8, 8, 3) -> DOConv2d(8, 8, 3, d_mul=9)``, which computes the same: see `fxprune.passes.do_conv`.

    The layers change and no node does, so any module will do, recorded or not.

    Attributes:
        d_mul: second size of both factors; None: the places of each kernel, as in the paper.
        seed: of what a larger one draws.
    """

    name: ClassVar[str] = "over-parameterize"
    stage: ClassVar[Stage] = "training"
    shapes: ClassVar[Literal["checked"]] = "checked"
    d_mul: int | None = None
    seed: int = 0

    def requires(self, module: nn.Module, context: Context | None = None) -> None:
        """
        Raises:
            InputError: no convolution can be over-parameterised, or `d_mul` is too small for one.
        """
        if done := layers_of(module):
            raise InputError(f"{next(iter(done))!r} is over-parameterised already")
        found, left = sites_of(module)
        if not found:
            reasons = [f"{name}: {why}" for name, why in left.items()][:_SHOWN]
            more = f"; and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            why = f" ({'; '.join(reasons)}{more})" if reasons else ""
            raise InputError(f"the model has no convolution that can be over-parameterised{why}")
        for name, layer in found.items():
            places = layer._parameters["weight"][0, 0].numel()  # type: ignore[index]
            if self.d_mul is not None and self.d_mul < places:
                raise InputError(f"d_mul must be at least {places}, the places of the kernel of {name!r}, not {self.d_mul}")

    def run(self, module: nn.Module, context: Context | None = None) -> PassResult:
        found, _ = sites_of(module)
        draws = torch.Generator().manual_seed(self.seed)
        for layer in found.values():
            factored(layer, self.d_mul, draws)
        return PassResult.of(layers_over_parameterized=len(found))
