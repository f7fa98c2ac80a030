"""Pooling, resampling and sliding windows: batch and channels carry through, space stays."""

from __future__ import annotations

import math

from torch import Tensor

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


def _resized(call: Call, source: tuple[Axis, ...], out: Tensor, space: int) -> list[Axis]:
    """Keep all axes but the last `space`, which are fixed and take the output's sizes.

    A table that is resampled to the size of the image, ``interpolate(table, size=(h, w))``, follows that size.
    """
    made = list(source[: len(source) - space])
    asked = call.get("output_size") is not None and call.mode.names_sizes()
    for axis, size in zip(source[len(source) - space :], out.shape[-space:], strict=True):
        call.fix(axis)
        computed = asked and not call.mode.is_literal(int(size))
        made.append(Axis(int(size), None, axis.dynamic or computed))
    return made


def _register(space: int, *names: str) -> None:
    @rule(*names)
    def resample(call: Call) -> None:
        """avg_pool2d: [n, c, h, w] -> [n, c, h', w']; h, w are fixed"""
        source = call.get("self") if call.get("self") is not None else call["input"]
        for out in call.outputs:
            call.set(_resized(call, call.axes(source), out, space), out)


for _space, _suffix in ((1, "1d"), (2, "2d"), (3, "3d")):
    _register(
        _space,
        *(f"{kind}_pool{_suffix}" for kind in ("avg", "max", "adaptive_avg", "adaptive_max")),
        *(f"_adaptive_avg_pool{_suffix}",) * (_space > 1),
        f"max_pool{_suffix}_with_indices",
        f"upsample_nearest{_suffix}",
        f"_upsample_nearest_exact{_suffix}",
        *({1: ("upsample_linear1d",), 3: ("upsample_trilinear3d",)}.get(_space, ())),
    )
_register(2, "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(call: Call) -> None:
    """grid_sampler: [n, c, h, w], [n, h', w', 2] -> [n, c, h', w']; all but n, c are fixed"""
    x, grid = call.axes(call["input"]), call.axes(call["grid"])
    for axis in (*x[2:], *grid[1:]):
        call.fix(axis)
    space = [Axis(a.size, None, a.dynamic) for a in grid[1:-1]]
    call.set([call.unify(x[0], grid[0]), x[1], *space])


@rule("im2col")
def im2col(call: Call) -> None:
    """im2col: [n, c, h, w] -> [n, c * k * k, l]; h, w are fixed

    ``(N, C, H, W) -> (N, C k k, L)``: each channel stands for a k x k block of entries.
    """
    x = call.axes(call["self"])
    batch, (channel, height, width) = x[:-3], x[-3:]
    block = math.prod(call["kernel_size"])
    dynamic = height.dynamic or width.dynamic
    call.fix(height)
    call.fix(width)
    wide = call.store.merge([channel, Axis(block)], call.cause)
    call.set([*batch, wide, Axis(int(call.out.shape[-1]), None, dynamic)])


@rule("col2im")
def col2im(call: Call) -> None:
    """col2im: [n, c * k * k, l] -> [n, c, h, w]; l is fixed"""
    x = call.axes(call["self"])
    batch, (wide, places) = x[:-2], x[-2:]
    block = math.prod(call["kernel_size"])
    call.fix(places)
    channel = call.store.split(wide, [wide.size // block, block], call.cause, [False, True])[0]
    space = [Axis(int(s), None, places.dynamic) for s in call.out.shape[-2:]]
    call.set([*batch, channel, *space])


@rule("unfold")
def unfold(call: Call) -> None:
    """unfold: [a] -> [windows, size]; a is fixed"""
    axes = list(call.axes(call["self"]))
    dim = call["dimension"] % max(len(axes), 1)
    axis = call.fix(axes[dim], "a window slides over this axis")
    axes[dim] = Axis(int(call.out.shape[dim]), None, axis.dynamic)
    call.set([*axes, Axis(int(call.out.shape[-1]))])


@rule("_fft_c2c", "_fft_r2c", "_fft_c2r")
def transform(call: Call) -> None:
    """_fft_c2c: [n, c, h] -> [n, c, h'] over h, whose entries all go into each; any other axis carries through"""
    source = call.axes(call["self"])
    over = {d % len(source) for d in call["dim"]}
    for d in over:
        call.fix(source[d], "a Fourier transform mixes the entries of this axis")
    (out,) = call.outputs
    sizes = enumerate(zip(source, out.shape, strict=True))
    call.set([Axis(int(size), None, axis.dynamic) if d in over else axis for d, (axis, size) in sizes])


@rule("torchvision::roi_align torchvision::roi_pool torchvision::ps_roi_align torchvision::ps_roi_pool")
def regions(call: Call) -> None:
    """roi_align: [n, c, h, w], [k, 5] -> [k, c, h', w']; n, h, w, k are fixed

    Pieces of maps, of which each channel is taken alone; the ``ps_`` forms tell channels apart by number.
    """
    batch, channels, *space = call.axes(call["input"])
    rois = call.axes(call["rois"])
    for axis in (batch, *space, *rois):
        call.fix(axis)
    for out in call.outputs:
        if call.name.startswith("torchvision::ps_") or out.shape[1] != channels.size:
            call.fix(channels, "channels are told apart by number")
            made = Axis(int(out.shape[1]))
        else:
            made = channels
        call.set(
            [rois[0], made, *(Axis(int(s)) for s in out.shape[2:])] if out.dim() == 4 else [Axis(int(s)) for s in out.shape],
            out,
        )
