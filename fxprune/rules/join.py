"""Putting axes together: concatenation, stacking, padding, repetition."""

from __future__ import annotations

from functools import reduce

import numpy as np
from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> None:
    """cat: [a, n], [b, n] -> [a + b, n]"""
    tensors = [t for t in call["tensors"] if t.dim() > 1 or t.numel() or call.out.dim() == 1]
    sources = [call.axes(t) for t in tensors]
    dim = call["dim"] % call.out.dim()
    axes = [reduce(call.unify, (s[d] for s in sources)) if d != dim else Axis(1) for d in range(call.out.dim())]
    axes[dim] = call.store.concat([s[dim] for s in sources])
    call.set(axes)


@rule("stack", "vstack", "hstack", "dstack")
def stack(call: Call) -> None:
    """stack: [a], [a] -> [2, a]"""
    sources = [call.axes(t) for t in call["tensors"]]
    if call.name != "stack":
        for axis in (a for s in sources for a in s):
            call.fix(axis)
        call.set([Axis(int(s)) for s in call.out.shape])
        return
    axes = [reduce(call.unify, column) for column in zip(*sources, strict=True)]
    dim = call["dim"] % call.out.dim()
    call.set([*axes[:dim], Axis(len(sources)), *axes[dim:]])


@rule(
    "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d _pad_circular"
)
def pad(call: Call) -> None:
    """pad: [a] -> [before + a + after]

    Constant padding of a channel axis makes channels of its own; other padding copies neighbours, so they stay.
    """
    axes = list(call.axes(call["self"]))
    amounts = call.get("pad") or call.get("padding")
    constant = call.name == "constant_pad_nd" or (call.name == "pad" and call["mode"] == "constant")
    for position in range(len(amounts) // 2):
        dim = len(axes) - 1 - position
        before, after = amounts[2 * position : 2 * position + 2]
        axis = axes[dim]
        if not before and not after:
            continue
        if axis.labels is None or not constant or before < 0 or after < 0:
            call.fix(axis, "padded from its neighbours" if not constant else None)
            axes[dim] = Axis(int(call.out.shape[dim]), None, axis.dynamic)
        else:
            axes[dim] = call.store.concat([_fresh(call, before), axis, _fresh(call, after)])
    call.set(axes)


def _fresh(call: Call, size: int) -> Axis:
    """Padding entries: even a single one may go, since the axis has others."""
    labels = np.arange(call.store.count, call.store.count + size)
    call.store.count += size
    return Axis(size, labels)


@rule("repeat", "tile")
def repeat(call: Call) -> None:
    """repeat: [a] -> [a + a]"""
    axes = [Axis(1)] * (call.out.dim() - call["self"].dim()) + list(call.axes(call["self"]))
    made = []
    for d, (axis, size) in enumerate(zip(axes, call.out.shape, strict=True)):
        times = int(size) // axis.size
        if times == 1:
            made.append(axis)
        elif axis.size == 1:
            made.append(call.mode.sized(call.store, call.out.shape, d))
        else:
            made.append(call.store.copies(axis, times, each=False))
    call.set(made)


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> None:
    """repeat_interleave: [a] -> [a[0], a[0], a[1], a[1], ...]"""
    source, times = call.get("self"), call.get("repeats")
    if not isinstance(source, Tensor) or isinstance(times, Tensor):
        call.set([Axis(int(s)) for s in call.out.shape])
        for tensor in (source, times):
            if isinstance(tensor, Tensor):
                for axis in call.axes(tensor):
                    call.fix(axis)
        return
    axes = list(call.axes(source))
    if call["dim"] is None:
        axes = [call.store.merge(axes, call.cause)]
    dim = (call["dim"] or 0) % len(axes)
    axes[dim] = Axis(int(times)) if axes[dim].size == 1 else call.store.copies(axes[dim], int(times), each=True)
    call.set(axes)
