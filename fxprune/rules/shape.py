"""Views: reshape splits and merges axes (product constraints), the rest moves them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule
from fxprune.rules.boundaries import Size, holds_at_any_size


@rule("view reshape _unsafe_view flatten unflatten view_as reshape_as ravel _reshape_alias")
def view(call: Call) -> None:
    """view: [a * b, c] -> [a, b, c] or back: products of axes, where neither side is one axis after another"""
    out = [int(n) for n in call.out.shape]
    sizes = [Size(n, *asked) for n, asked in zip(out, call.mode.asked_sizes(out), strict=True)]
    call.set(reshape(call, call.axes(call["self"]), sizes))


def reshape(call: Call, axes: Sequence[Axis], sizes: Sequence[Size]) -> list[Axis]:
    """Axes after a row-major reshape.

    Runs of axes with equal products are matched from the left; a run splits one axis, merges several into one, or both
    where the boundaries of old and new axes divide each other.
    """
    if any(s.number == 0 for s in sizes):
        return [Axis(s.number) for s in sizes]
    made = iter(_runs(call, [a for a in axes if a.size != 1], [s for s in sizes if s.number != 1]))
    return [next(made) if s.number != 1 else Axis(1) for s in sizes]


def _runs(call: Call, old: list[Axis], new: list[Size]) -> list[Axis]:
    made: list[Axis] = []
    i = j = 0
    while i < len(old):
        run_old, run_new = [old[i]], [new[j]]
        a, b = old[i].size, new[j].number
        while a != b:
            if a < b:
                i += 1
                run_old.append(old[i])
                a *= old[i].size
            else:
                j += 1
                run_new.append(new[j])
                b *= new[j].number
        made.extend(_run(call, run_old, run_new))
        i, j = i + 1, j + 1
    return made


def _run(call: Call, old: list[Axis], sizes: list[Size]) -> list[Axis]:
    store, cause, new = call.store, call.cause, [s.number for s in sizes]
    if len(old) == len(new) == 1:
        return old
    if len(new) > 1 and any(a.parts for a in old):
        return _runs(call, [part for a in old for part in a.parts or (a,)], sizes)
    if len(old) == 1:
        return store.split(old[0], new, cause)
    if len(new) == 1:
        return [store.merge(old, cause)]
    dynamic = any(a.dynamic for a in old)
    if all(a.labels is None for a in old):
        return [Axis(s, None, dynamic) for s in new]
    cuts = sorted({*accumulate((a.size for a in old), mul), *accumulate(new, mul)})
    mixed = any(b % a for a, b in pairwise(cuts))
    if mixed or (dynamic and not holds_at_any_size(old, sizes)):
        for axis in old:
            call.fix(axis, "a reshape mixes this axis with " + ("its neighbours" if mixed else "sizes that follow the input"))
        return [Axis(s, None, dynamic) for s in new]
    pieces = [
        p
        for axis, factors in zip(old, _between(cuts, [a.size for a in old]), strict=True)
        for p in (store.split(axis, factors, cause) if len(factors) > 1 else [axis])
    ]
    made = []
    for factors in _between(cuts, new):
        made.append(store.merge(pieces[: len(factors)], cause))
        pieces = pieces[len(factors) :]
    return made


def _between(cuts: list[int], sizes: Sequence[int]) -> list[list[int]]:
    """The factors that the cuts divide each size into, in order."""
    result, low = [], 1
    for size in sizes:
        inside = [c for c in cuts if low < c <= low * size]
        edges = [low, *inside]
        result.append([b // a for a, b in zip(edges, inside, strict=False)])
        low *= size
    return result


@rule("permute")
def permute(call: Call) -> None:
    """permute: [a, b, c] -> [c, a, b]"""
    axes = call.axes(call["self"])
    call.set([axes[d] for d in call["dims"]])


@rule("transpose t swapaxes swapdims adjoint numpy_T matrix_H mT mH movedim moveaxis")
def transpose(call: Call) -> None:
    """transpose: [a, b] -> [b, a]"""
    axes = list(call.axes(call["self"]))
    n = len(axes)
    if call.name.startswith("move"):
        source, destination = _dims(call["source"], n), _dims(call["destination"], n)
        order: list[int | None] = [None] * n
        for s, d in zip(source, destination, strict=True):
            order[d] = s
        rest = iter(d for d in range(n) if d not in source)
        call.set([axes[next(rest) if d is None else d] for d in order])
        return
    a, b = (0, 1) if call.name in ("t", "t_") else (-2, -1)
    if n < 2:
        call.set(axes)
        return
    if "dim0" in call.args or "axis0" in call.args:
        a = call.get("dim0", call.get("axis0"))
        b = call.get("dim1", call.get("axis1"))
    axes[a], axes[b] = axes[b], axes[a]
    call.set(axes)


def _dims(value: int | Sequence[int], n: int) -> list[int]:
    return [d % n for d in ([value] if isinstance(value, int) else value)]


@rule("unsqueeze", "squeeze")
def squeeze(call: Call) -> None:
    """squeeze: [a, 1, b] -> [a, b]"""
    kept = iter([a for a in call.axes(call["self"]) if a.size != 1])
    call.set([Axis(1) if s == 1 else next(kept) for s in call.out.shape])


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> None:
    """expand: [a, 1] -> [a, n]

    ``(1,) -> (n,)``: the copies are alike, so each can go: their number follows what they meet.
    """
    axes = call.axes(call["self"])
    made: list[Axis] = []
    for position in range(-call.out.dim(), 0):
        size = int(call.out.shape[position])
        old = axes[position] if len(axes) >= -position else Axis(1)
        if old.size == size:
            made.append(old)
        elif call.name == "expand_as":
            made.append(call.axes(call["other"])[position])
        else:
            made.append(call.mode.sized(call.store, call.out.shape, call.out.dim() + position))
    call.set(made)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def split(call: Call) -> None:
    """split: [a + b] -> [a], [b]"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    if call.mode.computed(*(int(out.shape[dim]) for out in call.out)):
        axes[dim] = call.fix(axes[dim], "where this axis is parted follows the size of the input")
    low = 0
    for out in call.out:
        size = int(out.shape[dim])
        part = [*axes]
        part[dim] = axes[dim][low : low + size]
        call.set(part, out)
        low += size


