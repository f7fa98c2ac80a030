"""Widths that a runtime does not like."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fxprune.deployment.formats import Format

__all__ = ["advice"]

_SHARE = 0.1  # of the convolutions: fewer are not worth a word


def advice(model: nn.Module, form: Format) -> str:
    """A sentence about convolutions that a runtime takes slower kernels for; empty if they are fewer than a tenth.

    Some widths are what they have to be: the channels of images, the classes of a last layer.

    >>> from fxprune.deployment.formats import FORMATS
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 13, 1), nn.Conv2d(13, 8, 1))
    >>> advice(net, FORMATS[".onnx"]).partition(":")[0]
    '2 of 3 convolutions have channels that are no multiple of 4'
    >>> advice(net, FORMATS[".pt2"])
    ''
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _ConvNd)]
    widths = [(layer.in_channels, layer.out_channels) for layer in layers]
    odd = sum(any(width > form.multiple and width % form.multiple for width in pair) for pair in widths)
    if odd < _SHARE * max(len(layers), 1):
        return ""
    return (
        f"{odd} of {len(layers)} convolutions have channels that are no multiple of {form.multiple}: on the CPU {form.runner} "
        "has slower kernels for them, much slower for depthwise ones; prune with round_to=8 or 16, or ask fxprune.profile"
    )
