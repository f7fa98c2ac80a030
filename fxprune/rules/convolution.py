"""Convolutions: groups are a product axis, ``channels = groups x width``, on both sides."""

from __future__ import annotations

import math

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def convolution(call: Call) -> None:
    """convolution: [n, i, h, w], [o, i, k, k], [o] -> [n, o, h', w']; i = groups x i', o = groups x o'"""
    if call.get("transposed"):
        transposed(call)
        return
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    kernel = [call.fix(a, "kernel size of a convolution") for a in weight[2:]]
    batch, channels, space = _parts(x, len(kernel))
    _couple(call, channels, weight[1], weight[0])
    _bias(call, weight[0])
    call.role(weight[0], "producer")
    call.role(weight[1], "consumer")
    out = _space(call, space, tuple(call.out.shape[-len(kernel) :]))
    area = math.prod(a.size for a in (*out, *kernel))
    call.macs(*batch, weight[0], weight[1], times=area)
    call.set([*batch, weight[0], *out])


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(call: Call) -> None:
    """conv_transpose2d: [n, i, h, w], [i, o', k, k], [o] -> [n, o, h', w']; i = groups x i', o = groups x o'

    The weight is ``(in, out / groups, *kernel)``: the output axis is a product of groups and the weight's axis 1.
    """
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    kernel = [call.fix(a, "kernel size of a convolution") for a in weight[2:]]
    batch, channels, space = _parts(x, len(kernel))
    groups = call["groups"]
    out_channels = weight[1] if groups == 1 else call.store.fresh(groups * weight[1].size)
    _couple(call, weight[0], out_channels, None, width_out=weight[1])
    call.unify(channels, weight[0])
    _bias(call, out_channels)
    call.role(weight[1], "producer")
    call.role(weight[0], "producer" if weight[1].size == 1 and groups > 1 else "consumer")
    area = math.prod(a.size for a in (*space, *kernel))
    call.macs(*batch, weight[0], weight[1], times=area)
    call.set([*batch, out_channels, *_space(call, space, tuple(call.out.shape[-len(kernel) :]))])


def _couple(call: Call, channels: Axis, inner: Axis, outer: Axis | None, width_out: Axis | None = None) -> None:
    """Tie input channels to the weight's input axis and, if grouped, both sides to the groups."""
    groups = call["groups"]
    if groups == 1:
        if outer is not None:
            call.unify(channels, inner)
        return
    # Groups that follow the batch (a kernel for each sample) are no channels.
    literal = not call.mode.names_sizes() or call.mode.is_literal(groups)
    group = call.store.fresh(groups) if literal else Axis(groups, None, True)
    if inner.size > 1 and group.labels is not None:  # a depthwise convolution follows its producer
        call.store.grouped.append(group.labels)
    if outer is not None:
        call.store.product(channels, group, inner, call.cause)
        call.store.product(outer, group, call.store.fresh(outer.size // groups), call.cause)
    else:
        assert width_out is not None
        call.store.product(channels, group, call.store.fresh(channels.size // groups), call.cause)
        call.store.product(inner, group, width_out, call.cause)


def _parts(x: tuple[Axis, ...], dims: int) -> tuple[tuple[Axis, ...], Axis, tuple[Axis, ...]]:
    return x[: -dims - 1], x[-dims - 1], x[-dims:]


def _bias(call: Call, out: Axis) -> None:
    if call.get("bias") is not None:
        call.unify(out, call.axes(call["bias"])[0])


def _space(call: Call, space: tuple[Axis, ...], sizes: tuple[int, ...]) -> list[Axis]:
    result = []
    for axis, size in zip(space, sizes, strict=True):
        call.fix(axis, "a convolution slides over this axis")
        result.append(Axis(size, None, axis.dynamic))
    return result
