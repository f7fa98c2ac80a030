"""Images as a model takes them: channels, size, crop, mean and deviation, by what the model's configuration says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.errors import InputError, shown
from fxprune.inputs.sizes import infer_example_inputs, timm_config

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Preparation", "preparation_of"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which torchvision's weights were trained on
_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601), as Pillow weighs them
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preparation:
    """What is done to an image before a model sees it.

    Attributes:
        size: channels, height and width; None leaves every image its own size, in colour.
        mean, std: of each channel of images in [0, 1]; None does not normalise.
        crop: share of the shorter side that is kept: an image is resized so that the middle `size` of it is that share.
        interpolation: of the resizing: ``"bilinear"``, ``"bicubic"``, ``"nearest"``.
        mode: ``"center"`` as above; ``"squash"`` resizes both sides; others as timm has them.
        dtype: of what the model gets.
        note: what to know of it, in a sentence.
    """

    size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float = 1.0
    interpolation: str = "bilinear"
    mode: str = "center"
    dtype: torch.dtype = torch.float32
    note: str = ""

    def __post_init__(self) -> None:
        if self.size is not None and self.size[0] not in _MODES:
            raise InputError(
                f"images have 1 or 3 channels, the model takes {self.size[0]}: give its data as arrays, in an .npz"
            )
        if not 0 < self.crop <= 1:
            raise InputError(f"crop must be a fraction in (0, 1], not {shown(self.crop)}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (len(values) in (1, self.channels) and all(map(math.isfinite, values))):
                raise InputError(f"{name} must be a number for each of {self.channels} channels, not {shown(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std must be positive, not {shown(self.std)}")

    @property
    def channels(self) -> int:
        return 3 if self.size is None else self.size[0]

    def pictures(self, images: Sequence[Image]) -> Tensor:
        """Pillow's images -> ``[n, channels, height, width]``, as timm and torchvision prepare them for evaluation.

        Raises:
            InputError: they are of several sizes, and none is wanted.
        """
        mode = _MODES[self.channels]
        placed = [self._placed(image if image.mode == mode else image.convert(mode)) for image in images]
        if len(sizes := {image.size for image in placed}) > 1:
            found = " and ".join(f"{w}x{h}" for w, h in sorted(sizes)[:2])
            raise InputError(f"the images have several sizes ({found}): say which the model takes, --input-size 3x224x224")
        array = np.stack([np.asarray(image) for image in placed])
        values = torch.from_numpy(array).unsqueeze(1) if array.ndim == 3 else torch.from_numpy(array).movedim(3, 1)
        return self._normalised(values.contiguous().float().div_(255))

    def bytes(self, images: np.ndarray) -> Tensor:
        """uint8 ``[n, height, width]`` or ``[n, height, width, 1 or 3]`` -> ``[n, channels, height, width]``."""
        from PIL import Image

        return self.pictures([Image.fromarray(image.squeeze(2) if image.shape[2:] == (1,) else image) for image in images])

    def floats(self, images: Tensor) -> Tensor:
        """Images in [0, 1] ``[n, 1 or 3, height, width]`` -> ``[n, channels, height, width]``."""
        if self.size is not None and images.shape[1] != self.channels:
            grey = torch.tensor(_GREY).view(1, 3, 1, 1)
            images = images.expand(-1, 3, -1, -1) if self.channels == 3 else (images * grey).sum(1, keepdim=True)
        if self.size is not None and images.shape[2:] != self.size[1:]:
            images = F.interpolate(images, self.size[1:], mode="bilinear", antialias=True)
        return self._normalised(images)

    def _normalised(self, values: Tensor) -> Tensor:
        if self.mean is not None:
            values = values - torch.tensor(self.mean).view(1, -1, 1, 1)
        if self.std is not None:
            values = values / torch.tensor(self.std).view(1, -1, 1, 1)
        return values.to(self.dtype)

    def _placed(self, image: Image) -> Image:
        """Resized and cropped; timm's own transform where height and width differ, or the mode is a rarer one."""
        if self.size is None:
            return image
        height, width = self.size[1:]
        if image.size == (width, height) and self.crop == 1:
            return image
        if height != width or self.mode not in ("center", "squash"):
            placed: Image = self._by_timm()(image)
            return placed
        side = math.floor(height / self.crop)
        w, h = image.size
        if self.mode == "squash":
            w, h = side, side
        else:
            w, h = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
        if (w, h) != image.size:
            image = image.resize((w, h), _resampling(self.interpolation))
        left, top = round((w - width) / 2), round((h - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def _by_timm(self) -> Callable[[Any], Any]:
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms import Compose

        assert self.size is not None
        fill = self.mean or (0.0,) * self.channels  # of the borders, in the mode that adds some
        given: Any = {"interpolation": self.interpolation, "crop_pct": self.crop, "crop_mode": self.mode, "mean": fill}
        made: Any = create_transform(self.size, normalize=False, **given)
        return Compose([step for step in made.transforms if "Tensor" not in type(step).__name__])


def _resampling(name: str) -> Any:
    from PIL import Image

    known = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
    return known.get(name, Image.Resampling.BILINEAR)


def preparation_of(
    model: nn.Module,
    size: Sequence[int] | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop: float | None = None,
) -> Preparation:
    """How images are prepared for a model.

    A timm model's configuration says it. torchvision's take ImageNet's mean and deviation, the middle 224 of 256 pixels,
    bilinear. Of any other model nothing is known: images in [0, 1] as they are. What is given goes before.

    >>> preparation_of(nn.Conv2d(3, 4, 3), (3, 32, 32), mean=(0.5, 0.5, 0.5)).size
    (3, 32, 32)

    Args:
        size: channels, height, width.

    Raises:
        InputError: a value is none that images can have.
    """
    chosen: dict[str, Any] = {"size": _size_of(model, size)}
    config = timm_config(model)
    if isinstance(config, Mapping):
        names = {"mean": "mean", "std": "std", "crop_pct": "crop", "interpolation": "interpolation", "crop_mode": "mode"}
        defaults = {"mean": _MEAN, "std": _STD, "crop": 0.875, "interpolation": "bicubic", "mode": "center"}
        chosen |= defaults | {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
        chosen |= {name: tuple(chosen[name]) for name in ("mean", "std")}
    elif type(model).__module__.startswith("torchvision.models."):
        chosen |= {"mean": _MEAN, "std": _STD, "crop": 0.875}
    elif mean is None and std is None:
        chosen["note"] = "images are in [0, 1], not normalised: --mean and --std are those that the model was trained with"
    channels = 3 if chosen["size"] is None else chosen["size"][0]
    for name, given in (("mean", mean), ("std", std)):
        if given is not None:
            chosen[name] = tuple(float(value) for value in given)
        elif name in chosen and len(chosen[name]) not in (1, channels):  # those of colours, for a model of grey images
            chosen[name] = (sum(chosen[name]) / len(chosen[name]),) * channels
    if crop is not None:
        chosen["crop"] = float(crop)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return Preparation(**chosen, dtype=dtype)


def _size_of(model: nn.Module, size: Sequence[int] | None) -> tuple[int, int, int] | None:
    if size is None:
        inputs = infer_example_inputs(model)
        size = inputs[0].shape[1:] if inputs is not None and len(inputs) == 1 and inputs[0].dim() == 4 else None
        if size is None:
            return None
    sizes = tuple(int(number) for number in size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise InputError(f"an image has channels, height and width, as 3x224x224: not {'x'.join(map(str, sizes))}")
    return sizes[0], sizes[1], sizes[2]
