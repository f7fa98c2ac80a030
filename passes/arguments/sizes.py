"""Operators whose arguments are the sizes of their result, or how often it repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxprune.labels.store import Axis
from fxprune.passes.arguments.site import Repair, Site, repair


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


def _sizes(first: int, name: str) -> Repair:
    """Sizes as separate arguments from `first` on, or as one tuple there."""

    def resize(site: Site) -> int:
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

    return resize


repair("view reshape")(_sizes(1, "shape"))
repair("expand broadcast_to new_zeros new_ones new_empty new_full")(_sizes(1, "size"))
repair("zeros ones empty full rand randn")(_sizes(0, "size"))


@repair("unflatten")
def unflatten(site: Site) -> int:
    dim, sizes = site.argument(1, "dim") % len(site.inputs), site.argument(2, "sizes")
    new, changed = _resized(site, sizes, site.outputs[dim : dim + len(sizes)])
    return site.put(2, "sizes", tuple(new)) if changed else 0


@repair("repeat tile")
def repeat(site: Site) -> int:
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


@repair("pad _pad")
def pad(site: Site) -> int:
    """``F.pad(x, (..., before, after))``: padding of a channel axis keeps its share of the channels."""
    given = site.argument(1, "pad")
    amounts = list(given)
    for position in range(len(amounts) // 2):
        dim = len(site.inputs) - 1 - position
        out = site.outputs[dim]
        if site.cut.kept(out) is None:
            continue
        before, after = site.value(amounts[2 * position]), site.value(amounts[2 * position + 1])
        amounts[2 * position] = site.cut.size(out[:before])
        amounts[2 * position + 1] = site.cut.size(out[out.size - after :])
    return site.put(1, "pad", tuple(amounts)) if amounts != list(given) else 0
