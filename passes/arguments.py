"""How each function and method names channel sizes in its arguments: one small function a way of naming."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxprune.analysis.cut import Cut
from fxprune.labels.store import Axis
from fxprune.passes.base import Context, Mismatch
from fxprune.passes.resize_leaves import groups_left

__all__ = ["REPAIRS", "Site"]


@dataclass(eq=False)
class Site:
    """A node whose arguments may have to change.

    Attributes:
        values: what the nodes before it give in the slim model, on the meta device.
    """

    node: fx.Node
    module: fx.GraphModule
    context: Context
    values: dict[fx.Node, Any]

    @property
    def cut(self) -> Cut:
        return self.context.cut

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.node.args[position] if len(self.node.args) > position else self.node.kwargs.get(name, default)

    def put(self, position: int, name: str, value: Any) -> int:
        """Set an argument where it stands, or by name; returns 1 (a counter)."""
        if len(self.node.args) > position:
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)
        return 1

    def value(self, argument: Any) -> Any:
        return map_arg(argument, self.values.__getitem__)

    @property
    def source(self) -> fx.Node:
        first = self.node.args[0] if self.node.args else self.node.kwargs.get("input", self.node.kwargs.get("self"))
        assert isinstance(first, fx.Node)
        return first

    @property
    def inputs(self) -> tuple[Axis, ...]:
        found: tuple[Axis, ...] = self.context.axes(self.source)
        return found

    @property
    def outputs(self) -> tuple[Axis, ...]:
        found: tuple[Axis, ...] = self.context.axes(self.node)
        return found

    def constant(self, value: Tensor) -> fx.Node:
        """A node that reads a new constant of the slim model."""
        name = f"_index_{self.node.name}"
        while name in self.context.constants:
            name += "_"
        self.context.constants[name] = value
        self.module.register_buffer(name, value.to("meta"), persistent=False)
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.get_attr(name)
        made.meta = {"scope": "", "source": ""}
        self.values[made] = value.to("meta")
        return made

    def scaled(self, argument: Any, old: int, new: int) -> Any:
        """A size expression times ``new / old``: both are the same multiple of what follows the input."""
        if not isinstance(argument, fx.Node):
            return new
        shared = math.gcd(old, new)
        times, over = new // shared, old // shared
        with self.module.graph.inserting_before(self.node):
            if argument.target is operator.mul:
                for position, factor in enumerate(argument.args):
                    if type(factor) is int and factor * times % over == 0:
                        args = list(argument.args)
                        args[position] = factor * times // over
                        left = args[1 - position] if args[position] == 1 else None
                        if left is not None:
                            return left
                        return self._number(operator.mul, tuple(args), new)
            made = argument if times == 1 else self._number(operator.mul, (argument, times), old * times)
            return made if over == 1 else self._number(operator.floordiv, (made, over), new)

    def _number(self, function: Callable[..., Any], args: tuple[Any, ...], value: int) -> fx.Node:
        node = self.module.graph.call_function(function, args)
        node.meta = {"scope": self.node.meta.get("scope", ""), "source": ""}
        self.values[node] = value
        return node


def _resized(site: Site, sizes: Sequence[Any], axes: Sequence[Axis]) -> tuple[list[Any], int]:
    """Sizes as the axes have them in the slim model; -1 and sizes that are right stay as they are."""
    result, changed = [], 0
    for size, axis in zip(sizes, axes, strict=True):
        now, wanted = site.value(size), site.cut.size(axis)
        if now == -1 or now == wanted:
            result.append(size)
            continue
        changed += 1
        result.append(site.scaled(size, now, wanted))
    return result, changed


def _sizes(first: int, name: str) -> Callable[[Site], int]:
    """Sizes as separate arguments from `first` on, or as one tuple there."""

    def repair(site: Site) -> int:
        node = site.node
        spread = len(node.args) > first and not isinstance(node.args[first], (tuple, list))
        if spread and len(node.args) - first == len(site.outputs):
            sizes, changed = _resized(site, node.args[first:], site.outputs)
            node.args = (*node.args[:first], *sizes)
            return changed
        given = site.argument(first, name)
        if not isinstance(given, (tuple, list)):
            return 0
        sizes, changed = _resized(site, given, site.outputs)
        return site.put(first, name, tuple(sizes)) if changed else 0

    return repair


def _unflatten(site: Site) -> int:
    dim, sizes = site.argument(1, "dim") % len(site.inputs), site.argument(2, "sizes")
    new, changed = _resized(site, sizes, site.outputs[dim : dim + len(sizes)])
    return site.put(2, "sizes", tuple(new)) if changed else 0


def _repeat(site: Site) -> int:
    """``x.repeat(1, n)``: times that spread a single entry to a channel axis."""
    node = site.node
    spread = not isinstance(node.args[1], (tuple, list))
    times: list[Any] = list(node.args[1:] if spread else node.args[1])  # type: ignore[arg-type]
    times = [1] * (len(site.outputs) - len(times)) + times  # tile may name the last axes only
    sizes = [1] * (len(times) - len(site.inputs)) + [site.cut.size(a) for a in site.inputs]
    changed = 0
    for position, axis in enumerate(site.outputs):
        now, wanted = site.value(times[position]), site.cut.size(axis) // max(sizes[position], 1)
        if now != wanted:
            times[position] = site.scaled(times[position], now, wanted) if axis.dynamic else wanted
            changed += 1
    if changed:
        node.args = (node.args[0], *times) if spread else (node.args[0], tuple(times))
    return changed


def _split(site: Site) -> int:
    """``chunk`` and ``split`` whose pieces are no longer alike become a split into given sizes."""
    node = site.node
    dim = site.argument(2, "dim", 0) % len(site.inputs)
    pieces = site.context.axes(node)
    sizes = [site.cut.size(piece[dim]) for piece in pieces]
    if all(site.cut.kept(piece[dim]) is None for piece in pieces):
        return 0
    name = node.target if node.op == "call_method" else node.target.__name__  # type: ignore[union-attr]
    if name in ("chunk", "tensor_split", "unsafe_chunk"):
        total, count = sum(sizes), len(sizes)
        step = -(-total // count)
        alike = [min(step, total - i * step) for i in range(count)]
        if sizes == alike and site.argument(1, "chunks") == count and name == "chunk":
            return 0
    node.target = "split" if node.op == "call_method" else torch.split
    node.args, node.kwargs = (node.args[0], sizes, dim), {}
    return 1


def _index(site: Site) -> int:
    """``x[:, 4:8]``, ``x[:, 3]``, ``x[:, index]`` (read or written)."""
    source, index = site.node.args[0], site.node.args[1]
    if not isinstance(source, fx.Node) or not isinstance(site.values[source], Tensor):
        return 0
    items = list(index) if isinstance(index, tuple) else [index]
    axes = site.context.axes(source)
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    places: list[int | None] = []
    dim = 0
    for item in items:
        if item is None:
            places.append(None)
        elif item is Ellipsis:
            places.append(None)
            dim += len(axes) - used
        else:
            places.append(dim)
            dim += 1
    changed = 0
    for position, place in enumerate(places):
        if place is None or site.cut.kept(axes[place]) is None:
            continue
        new = _entry(site, items[position], axes[place])
        if new is not items[position]:
            items[position], changed = new, changed + 1
    if changed:
        site.node.update_arg(1, tuple(items) if isinstance(index, tuple) else items[0])
    return changed


def _entry(site: Site, item: Any, axis: Axis) -> Any:
    """One part of an index, over an axis that lost entries."""
    context = site.context
    if isinstance(item, slice):
        step = 1 if item.step is None else item.step
        low, high, _ = slice(*(site.value(v) for v in (item.start, item.stop))).indices(axis.size)
        if step != 1:
            return site.constant(_renumbered(context, axis, np.arange(axis.size)[low:high:step]))
        start = None if item.start is None else context.cut.below(axis, low)
        stop = None if item.stop is None else context.cut.below(axis, high)
        return slice(start, stop, item.step)
    if type(item) is int:
        return context.cut.below(axis, item % axis.size)
    if isinstance(item, (list, tuple)):
        return _renumbered(context, axis, np.asarray(item) % axis.size).tolist()
    known = _known(site, item)
    if known.dtype is torch.bool:
        known = known.nonzero()[:, 0]
    return site.constant(_renumbered(context, axis, known.numpy() % axis.size))


def _known(site: Site, item: Any) -> Tensor:
    traced = site.context.traced
    known = traced.mode.known(traced.values[site.context.origin[item]]) if isinstance(item, fx.Node) else None
    if known is None:
        groups = site.cut.groups_at(site.context.axes(site.source))
        raise Mismatch(f"the index of {site.node.name} is not a constant", groups)
    return known


def _renumbered(context: Context, axis: Axis, indices: np.ndarray) -> Tensor:
    """Old positions along an axis -> positions among what is kept; those that went are dropped."""
    kept = context.cut.kept(axis)
    assert kept is not None
    new = np.full(axis.size, -1)
    new[kept] = np.arange(len(kept))
    found = new[indices]
    return torch.from_numpy(found[found >= 0])


def _index_select(site: Site) -> int:
    dim = site.argument(1, "dim") % len(site.inputs)
    axis = site.inputs[dim]
    if site.cut.kept(axis) is None:
        return 0
    known = _known(site, site.argument(2, "index"))
    return site.put(2, "index", site.constant(_renumbered(site.context, axis, known.numpy())))


def _narrow(site: Site) -> int:
    axis = site.inputs[site.argument(1, "dim") % len(site.inputs)]
    start, length = site.value(site.argument(2, "start")), site.value(site.argument(3, "length"))
    if site.cut.kept(axis) is None:
        return 0
    low = site.cut.below(axis, start % axis.size)
    site.put(2, "start", low)
    return site.put(3, "length", site.cut.below(axis, start % axis.size + length) - low)


def _select(site: Site) -> int:
    axis = site.inputs[site.argument(1, "dim") % len(site.inputs)]
    if site.cut.kept(axis) is None:
        return 0
    return site.put(2, "index", site.cut.below(axis, site.value(site.argument(2, "index")) % axis.size))


def _pad(site: Site) -> int:
    """``F.pad(x, (..., before, after))``: padding of a channel axis keeps its share of the channels."""
    amounts = list(site.argument(1, "pad"))
    changed = 0
    for position in range(len(amounts) // 2):
        dim = len(site.inputs) - 1 - position
        out = site.outputs[dim]
        if site.cut.kept(out) is None:
            continue
        before, after = site.value(amounts[2 * position]), site.value(amounts[2 * position + 1])
        amounts[2 * position] = site.cut.size(out[:before])
        amounts[2 * position + 1] = site.cut.size(out[out.size - after :])
        changed += 1
    return site.put(1, "pad", tuple(amounts)) if changed else 0


def _normalized_shape(site: Site) -> int:
    shape = site.argument(1, "normalized_shape")
    return site.put(1, "normalized_shape", tuple(site.cut.size(a) for a in site.inputs[-len(shape) :]))


def _num_groups(site: Site) -> int:
    groups = site.argument(1, "num_groups")
    left = groups_left(site.context, site.inputs[1], groups)
    return site.put(1, "num_groups", left) if left != groups else 0


def _conv_groups(position: int) -> Callable[[Site], int]:
    def repair(site: Site) -> int:
        given = site.argument(position, "groups", 1)
        groups = site.value(given)
        if groups == 1:
            return 0
        dims = int(site.node.target.__name__[-2])  # type: ignore[union-attr]
        channels = site.inputs[-dims - 1]
        left = groups_left(site.context, channels, groups)
        if left == groups:
            return 0
        if given is not groups:
            raise Mismatch("the groups of a convolution follow the batch: none can go", site.cut.groups_at([channels]))
        return site.put(position, "groups", left)

    return repair


def _attention_scale(site: Site) -> int:
    """The slim heads compute what the masked original's do: with the scale of the original head_dim."""
    if site.argument(6, "scale") is not None or site.cut.kept(site.inputs[-1]) is None:
        return 0
    site.node.update_kwarg("scale", site.inputs[-1].size ** -0.5)
    return 1


REPAIRS: dict[str, Callable[[Site], int]] = {
    **dict.fromkeys(("view", "reshape"), _sizes(1, "shape")),
    **dict.fromkeys(("expand", "broadcast_to"), _sizes(1, "size")),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), _sizes(1, "size")),
    **dict.fromkeys(("zeros", "ones", "empty", "full", "rand", "randn"), _sizes(0, "size")),
    "unflatten": _unflatten,
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk"), _split),
    **dict.fromkeys(("getitem", "setitem"), _index),
    "index_select": _index_select,
    "narrow": _narrow,
    "select": _select,
    **dict.fromkeys(("pad", "_pad"), _pad),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalized_shape),
    "group_norm": _num_groups,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv_groups(6)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_groups(6)),
    "scaled_dot_product_attention": _attention_scale,
}
