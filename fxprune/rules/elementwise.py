"""Pointwise operators with broadcasting, and operators that keep every entry where it is."""

from __future__ import annotations

from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


def broadcast(call: Call, operands: list[tuple[Axis, ...]], shape: tuple[int, ...]) -> list[Axis]:
    """Unify the axes of broadcast operands, aligned from the right; an axis of size 1 repeats its one entry."""
    result: list[Axis] = []
    for position in range(-len(shape), 0):
        size = shape[position]
        axis: Axis | None = None
        for axes in operands:
            if len(axes) < -position or axes[position].size != size:
                continue
            axis = axes[position] if axis is None else call.unify(axis, axes[position])
        result.append(axis if axis is not None else Axis(size))
    return result


@rule("pointwise copy dropout native_dropout rrelu hardswish log_sigmoid log_sigmoid_forward floor_divide _prelu_kernel")
def pointwise(call: Call) -> None:
    """pointwise: [a, b], [b], [a, 1] -> [a, b]"""
    operands = [call.axes(t) for t in call.inputs]
    for out in call.outputs:
        call.set(broadcast(call, operands, tuple(out.shape)), out)


@rule(
    "_to_copy to clone contiguous detach alias lift_fresh lift_fresh_copy type_as positive zeros_like ones_like full_like "
    "empty_like rand_like randn_like view_as_real_copy fill zero normal uniform bernoulli random exponential _conj "
    "resolve_conj resolve_neg"
)
def same(call: Call) -> None:
    """clone: [a, b] -> [a, b]"""
    source = call.get("self")
    if not isinstance(source, Tensor):
        source = call.inputs[0]
    if source is call.out:
        return
    call.set(call.axes(source))


@rule("feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def channel_dropout(call: Call) -> None:
    """feature_dropout: [a, b] -> [a, b]"""
    call.set(call.axes(call.inputs[0]))  # which is called otherwise where it is written in place


@rule("prelu")
def prelu(call: Call) -> None:
    """prelu: [n, c, h], [c] -> [n, c, h]"""
    x, weight = call.axes(call["self"]), call.axes(call["weight"])
    axes = list(x)
    if weight and weight[0].size > 1:
        axes[1] = call.unify(x[1], weight[0])
    call.set(axes)


@rule("glu")
def glu(call: Call) -> None:
    """glu: [a + a] -> [a]"""
    axes = list(call.axes(call["self"]))
    dim = call["dim"] % len(axes)
    half = axes[dim].size // 2
    axes[dim] = call.unify(axes[dim][:half], axes[dim][half:])
    call.set(axes)


@rule("tril", "triu")
def triangle(call: Call) -> None:
    """tril: [a, b] -> [a, b]; both fixed"""
    axes = list(call.axes(call["self"]))
    axes[-2:] = [call.fix(a, "a triangular mask depends on the order of entries") for a in axes[-2:]]
    call.set(axes)
