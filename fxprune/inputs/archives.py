"""Samples in an ``.npz`` file: arrays, images as bytes, or JPEG files end to end. Nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import InputError, said
from fxprune.inputs.preparing import Preparation
from fxprune.inputs.samples import Samples

__all__ = ["archive", "decoded"]

_INPUTS, _LABELS = ("inputs", "x", "images"), ("labels", "y", "label")  # names of the arrays, any of them
_JPEG = ("jpeg", "offset")
# Those of the suffixes that a folder of images is searched for.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


def archive(path: Path, split: str, preparation: Preparation) -> Samples:
    """The samples of an ``.npz`` file.

    ``inputs``, ``x`` or ``images`` ``[n, ...]``: floats and whole numbers go to the model as they are, floats in its dtype;
    bytes (uint8) in three or four axes are images, with the channels last or first, and are prepared. Or ``jpeg``, whole
    files end to end (uint8), and ``offset`` ``[n + 1]``, where each begins. With ``labels``, ``label`` or ``y`` ``[n]``.

    Args:
        split: ``x_train`` instead of ``x``, and so on, if this is ``"train"``.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    name, suffix = repr(str(path)), f"_{split}" if split else ""
    arrays = _arrays(path, [f"{key}{suffix}" for key in (*_INPUTS, *_LABELS, *_JPEG)])
    inputs, labels = (
        next((arrays[f"{n}{suffix}"] for n in names if f"{n}{suffix}" in arrays), None) for names in (_INPUTS, _LABELS)
    )
    if inputs is None and all(f"{key}{suffix}" in arrays for key in _JPEG):
        blob, offset = (arrays[f"{key}{suffix}"] for key in _JPEG)
        return _jpegs(blob, offset, labels, name, preparation)
    if inputs is None or inputs.ndim < 2 or inputs.dtype.kind not in "fiu":
        raise InputError(
            f"{name} must hold an array of numbers 'inputs{suffix}' [n, ...], as the model takes them; it has {arrays['']}"
        )
    classes = _class_numbers(labels, len(inputs), name)
    if inputs.dtype == np.uint8 and inputs.ndim in (3, 4):
        images = _channels_last(inputs, name)
        found = Samples(lambda numbers: preparation.bytes(images[list(numbers)]), classes, len(images), name)
        found.note = preparation.note
        return found
    values = torch.from_numpy(np.ascontiguousarray(inputs))
    dtype = preparation.dtype if inputs.dtype.kind == "f" else values.dtype
    return Samples(lambda numbers: values[list(numbers)].to(dtype), classes, len(inputs), name)


def _arrays(path: Path, wanted: list[str]) -> dict[str, Any]:
    """The wanted arrays of a file; under an empty name, what it holds."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            held: Mapping[str, Any] = file
            return {"": ", ".join(held), **{name: held[name] for name in wanted if name in held}}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} is not a readable .npz file of arrays: {said(error)}") from error


def _class_numbers(labels: np.ndarray | None, count: int, name: str) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"{name}: labels must be {count} whole numbers, not {labels.dtype} {labels.shape}")
    return torch.from_numpy(labels.astype(np.int64))


def _channels_last(images: np.ndarray, name: str) -> np.ndarray:
    """``[n, h, w]`` and ``[n, h, w, 1 or 3]`` as they are; ``[n, 1 or 3, h, w]`` with the channels moved."""
    if images.ndim == 3:
        return images
    last, first = images.shape[3] in (1, 3), images.shape[1] in (1, 3)
    if last == first:
        raise InputError(
            f"{name}: bytes of shape {images.shape} are no images [n, height, width, 3]: which axis has the colours?"
        )
    return images if last else np.moveaxis(images, 1, 3)


def _jpegs(blob: np.ndarray, offset: np.ndarray, labels: np.ndarray | None, name: str, preparation: Preparation) -> Samples:
    if blob.dtype != np.uint8 or blob.ndim != 1 or offset.ndim != 1 or offset.dtype.kind not in "iu" or len(offset) < 2:
        raise InputError(f"{name}: 'jpeg' must be bytes (uint8, one axis), 'offset' whole numbers, one more than images")
    edges = offset.astype(np.int64)
    if edges[0] < 0 or edges[-1] > len(blob) or (np.diff(edges) <= 0).any():
        raise InputError(f"{name}: 'offset' must rise from 0 to {len(blob)}, the bytes in 'jpeg'")
    classes = _class_numbers(labels, len(edges) - 1, name)

    def read(numbers: Any) -> Tensor:
        spans = ((i, blob[edges[i] : edges[i + 1]].tobytes()) for i in numbers)
        return preparation.pictures([decoded(io.BytesIO(span), f"image {i} of {name}") for i, span in spans])

    found = Samples(read, classes, len(edges) - 1, name)
    found.note = preparation.note
    return found


def decoded(file: Any, name: str) -> Any:
    """Pillow's image of a file, in grey or in colours.

    Raises:
        InputError: it is no image, or damaged.
    """
    from PIL import Image

    Image.init()
    try:
        with Image.open(file, formats=[kind for kind in _FORMATS if kind in Image.OPEN]) as image:
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except Exception as error:  # a damaged file can stop the reader at any step of it
        raise InputError(f"{name} is no readable image: {type(error).__name__}: {said(error)}") from error
