"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels that come inside that package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.errors import InputError, PruneError
from fxprune.inputs.preparing import Preparation
from fxprune.inputs.samples import Samples

__all__ = ["Digits", "digit_samples", "digits"]

_HELD_OUT = 450  # about a quarter
_SPLIT_SEED = 20240  # the held-out images are the same whatever the seed of the training


@dataclass(frozen=True)
class Digits:
    """Images ``[N, 1, 8, 8]`` in [0, 1] and their labels ``[N]``, for training and held out."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Digits:
    """Read the digits and hold the same 450 of them out, every time.

    Raises:
        PruneError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise PruneError('the digits are scikit-learn\'s, which is not installed: pip install "fxprune[demo]"') from error
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).div(16).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    test, train = order[:_HELD_OUT], order[_HELD_OUT:]
    return Digits(images[train], labels[train], images[test], labels[test])


def digit_samples(split: str, preparation: Preparation) -> Samples:
    """The digits as samples; `split`: ``"train"``, ``"test"``, or empty for all.

    Raises:
        InputError: they are parted otherwise.
    """
    if split not in ("", "train", "test"):
        raise InputError(f"digits are digits:train, digits:test or digits (all of them), not digits:{split}")
    data = digits()
    images = {"train": [data.train_x], "test": [data.test_x]}.get(split, [data.train_x, data.test_x])
    labels = {"train": [data.train_y], "test": [data.test_y]}.get(split, [data.train_y, data.test_y])
    x, y = torch.cat(images), torch.cat(labels)
    return Samples(lambda numbers: preparation.floats(x[list(numbers)]), y, len(x), f"digits:{split}".rstrip(":"), 10)
