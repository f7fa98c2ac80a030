"""Reductions. Over channels a sum is exact (a removed channel adds nothing); any other statistic changes."""

from __future__ import annotations

from fxprune import nested
from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule(
    "sum mean amax amin aminmax var std var_mean std_mean logsumexp norm linalg_vector_norm linalg_norm prod all any "
    "count_nonzero nansum nanmean"
)
def reduction(call: Call) -> None:
    """mean: [a, b] -> [a]; a statistic runs over b"""
    x = call.get("self")
    axes = list(call.axes(call.inputs[0] if x is None else x))
    dims = call.get("dim")
    if dims is None or dims == []:
        chosen = set(range(len(axes)))
    else:
        chosen = {d % max(len(axes), 1) for d in ([dims] if isinstance(dims, int) else dims)}
    for dim in chosen:
        if call.name not in ("sum", "nansum") and dim < len(axes):
            call.statistics(axes[dim])
    for out in call.outputs:
        _label(call, out, axes, chosen)


@rule("max", "min")
def extremum(call: Call) -> None:
    """max: [a], [a] -> [a], or [a, b] -> [a] with a statistic over b, or [a, n] -> [a], [a] with n fixed

    Three operators share the name: of two tensors, over everything, and along an axis with positions.
    """
    from fxprune.rules.elementwise import pointwise

    if call.get("other") is not None:
        pointwise(call)
        return
    axes = list(call.axes(call["self"]))
    if call.get("dim") is None:
        for axis in axes:
            call.statistics(axis)
        _label(call, call.out, axes, set(range(len(axes))))
        return
    dim = call["dim"] % max(len(axes), 1)
    call.fix(axes[dim], "entries of this axis are addressed by number")
    for out in call.out:
        _label(call, out, axes, {dim})


def _label(call: Call, out: object, axes: list[Axis], chosen: set[int]) -> None:
    (tensor,) = nested.tensors((out,))
    if tensor.dim() == len(axes):
        call.set([Axis(1) if d in chosen else a for d, a in enumerate(axes)], tensor)
    else:
        call.set([a for d, a in enumerate(axes) if d not in chosen], tensor)
