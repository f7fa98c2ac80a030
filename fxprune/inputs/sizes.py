"""The inputs that a model of timm or torchvision expects, by what its configuration and its parts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.tracing.labelling.quick_shapes import QuickShapes
from fxprune.tracing.skeleton import skeleton_of

__all__ = ["infer_example_inputs", "timm_config"]

_STRIDES = (4, 8, 16, 32)  # of feature maps
_NO_GRIDS = {"patch_size", "kernel_size", "stride", "padding", "dilation", "dim"}  # pairs of numbers that are no sizes of maps
_TRIED = 8  # image sizes


def infer_example_inputs(model: nn.Module) -> tuple[Tensor, ...] | None:
    """Example inputs on the meta device, batch 2, for a model of timm or torchvision; None for any other.

    timm: the channels, height and width of ``pretrained_cfg``, corrected by the ``img_size`` and ``in_chans``
    that the model was built with; where a model takes one size and no part names it, the first of those that its
    feature maps imply and that it runs on (on the meta device). torchvision: 224 pixels; 299 for inception, 320 for
    detection, 128 for optical flow; 16 frames for video.
    """
    module = type(model).__module__
    if module.startswith("torchvision.models."):
        shapes = _torchvision_shapes(model, module.removeprefix("torchvision.models."))
    elif isinstance(timm_config(model), Mapping):
        shapes = _timm_shapes(model, timm_config(model))
    else:
        return None

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return tuple(torch.empty(2, *shape, dtype=dtype, device="meta") for shape in shapes) or None


def timm_config(model: nn.Module) -> Any:
    """The configuration that timm gave a model; None of any other."""
    return getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)


def _timm_shapes(model: nn.Module, config: Mapping[str, Any]) -> list[tuple[int, ...]]:
    if "input_size" not in config:
        return []
    channels, height, width = config["input_size"]
    channels = _in_channels(model, config, channels)
    for part in model.modules():  # the first in order of registration is the one that sees the whole image
        size = _pair(getattr(part, "img_size", None))
        if size is not None:
            return [(channels, *size)]
    if not config.get("fixed_input_size"):
        return [(channels, height, width)]
    # The size is built into the model, but no part names it.
    default = height, width
    sizes = _implied_sizes(model, default)
    fits = next((size for size in sizes if _runs(model, (channels, *size))), default)
    return [(channels, *fits)]


def _pair(value: Any) -> tuple[int, int] | None:
    """Height and width from a number or two."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
        return value[0], value[1]
    return None


def _implied_sizes(model: nn.Module, default: tuple[int, int]) -> list[tuple[int, int]]:
    """Image sizes that the grids of a model's parts imply, those that most parts agree on first.

    A grid is a pair of numbers that a part keeps (as ``feat_size``, ``resolution``) or the two inner axes of a table
    ``[1, height, width, channels]``; by how much it is smaller than the image is one of the usual strides.
    """
    votes: Counter[tuple[int, int]] = Counter()
    for part in model.modules():
        if type(part).__module__.startswith("torch.nn."):
            continue
        kept = vars(part).items()
        pairs = [_pair(value) for name, value in kept if name not in _NO_GRIDS and isinstance(value, (tuple, list))]
        tables = [t.shape for t in part._parameters.values() if t is not None and t.dim() == 4 and t.shape[0] == 1]
        grids = {pair for pair in (*pairs, *(_pair(shape[1:3]) for shape in tables)) if pair}
        votes.update((h * stride, w * stride) for h, w in grids for stride in _STRIDES)
    near = [size for size in votes if all(s / 4 <= size[i] <= s * 4 for i, s in enumerate(default))]
    return sorted(near, key=lambda size: (-votes[size], abs(size[0] - default[0]), size))[:_TRIED]


def _runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the model takes such an input, tried on shapes alone."""
    skeleton = skeleton_of(model)[0].eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        with torch.inference_mode(), torch.device("meta"), QuickShapes():  # constants that forward makes, too
            skeleton(torch.empty(2, *shape, dtype=dtype))
    except Exception:  # whatever a model raises on an input that it does not take
        return False
    return True


def _in_channels(model: nn.Module, config: Mapping[str, Any], default: int) -> int:
    if isinstance(getattr(model, "in_chans", None), int):
        return int(model.in_chans)  # type: ignore[arg-type]  # checked on the line above
    first = config.get("first_conv")
    names = (first,) if isinstance(first, str) else tuple(first or ())
    convs = [part for name, part in model.named_modules() if name in names and hasattr(part, "in_channels")]
    return int(convs[0].in_channels) if convs else default


def _torchvision_shapes(model: nn.Module, module: str) -> list[tuple[int, ...]]:
    family, _, rest = module.partition(".")
    if family == "detection":
        return [(3, 320, 320)]  # takes a list of images, or a batch: it resizes them
    if family == "optical_flow":
        return [(3, 128, 128)] * 2  # the least that RAFT's correlation pyramid accepts
    if family == "video":
        side = 112 if rest == "resnet" else 224
        return [(3, 16, side, side)]
    if family == "vision_transformer":
        return [(3, int(model.image_size), int(model.image_size))]  # type: ignore[arg-type]  # an int in torchvision
    side = 299 if module in ("inception", "quantization.inception") else 224
    return [(3, side, side)]
