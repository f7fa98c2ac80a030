"""Norms: the affine parameters go with the channels; a statistic over channels is marked."""

from __future__ import annotations

from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule(
    "batch_norm",
    "native_batch_norm",
    "instance_norm",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training",
)
def batch_norm(call: Call) -> None:
    """batch_norm: [n, c, h, w], [c], [c] -> [n, c, h, w]; in training a statistic runs over n, h, w"""
    axes = list(call.axes(call["input"]))
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.get(name)
        if tensor is not None:
            axes[1] = call.unify(axes[1], call.axes(tensor)[0])
    if call.get("training") or call.get("use_input_stats"):
        for axis in (*axes[:1], *axes[2:]):
            call.statistics(axis)
    for out in call.outputs:
        call.set(axes if out.dim() == len(axes) else [axes[1]] if out.dim() and out.numel() else _fixed(out), out)


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> None:
    """layer_norm: [n, c], [c], [c] -> [n, c]; a statistic runs over c"""
    x = call.axes(call["input"])
    axes = list(x)
    first = len(axes) - len(call["normalized_shape"])
    for name in ("weight", "bias"):
        tensor = call.get(name)
        if tensor is None:
            continue
        for position, axis in enumerate(call.axes(tensor), start=first):
            axes[position] = call.unify(axes[position], axis)
    for axis in axes[first:]:
        call.statistics(axis)
    for out in call.outputs:
        call.set(axes if out.shape == call["input"].shape else [*axes[:first], *(Axis(1) for _ in axes[first:])], out)


@rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> None:
    """group_norm: [n, c, h, w], [c], [c] -> [n, c, h, w]; c = groups x width, a statistic runs over the width

    ``channels = groups x width``: whole groups go exactly; within groups, the statistic changes.
    """
    axes = list(call.axes(call["input"]))
    for name in ("weight", "bias"):
        tensor = call.get(name)
        if tensor is not None:
            axes[1] = call.unify(axes[1], call.axes(tensor)[0])
    groups = call.get("num_groups") or call.get("group")
    size = axes[1].size // groups
    group, width = call.store.fresh(groups), call.store.fresh(size)
    call.store.product(axes[1], group, width, call.because(f"group_norm of {groups} groups of {size} channels"))
    call.statistics(width if groups > 1 else axes[1])
    for axis in axes[2:]:
        call.statistics(axis)
    for out in call.outputs:
        call.set(axes if out.dim() == len(axes) else [axes[0], group], out)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> None:
    """softmax: [a, b] -> [a, b]; a statistic runs over one of them"""
    axes = call.axes(call["self"])
    call.statistics(axes[call["dim"] % max(len(axes), 1)])
    call.set(axes)


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(call: Call) -> None:
    """_weight_norm: [o, i], [o, 1] -> [o, i]; a statistic runs over i"""
    axes, scale = list(call.axes(call["v"])), call.axes(call["g"])
    dim = call["dim"] % max(len(axes), 1) if call["dim"] >= 0 else None
    for d, axis in enumerate(axes):
        if d != dim:
            call.statistics(axis)
        elif len(scale) == len(axes):
            axes[d] = call.unify(axis, scale[d])
    for out in call.outputs:
        call.set(axes if out.shape == call["v"].shape else scale, out)


def _fixed(tensor: Tensor) -> list[Axis]:
    return [Axis(int(s)) for s in tensor.shape]
