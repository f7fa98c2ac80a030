"""Images in folders: one folder a class, as `torchvision.datasets.ImageFolder` has them, and CIFAR's binary files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import InputError, said
from fxprune.inputs.archives import decoded
from fxprune.inputs.preparing import Preparation
from fxprune.inputs.samples import Samples

__all__ = ["cifar_file", "folder"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those that torchvision reads
_SPLITS = {"train", "val", "valid", "validation", "test"}
_PIXELS = 3 * 32 * 32
_BINARY = {"cifar-10-batches-bin": "cifar-10-batches-py", "cifar-100-binary": "cifar-100-python"}
_CONVERT = (
    'convert it once, with torchvision, and give --data cifar-test.npz (train=True for the other): python -c "import numpy; '
    "from torchvision.datasets import {kind} as C; d = C('{root}', train=False); numpy.savez('cifar-test.npz', images=d.data, "
    'labels=d.targets)"; or take the binary version of CIFAR, which is read as it is'
)


def folder(path: Path, split: str, preparation: Preparation) -> Samples:
    """The images of a folder, found by looking at it.

    CIFAR's binary version (``data_batch_1.bin``, ..., ``test_batch.bin``, or ``train.bin`` and ``test.bin``), with its two
    parts as `split`; a folder for each class, whose number is its place in the alphabet; or images without labels. Any other
    `split` is the name of a folder in it.

    Raises:
        InputError: it holds none of these, or one of several has to be named.
    """
    try:
        return _folder(path, split, preparation)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {said(error)}") from error


def _folder(path: Path, split: str, preparation: Preparation) -> Samples:
    for binary, pickled in _BINARY.items():  # the folder that torchvision was given
        if (path / binary).is_dir():
            return _folder(path / binary, split, preparation)
        if (path / pickled).is_dir():
            path /= pickled
    _refuse_pickles(path)
    if parts := _cifar_parts(path):
        return _cifar(path, parts, split, preparation)
    if split:
        if not (path / split).is_dir():
            raise InputError(f"{str(path)!r} has no folder {split!r}: it has {_names(path) or 'none'}")
        return _folder(path / split, "", preparation)
    return _images(path, preparation)


def _refuse_pickles(path: Path) -> None:
    tens, hundreds = (path / "test_batch").is_file(), all((path / name).is_file() for name in ("train", "test", "meta"))
    if tens or hundreds:
        convert = _CONVERT.format(kind="CIFAR10" if tens else "CIFAR100", root=path.parent)
        raise InputError(f"{str(path)!r} holds CIFAR as pickles, which may run any code and are not opened: {convert}")


def _cifar_parts(path: Path) -> dict[str, list[Path]]:
    """``train`` and ``test`` of CIFAR's binary version -> files; nothing if this is none."""
    if (path / "test_batch.bin").is_file() or (path / "data_batch_1.bin").is_file():
        found = {"train": sorted(path.glob("data_batch_[1-5].bin")), "test": [path / "test_batch.bin"]}
    elif (path / "fine_label_names.txt").is_file() or path.name == "cifar-100-binary":
        found = {"train": [path / "train.bin"], "test": [path / "test.bin"]}
    else:
        return {}
    return {split: files for split, files in found.items() if files and all(file.is_file() for file in files)}


def _cifar(path: Path, parts: dict[str, list[Path]], split: str, preparation: Preparation) -> Samples:
    if not split and len(parts) == 1:
        split = next(iter(parts))
    if split not in parts:
        forms = " or ".join(f"{path}:{part}" for part in parts)
        raise InputError(f"{str(path)!r} holds {' and '.join(parts)}: give --data {forms}")
    return _records(parts[split], repr(f"{path}:{split}"), preparation)


def cifar_file(path: Path, preparation: Preparation) -> Samples:
    """One of CIFAR's binary files: records of a label (of CIFAR-100 a coarse and a fine one) and 3 x 32 x 32 bytes.

    Raises:
        InputError: it is none.
    """
    return _records([path], repr(str(path)), preparation)


def _records(files: Sequence[Path], name: str, preparation: Preparation) -> Samples:
    hundred = files[0].name in ("train.bin", "test.bin")
    width, classes = (2, 100) if hundred else (1, 10)
    try:
        data = [np.fromfile(file, np.uint8) for file in files]
    except OSError as error:
        raise InputError(f"{name} cannot be read: {said(error)}") from error
    if any(len(values) % (width + _PIXELS) for values in data):
        raise InputError(f"{name} is not CIFAR-{classes}'s binary version, whose records have {width + _PIXELS} bytes")
    records = np.concatenate(data).reshape(-1, width + _PIXELS)
    labels = records[:, width - 1]
    if len(labels) and int(labels.max()) >= classes:
        raise InputError(f"{name} is not CIFAR-{classes}'s binary version: it has a label {int(labels.max())}")
    images = records[:, width:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    numbers = torch.from_numpy(labels.astype(np.int64))
    found = Samples(lambda picked: preparation.bytes(images[list(picked)]), numbers, len(images), name, classes)
    found.note = preparation.note
    return found


def _images(path: Path, preparation: Preparation) -> Samples:
    name = repr(str(path))
    classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    if not classes:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise InputError(
                f"{name} holds no images and no folders of images: give one folder a class, .npz, CIFAR's binary files, or "
                "file.py:function"
            )
        return _pictures(files, None, name, preparation)
    if _SPLITS.issuperset(classes) and not any(_is_image(entry.name) for part in classes for entry in os.scandir(path / part)):
        raise InputError(f"{name} holds {', '.join(classes)}: name one of them, as --data {path}:{classes[-1]}")
    files, labels = [], []
    for number, kind in enumerate(classes):
        found = [Path(root, file) for root, _, names in sorted(_walk(path / kind)) for file in sorted(names) if _is_image(file)]
        if not found:
            raise InputError(
                f"{name}: the class {kind!r} has no image, so that its number is in doubt: remove the folder or fill it"
            )
        files += found
        labels += [number] * len(found)
    return _pictures(files, torch.tensor(labels), name, preparation, len(classes))


def _walk(path: Path) -> list[tuple[str, list[str], list[str]]]:
    return list(os.walk(path, followlinks=True))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _pictures(
    files: Sequence[Path], labels: Tensor | None, name: str, preparation: Preparation, classes: int | None = None
) -> Samples:
    def read(numbers: Sequence[int]) -> Tensor:
        return preparation.pictures([decoded(files[i], repr(str(files[i]))) for i in numbers])

    found = Samples(read, labels, len(files), name, classes)
    found.note = preparation.note
    return found


def _names(path: Path) -> str:
    return ", ".join(sorted(entry.name for entry in os.scandir(path) if entry.is_dir())[:8])
