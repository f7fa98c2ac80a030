"""Set the sizes that torch.nn modules remember to those of their sliced tensors and inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from torch import fx, nn

from fxprune.analysis.cut import Cut
from fxprune.labels.store import Axis
from fxprune.passes.base import Context, Mismatch, Pass, PassResult

__all__ = ["ResizeLeaves", "groups_left"]


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
class _Site:
    module: Any
    context: Context
    inputs: tuple[Axis, ...]
    output: Any

    @property
    def cut(self) -> Cut:
        return self.context.cut


def _conv(site: _Site) -> None:
    dims = len(site.module.kernel_size)
    channels, out = site.inputs[-dims - 1], site.output[-dims - 1]
    module = site.module
    module.groups = groups_left(site.context, channels, module.groups) if module.groups > 1 else 1
    module.in_channels, module.out_channels = site.cut.size(channels), site.cut.size(out)


def _linear(site: _Site) -> None:
    site.module.out_features, site.module.in_features = site.module.weight.shape


def _channel_norm(site: _Site) -> None:
    site.module.num_features = site.cut.size(site.inputs[1])


def _shape_norm(site: _Site) -> None:
    n = len(site.module.normalized_shape)
    site.module.normalized_shape = tuple(site.cut.size(a) for a in site.inputs[-n:])


def _group_norm(site: _Site) -> None:
    site.module.num_groups = groups_left(site.context, site.inputs[1], site.module.num_groups)
    site.module.num_channels = site.cut.size(site.inputs[1])


def _embedding(site: _Site) -> None:
    site.module.num_embeddings, site.module.embedding_dim = site.module.weight.shape


def _prelu(site: _Site) -> None:
    site.module.num_parameters = site.module.weight.shape[0]


def _recurrent(site: _Site) -> None:
    site.module.input_size = site.module.weight_ih_l0.shape[1]


def _unflatten(site: _Site) -> None:
    sizes = site.module.unflattened_size
    start = site.module.dim % len(site.inputs)
    site.module.unflattened_size = type(sizes)(
        site.cut.size(a) if not a.dynamic else s for s, a in zip(sizes, site.output[start : start + len(sizes)], strict=True)
    )


_RESIZE: dict[type[nn.Module], Callable[[_Site], None]] = {
    nn.modules.conv._ConvNd: _conv,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _channel_norm,
    nn.LayerNorm: _shape_norm,
    nn.RMSNorm: _shape_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
    nn.RNNBase: _recurrent,
    nn.Unflatten: _unflatten,
}


@cache
def _resize_of(kind: type[nn.Module]) -> Callable[[_Site], None] | None:
    return next((resize for base, resize in _RESIZE.items() if issubclass(kind, base)), None)


@dataclass(frozen=True)
class ResizeLeaves(Pass):
    """``Conv2d(64, 64, groups=2) -> Conv2d(32, 32, groups=1)``."""

    name: ClassVar[str] = "resize-leaves"
    shapes: ClassVar[Literal["open"]] = "open"

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        done: set[int] = set()
        resized = 0
        parts = dict(module.named_modules(remove_duplicate=False))
        for node in module.graph.nodes:
            if node.op != "call_module":
                continue
            leaf = parts[str(node.target)]
            resize = _resize_of(type(leaf))  # type: ignore[arg-type]  # classes of modules have a hash
            if resize is None or id(leaf) in done:
                continue
            done.add(id(leaf))
            source = node.all_input_nodes[0]
            resize(_Site(leaf, context, context.axes(source), context.axes(node)))
            resized += 1
        return PassResult.of(modules_resized=resized)
