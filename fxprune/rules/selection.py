"""Taking entries of an axis: by slices and constant indices the labels follow; by unknown indices the axis is fixed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule
from fxprune.rules.elementwise import broadcast

_BY_NUMBER = "entries of this axis are addressed by number"
_BY_COMPUTED = "which entries of this axis are taken follows the size of the input"


@rule("slice")
def slice_(call: Call) -> None:
    """slice: [a] -> [a[start:end:step]]"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    if call.mode.computed(call["start"], call["end"]):
        call.fix(axes[dim], _BY_COMPUTED)
        axes[dim] = Axis(int(call.out.shape[dim]), None, True)
    else:
        axes[dim] = axes[dim][slice(call["start"], call["end"], call["step"])]
    call.set(axes)


@rule("narrow")
def narrow(call: Call) -> None:
    """narrow: [a] -> [a[start : start + length]]"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    start = call["start"]
    if isinstance(start, Tensor):
        axes[dim] = Axis(call["length"], None, call.fix(axes[dim], _BY_NUMBER).dynamic)
    elif call.mode.computed(start, call["length"]):
        call.fix(axes[dim], _BY_COMPUTED)
        axes[dim] = Axis(call["length"], None, True)
    else:
        start %= max(axes[dim].size, 1)
        axes[dim] = axes[dim][start : start + call["length"]]
    call.set(axes)


@rule("select")
def select(call: Call) -> None:
    """select: [n, a] -> [a]; entry `index` of n is fixed"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    index = call["index"] % axes[dim].size
    if call.mode.computed(call["index"]):
        call.fix(axes[dim], _BY_COMPUTED)
    call.fix(axes[dim][index : index + 1], _BY_NUMBER)
    del axes[dim]
    call.set(axes)