@rule("unbind")
def unbind(call: Call) -> None:
    """unbind: [n, a] -> n times [a]; n is fixed"""
    axes = list(call.axes(call["self"]))
    gone = axes.pop(call["dim"] % len(axes))
    call.fix(gone, "the entries of this axis are taken apart by number")
    for out in call.out:
        call.set(axes, out)


@rule("diagonal")
def diagonal(call: Call) -> None:
    """diagonal: [a, n, n] -> [a, n]; n is fixed"""
    axes = list(call.axes(call["self"]))
    first, second = call["dim1"] % len(axes), call["dim2"] % len(axes)
    one = call.fix(axes[first])
    call.fix(axes[second])
    rest = [a for d, a in enumerate(axes) if d not in (first, second)]
    call.set([*rest, Axis(int(call.out.shape[-1]), None, one.dynamic)])


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(call: Call) -> None:
    """pixel_shuffle: [c * r * r, h, w] -> [c, h * r, w * r]; h, w are fixed

    ``(C r r, H, W) <-> (C, H r, W r)``: each channel stands for r x r entries of the wide axis.
    """
    axes = list(call.axes(call["self"]))
    space = [call.fix(a) for a in axes[-2:]]
    out = call.out.shape
    if call.name == "pixel_shuffle":
        factor = call["upscale_factor"] ** 2
        channel = call.store.split(axes[-3], [axes[-3].size // factor, factor], call.cause, [False, True])[0]
    else:
        factor = call["downscale_factor"] ** 2
        channel = call.store.merge([axes[-3], Axis(factor)], call.cause)
    call.set([*axes[:-3], channel, *(Axis(int(s), None, a.dynamic) for s, a in zip(out[-2:], space, strict=True))])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> None:
    """channel_shuffle: [a, g * n] -> [a, n * g]; g is fixed"""
    axes = list(call.axes(call["self"]))
    groups = call["groups"]
    group, width = call.store.split(axes[1], [groups, axes[1].size // groups], call.cause, [True, False])
    axes[1] = call.store.merge([width, group], call.cause)
    call.set(axes)


@rule("view_as_real", "view_as_complex")
def complex_view(call: Call) -> None:
    """view_as_real: [a] -> [a, 2]; the 2 is fixed"""
    axes = call.axes(call["self"])
    call.set([*axes, Axis(2)] if call.out.dim() > len(axes) else axes[:-1])
    if call.out.dim() < len(axes):
        call.fix(axes[-1])


@rule("meshgrid")
def meshgrid(call: Call) -> None:
    """meshgrid: [a], [b] -> [a, b], [a, b]; all fixed"""
    sources = [call.axes(t) for t in call["tensors"]]
    axes = [a[0] if a else Axis(1) for a in sources]
    axes = [call.fix(a) for a in axes]
    for out in call.outputs:
        order = axes if call.get("indexing") != "xy" else [axes[1], axes[0], *axes[2:]]
        call.set(order, out)
