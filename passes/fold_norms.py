"""Fold batch norms into the convolution or linear layer before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from fxprune.passes.affine import Site, scaled, sites, substitute, take_out
from fxprune.passes.base import Context, Pass, PassResult, Stage
from fxprune.passes.keep_evaluation import put_for

__all__ = ["FoldNorms"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class FoldNorms(Pass):
    """``y = self.conv(x); z = self.bn(y)`` becomes ``z = self.conv(x)`` with another weight and bias.

    In evaluation a batch norm is ``gamma (y - mean) / sqrt(var + eps) + beta`` of each channel, with numbers that are known:
    ``W' = s W`` and ``b' = s (b - mean) + beta``, where ``s = gamma / sqrt(var + eps)``.
    """

    name: ClassVar[str] = "fold-norms"
    stage: ClassVar[Stage] = "deployment"
    shapes: ClassVar[Literal["checked"]] = "checked"

    def run(self, module: fx.GraphModule, context: Context | None = None) -> PassResult:
        folded = 0
        for site in sites(module):
            found = _norm(module, site)
            if found is None:
                continue
            substitute(module, str(site.node.target), site.layer, *scaled(site.layer, *found))
            name = str(site.next.target)
            put_for(site.next, site.node)
            take_out(module, name)
            folded += 1
        return PassResult.of(norms_folded=folded)


def _norm(module: fx.GraphModule, site: Site) -> tuple[Tensor, Tensor] | None:
    """Scale and shift of the batch norm that follows, if one does that can be folded."""
    node = site.next
    if node.op != "call_module" or node.args != (site.node,) or node.kwargs:
        return None
    norm: Any = module.get_submodule(str(node.target))
    if type(norm) not in _NORMS or norm.training or norm.running_mean is None or not site.owners.alone(node):
        return None
    if type(site.layer) is nn.Linear and site.dims != 2:  # the norm's channels are axis 1, the layer's the last
        return None
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
    if {t.dtype for t in norm.parameters()} - {site.layer.weight.dtype}:
        return None
    scale = torch.rsqrt(variance.double() + float(norm.eps))
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()