@rule("index_select")
def index_select(call: Call) -> None:
    """index_select: [a], index -> [a[index]] for a constant index; else a is fixed"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    axes[dim] = _take(call, axes[dim], call["index"], dim)
    call.set(axes)


def _take(call: Call, axis: Axis, index: Tensor, dim: int) -> Axis:
    """The axis `dim` after indexing by a vector."""
    known = call.mode.known(index)
    follows = any(a.dynamic for a in call.axes(index))  # of a longer input, other entries are taken
    if known is None or known.dtype.is_floating_point or follows:
        call.fix(axis, _BY_COMPUTED if follows else _BY_NUMBER)
        return Axis(int(call.out.shape[dim]), None, follows)
    positions = known.nonzero()[:, 0] if known.dtype.is_signed is False and str(known.dtype) == "torch.bool" else known
    return axis[np.asarray(positions.reshape(-1).tolist(), np.int64)]


@rule("index")
def index(call: Call) -> None:
    """index: [a, b], index -> [a[index], b] for one constant vector; else indexed axes are fixed"""
    axes = list(call.axes(call["self"]))
    indices: list[Tensor | None] = list(call["indices"])
    indices += [None] * (len(axes) - len(indices))
    used = [d for d, i in enumerate(indices) if i is not None]
    wide = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8) and i.dim() > 1]
    if wide:  # one mask over several axes
        _by_mask(call, axes, used, wide[0].dim())
        return
    single = indices[used[0]] if len(used) == 1 else None
    if single is not None and single.dim() == 1:
        axes[used[0]] = _take(call, axes[used[0]], single, used[0])
        call.set(axes)
        return
    for dim in used:
        call.fix(axes[dim], _BY_NUMBER)
    rest = [a for d, a in enumerate(axes) if indices[d] is None]
    width = call.out.dim() - len(rest)
    tensors = [i for i in indices if i is not None]
    inner = broadcast(call, [tuple(call.fix(a) for a in call.axes(i)) for i in tensors], _index_shape(call, used, width))
    adjacent = used == list(range(used[0], used[0] + len(used)))
    at = used[0] if adjacent else 0
    call.set([*rest[:at], *inner, *rest[at:]])


def _by_mask(call: Call, axes: list[Axis], used: list[int], count: int) -> None:
    at = used[0]
    inner = axes if len(used) > 1 else axes[at : at + count]
    for axis in (*inner, *(a for i in call["indices"] if i is not None for a in call.axes(i))):
        call.fix(axis, _BY_NUMBER)
    if len(used) > 1:
        call.set([Axis(int(s)) for s in call.out.shape])
    else:
        call.set([*axes[:at], Axis(int(call.out.shape[at])), *axes[at + count :]])


def _index_shape(call: Call, used: list[int], width: int) -> tuple[int, ...]:
    at = used[0] if used == list(range(used[0], used[0] + len(used))) else 0
    return tuple(int(s) for s in call.out.shape[at : at + width])


@rule("index_put _unsafe_index_put")
def index_put(call: Call) -> None:
    """index_put: [n, c], index, [m, c] -> [n, c] for one vector on the first axis; n and m are fixed; else all of it is

    Rows are written as they are: what the entries of a row are stays.
    """
    into, values = call.axes(call["self"]), call.axes(call["values"])
    indices = [i for i in call["indices"] if i is not None]
    inner = values[max(0, len(values) - len(into) + 1) :]  # one row may come without its axis
    alike = len(inner) == len(into) - 1 and all(a.size == b.size for a, b in zip(into[1:], inner, strict=True))
    if not alike or len(indices) != 1 or call["indices"][0] is None or indices[0].dim() != 1:
        write(call)
        return
    for axis in (into[0], *values[: len(values) - len(inner)], *call.axes(indices[0])):
        call.fix(axis, _BY_NUMBER)
    made = [call.unify(a, b) for a, b in zip(into[1:], inner, strict=True)]
    call.set([Axis(into[0].size, None, into[0].dynamic), *made])


@rule("masked_scatter index_add index_copy index_fill scatter scatter_add scatter_reduce")
def write(call: Call) -> None:
    """index_put: [a], index, [b] -> [a]; all fixed

    Writing by index: nothing that the call touches moves, so all of it stays.
    """
    for tensor in call.inputs:
        for axis in call.axes(tensor):
            call.fix(axis, _BY_NUMBER)
    call.set([Axis(a.size, None, a.dynamic) for a in call.axes(call["self"])])


@rule("slice_scatter", "select_scatter")
def slice_scatter(call: Call) -> None:
    """slice_scatter: [a], [b] -> [a]; all fixed"""
    axes = list(call.axes(call["self"]))
    for axis in (*axes, *call.axes(call["src"])):
        call.fix(axis, _BY_NUMBER)
    call.set([Axis(a.size, None, a.dynamic) for a in axes])


@rule("gather", "take_along_dim")
def gather(call: Call) -> None:
    """gather: [a], [b] -> [b]; all fixed"""
    axes, positions = call.axes(call["self"]), call.axes(call.get("index", call.get("indices")))
    for axis in (*axes, *positions):
        call.fix(axis, _BY_NUMBER)
    call.set([Axis(int(s), None, p.dynamic) for s, p in zip(call.out.shape, positions, strict=True)])


@rule("embedding")
def embedding(call: Call) -> None:
    """embedding: [n, c], [a, b] -> [a, b, c]; n is fixed"""
    weight = call.axes(call["weight"])
    call.fix(weight[0], _BY_NUMBER)
    call.role(weight[1], "producer")
    call.set([*call.axes(call["indices"]), weight[1]])


@rule("flip", "fliplr", "flipud")
def flip(call: Call) -> None:
    """flip: [a] -> [a[::-1]]"""
    axes = list(call.axes(call["self"]))
    dims = call.get("dims") or ([1] if call.name == "fliplr" else [0])
    for dim in dims:
        axes[dim] = axes[dim][::-1]
    call.set(axes)


@rule("roll")
def roll(call: Call) -> None:
    """roll: [a] -> [a]; rolled axes are fixed"""
    axes = list(call.axes(call["self"]))
    for dim in call["dims"] or range(len(axes)):
        axes[dim] = call.fix(axes[dim], "a roll moves entries by a number of places")
    call.set(axes)


@rule("topk sort argsort kthvalue median mode argmax argmin msort cumsum cumprod cummax cummin logcumsumexp")
def ordered(call: Call) -> None:
    """sort: [a, n] -> [a, n]; n is fixed

    The result depends on the order of the entries along the axis, or names them by number.
    """
    axes = list(call.axes(call["self"]))
    dim = call.get("dim")
    dims = range(len(axes)) if dim is None else [dim % max(len(axes), 1)]
    for d in dims:
        axes[d] = call.fix(axes[d], _BY_NUMBER)
    for out in call.outputs:
        if out.dim() == len(axes):
            call.set(
                [
                    Axis(int(s), a.labels, a.dynamic) if a.size == s else Axis(int(s))
                    for s, a in zip(out.shape, axes, strict=True)
                ],
                out,
            )
        else:
            kept = [a for d, a in enumerate(axes) if d not in dims]
            call.set(kept if len(kept) == out.dim() else [Axis(int(s)) for s in out.shape], out)
