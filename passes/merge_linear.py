"""Merge two layers without anything between them, where that saves work."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from fxprune.passes.affine import CONVOLUTIONS, sites, substitute, take_out
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.keep_evaluation import put_for

__all__ = ["MergeLinear"]


@dataclass(frozen=True)
class MergeLinear(Pass):
    """``y = self.a(x); z = self.b(y)`` becomes ``z = self.a(x)`` with ``W = B A`` and bias ``B a + b``.

    Two linear layers, or a convolution and a pointwise one after it, where ``k C_in C_out`` multiply-accumulates a place are
    no more than the ``k C_in C + C C_out`` of both (k: places of the kernel); a low-rank pair stays.
    """

    name: ClassVar[str] = "merge-linear"
    stage: ClassVar[Stage] = "deployment"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context | None = None) -> PassResult:
        merged, found = 0, True
        while found:
            found = False
            for site in sites(module):
                node = site.next
                if node.op != "call_module" or node.args != (site.node,) or node.kwargs:
                    continue
                second = module.get_submodule(str(node.target))
                if not _fits(site.layer, second) or not site.owners.alone(node):
                    continue
                name = str(node.target)
                weight, bias = _product(site.layer, second)
                substitute(module, str(site.node.target), site.layer, weight, bias)
                made = module.get_submodule(str(site.node.target))
                made.__dict__["out_features" if type(made) is nn.Linear else "out_channels"] = weight.shape[0]
                put_for(node, site.node)
                take_out(module, name)
                merged, found = merged + 1, True
                break  # what followed the second one follows the first now
        return PassResult.of(layers_merged=merged)


def _fits(first: Any, second: Any) -> bool:
    if type(first) is not type(second) or first.weight.dtype is not second.weight.dtype:
        return False
    if type(first) in CONVOLUTIONS:
        plain = first.groups == second.groups == 1 and set(second.kernel_size) == set(second.stride) == {1}
        if not plain or not (second.padding == "valid" or set(second.padding) == {0} or second.padding == "same"):
            return False
    elif type(first) is not nn.Linear:
        return False
    middle, outputs = first.weight.shape[0], second.weight.shape[0]
    inputs = prod(first.weight.shape[1:])
    return bool(inputs * outputs <= middle * (inputs + outputs))


def _product(first: Any, second: Any) -> tuple[Tensor, Tensor]:
    a, b = first.weight.detach().double(), second.weight.detach().double().flatten(1)
    weight = (b @ a.flatten(1)).view(b.shape[0], *a.shape[1:])
    bias = torch.zeros(b.shape[0], dtype=b.dtype, device=b.device)
    for layer, factor in ((first, b), (second, None)):
        if layer.bias is not None:
            own = layer.bias.detach().double()
            bias = bias + (own if factor is None else factor @ own)
    return weight, bias
