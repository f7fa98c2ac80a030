"""Fold a constant factor or summand of each channel into the layer before it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx

from fxprune.passes.affine import Site, scaled, sites, substitute
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.keep_evaluation import put_for
from fxprune.tracing.labelling.interpret import drop_unread

__all__ = ["FoldScales"]

_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_FORMS = ("reshape", "view", "unsqueeze", "flatten")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class FoldScales(Pass):
    """``y = self.fc(x); z = y * self.gamma`` becomes ``z = self.fc(x)``: ``W' = gamma W``, ``b' = gamma b``; so does a sum.

    The constant is a parameter or buffer with one entry a channel, or with one entry.
    """

    name: ClassVar[str] = "fold-scales"
    stage: ClassVar[Stage] = "deployment"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context | None = None) -> PassResult:
        folded, found = 0, True
        while found:  # a factor and then a summand: the second follows the layer once the first is gone
            found = False
            for site in sites(module):
                constant = _constant(module, site)
                if constant is None:
                    continue
                one, none = torch.ones_like(constant), torch.zeros_like(constant)
                terms = (constant, none) if site.next.target in _PRODUCTS else (one, constant)
                substitute(module, str(site.node.target), site.layer, *scaled(site.layer, *terms))
                put_for(site.next, site.node)
                folded, found = folded + 1, True
        if folded:
            drop_unread(module.graph)
        return PassResult.of(constants_folded=folded)


def _constant(module: fx.GraphModule, site: Site) -> Tensor | None:
    """``[channels]``: what the node behind a layer multiplies it by, or adds."""
    node = site.next
    if node.op not in ("call_function", "call_method") or node.target not in (*_PRODUCTS, *_SUMS) or node.kwargs:
        return None
    others = [a for a in node.args if a is not site.node]
    if len(node.args) != 2 or len(others) != 1 or site.dims is None:
        return None
    if node.op == "call_method" and node.args[0] is not site.node:  # the constant would be written into
        return None
    value = _value(module, others[0])
    weight = site.layer.weight
    if value is None or value.dim() > site.dims or value.dtype is not weight.dtype:
        return None
    shape = [1] * (site.dims - value.dim()) + list(value.shape)
    axis = site.axis % site.dims
    channels = site.node.meta["shape"][axis]
    if shape.pop(axis) not in (1, channels) or any(size != 1 for size in shape):
        return None
    return value.detach().flatten().double().expand(channels)


def _value(module: fx.GraphModule, node: Any) -> Tensor | None:
    """A parameter or buffer, or one in another form: ``gamma.reshape(1, -1, 1, 1)``."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_method" and node.target in _FORMS and not any(isinstance(a, fx.Node) for a in node.args[1:]):
        inner = _value(module, node.args[0])
        return None if inner is None else getattr(inner.detach(), str(node.target))(*node.args[1:])
    if node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    found = getattr(module.get_submodule(owner), name)
    return found if isinstance(found, Tensor) else None
