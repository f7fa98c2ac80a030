"""Set the sizes that torch.nn modules remember to those of their sliced tensors and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import fx

from fxprune.analysis.cut import Cut
from fxprune.labels.store import Axis
from fxprune.labels.table import of_layer, register
from fxprune.passes.base import Context, Mismatch, Pass, PassResult
from fxprune.state import named_parts

__all__ = ["Layer", "ResizeLeaves", "groups_left", "resize"]


def groups_left(context: Context, axis: Axis, groups: int) -> int:
    """Groups that keep entries, of an axis of ``groups x width``; all of them must keep equally many."""
    if axis.labels is None:
        return groups
    kept = np.ones(axis.size, bool)
    indices = context.cut.kept(axis)
    if indices is not None:
        kept[:] = False
        kept[indices] = True
    counts = kept.reshape(groups, -1).sum(1)
    left = counts[counts > 0]
    if len(left) and (left != left[0]).any():
        raise Mismatch(f"{groups} groups would keep unequal numbers of channels", context.cut.groups_at([axis]))
    return len(left)


@dataclass(eq=False)
class Layer:
    """A torch.nn module whose tensors are sliced already.

    Attributes:
        inputs: labels of what it reads in the original.
        output: labels of what it returns there.
    """

    module: Any
    context: Context
    inputs: tuple[Axis, ...]
    output: Any

    @property
    def cut(self) -> Cut:
        return self.context.cut


Resize = Callable[[Layer], None]


def resize(*names: str) -> Callable[[Resize], Resize]:
    """Register a function that sets what these classes remember of their sizes; their subclasses included.

    Raises:
        InputError: one of them has a resize.
    """

    def keep(function: Resize) -> Resize:
        register("resize", names, function)
        return function

    return keep


@resize("nn::_ConvNd")
def conv(layer: Layer) -> None:
    dims = len(layer.module.kernel_size)
    channels, out = layer.inputs[-dims - 1], layer.output[-dims - 1]
    module = layer.module
    module.groups = groups_left(layer.context, channels, module.groups) if module.groups > 1 else 1
    module.in_channels, module.out_channels = layer.cut.size(channels), layer.cut.size(out)


@resize("nn::Linear")
def linear(layer: Layer) -> None:
    layer.module.out_features, layer.module.in_features = layer.module.weight.shape


@resize("nn::_NormBase")
def channel_norm(layer: Layer) -> None:
    layer.module.num_features = layer.cut.size(layer.inputs[1])


@resize("nn::LayerNorm nn::RMSNorm")
def shape_norm(layer: Layer) -> None:
    n = len(layer.module.normalized_shape)
    layer.module.normalized_shape = tuple(layer.cut.size(a) for a in layer.inputs[-n:])


@resize("nn::GroupNorm")
def group_norm(layer: Layer) -> None:
    layer.module.num_groups = groups_left(layer.context, layer.inputs[1], layer.module.num_groups)
    layer.module.num_channels = layer.cut.size(layer.inputs[1])


@resize("nn::Embedding")
def embedding(layer: Layer) -> None:
    layer.module.num_embeddings, layer.module.embedding_dim = layer.module.weight.shape


@resize("nn::PReLU")
def prelu(layer: Layer) -> None:
    layer.module.num_parameters = layer.module.weight.shape[0]


@resize("nn::RNNBase")
def recurrent(layer: Layer) -> None:
    layer.module.input_size = layer.module.weight_ih_l0.shape[1]


@resize("nn::Unflatten")
def unflatten(layer: Layer) -> None:
    sizes = layer.module.unflattened_size
    start = layer.module.dim % len(layer.inputs)
    layer.module.unflattened_size = type(sizes)(
        layer.cut.size(a) if not a.dynamic else s for s, a in zip(sizes, layer.output[start : start + len(sizes)], strict=True)
    )


@dataclass(frozen=True)
class ResizeLeaves(Pass):
    """``Conv2d(64, 64, groups=2) -> Conv2d(32, 32, groups=1)``."""

    name: ClassVar[str] = "resize-leaves"
    shapes: ClassVar[Literal["open"]] = "open"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        done: set[int] = set()
        resized = 0
        parts = dict(named_parts(module))
        for node in module.graph.nodes:
            if node.op != "call_module":
                continue
            leaf = parts[str(node.target)]
            change = of_layer(type(leaf), "resize")
            if change is None or id(leaf) in done:
                continue
            done.add(id(leaf))
            source = node.all_input_nodes[0]
            change(Layer(leaf, context, context.axes(source), context.axes(node)))
            resized += 1
        return PassResult.of(modules_resized=resized)
