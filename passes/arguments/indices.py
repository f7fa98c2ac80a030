"""Operators that take entries of an axis by their numbers, or part it into pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.labels.store import Axis
from fxprune.labels.table import key_of
from fxprune.passes.arguments.site import Site, repair
from fxprune.passes.base import Context, Mismatch


@repair("split chunk tensor_split split_with_sizes unsafe_chunk")
def split(site: Site) -> int:
    """``chunk`` and ``split`` whose pieces are no longer alike become a split into given sizes."""
    node = site.node
    dim = site.argument(2, "dim", 0) % len(site.inputs)
    pieces: Any = site.outputs  # of several tensors
    sizes = [site.cut.size(piece[dim]) for piece in pieces]
    if all(site.cut.kept(piece[dim]) is None for piece in pieces):
        return 0
    key = key_of(node.op, node.target)
    if key in ("aten::chunk", "aten::tensor_split", "aten::unsafe_chunk"):
        total, count = sum(sizes), len(sizes)
        step = -(-total // count)
        alike = [min(step, total - i * step) for i in range(count)]
        if sizes == alike and site.argument(1, "chunks") == count and key == "aten::chunk":
            return 0
    node.target = "split" if node.op == "call_method" else torch.split
    node.args, node.kwargs = (node.args[0], sizes, dim), {}
    return 1


@repair("python::getitem python::setitem")
def index(site: Site) -> int:
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


@repair("index_select")
def index_select(site: Site) -> int:
    dim = site.argument(1, "dim") % len(site.inputs)
    axis = site.inputs[dim]
    if site.cut.kept(axis) is None:
        return 0
    known = _known(site, site.argument(2, "index"))
    return site.put(2, "index", site.constant(_renumbered(site.context, axis, known.numpy())))


@repair("narrow")
def narrow(site: Site) -> int:
    axis = site.inputs[site.argument(1, "dim") % len(site.inputs)]
    start, length = site.value(site.argument(2, "start")), site.value(site.argument(3, "length"))
    if site.cut.kept(axis) is None:
        return 0
    low = site.cut.below(axis, start % axis.size)
    site.put(2, "start", low)
    return site.put(3, "length", site.cut.below(axis, start % axis.size + length) - low)


@repair("select")
def select(site: Site) -> int:
    axis = site.inputs[site.argument(1, "dim") % len(site.inputs)]
    if site.cut.kept(axis) is None:
        return 0
    return site.put(2, "index", site.cut.below(axis, site.value(site.argument(2, "index")) % axis.size))


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
