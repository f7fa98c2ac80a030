"""Layers whose output is an affine map of each place, and what directly follows them: shared by the passes that merge both.

``y[o] = sum_i W[o, i] x[i] + b[o]`` at every place of the output, for linear layers and convolutions. What scales and shifts
the channels `o` of such an output can be had in `W` and `b`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.state import named_tensors
from fxprune.tracing.contexts.regions import region_of
from fxprune.tracing.modules.hooks import hooked

__all__ = ["CONVOLUTIONS", "Owners", "Site", "scaled", "sites", "substitute", "take_out"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Owners:
    """Who calls the parts of a module, and who holds or reads its tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._calls = Counter(id(module.get_submodule(str(n.target))) for n in module.graph.nodes if n.op == "call_module")
        self._held = Counter(id(t) for t in named_tensors(module).values())
        self._read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}

    def alone(self, node: fx.Node) -> bool:
        """Whether a called part has no hooks, is called once, and holds tensors that no other part holds and no node reads."""
        part = self.module.get_submodule(str(node.target))
        if self._calls[id(part)] != 1 or hooked(part):
            return False
        own = named_tensors(part)
        read = any(f"{node.target}.{name}" in self._read for name in own)
        return not read and all(self._held[id(t)] == 1 for t in own.values())


@dataclass(frozen=True)
class Site:
    """A linear layer or convolution that is called once, and the one node that reads its output.

    Attributes:
        node, layer: the call.
        next: who reads it.
        owners: of the parts and tensors, as they were before anything was merged.
    """

    node: fx.Node
    layer: Any
    next: fx.Node
    owners: Owners

    @property
    def axis(self) -> int:
        """Of the channels in the output."""
        return -1 if type(self.layer) is nn.Linear else 1

    @property
    def dims(self) -> int | None:
        """Of the output, where its shape is known."""
        shape = self.node.meta.get("shape")
        return None if shape is None else len(shape)


def sites(module: fx.GraphModule) -> Iterator[Site]:
    """The layers of which nothing else reads output or tensors, each with what follows it, in the order of the graph.

    The caller may merge what follows into the layer, and take it out, before the next one is asked for.
    """
    owners = Owners(module)
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not module.graph.find_nodes(op="call_module", target=node.target):
            continue  # it was merged
        layer = module.get_submodule(str(node.target))
        if type(layer) not in (nn.Linear, *CONVOLUTIONS, *_TRANSPOSED) or len(node.users) != 1 or not owners.alone(node):
            continue
        follower = next(iter(node.users))
        if follower.op != "output" and region_of(node) == region_of(follower):
            yield Site(node, layer, follower, owners)


def scaled(layer: Any, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer whose output is ``scale * y + shift``, computed in float64: ``W' = scale W``,
    ``b' = scale b + shift``.

    Args:
        scale, shift: ``[channels]``.
    """
    weight = layer.weight.detach().double()
    scale, shift = scale.double(), shift.double()
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    if isinstance(layer, _TRANSPOSED):  # [C_in, C_out / g, ...]: the outputs of each group are rows of their own
        groups = int(layer.groups)
        per_row = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)
        weight = weight * per_row.view(*per_row.shape, *[1] * (weight.dim() - 2))
    else:
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    return weight, bias * scale + shift


def substitute(module: fx.GraphModule, name: str, layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Put a layer like `layer` with these tensors in its place, in the precision and layout of its own."""
    old = layer.weight
    assert isinstance(old, Tensor)
    made = type(layer).__new__(type(layer))
    made.__dict__.update(layer.__dict__)
    made.__dict__["_parameters"] = {
        "weight": nn.Parameter(weight.to(old.dtype), requires_grad=old.requires_grad),
        "bias": nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad),
    }
    owner, _, last = name.rpartition(".")
    module.get_submodule(owner)._modules[last] = made


def take_out(module: fx.GraphModule, name: str) -> None:
    """Remove a part that nothing calls any more, but for the parts within it."""
    owner, _, last = name.rpartition(".")
    parts = module.get_submodule(owner)._modules
    within = parts[last]._modules  # type: ignore[union-attr]
    if within:
        parts[last] = nn.Module().eval()
        parts[last]._modules.update(within)  # type: ignore[union-attr]
    else:
        del parts[last]
