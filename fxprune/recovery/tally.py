"""What one model says of every image: counted batch by batch, compared with another's afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import InputError
from fxprune.recovery.metrics import Follower, follower_of

__all__ = ["Columns", "Tally", "calibration_error", "class_numbers", "logits_of"]

_TOP = 5


class Columns:
    """Numbers of every image, by name: ``columns["top1"]`` is ``[images]``, float64."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._parts.setdefault(name, []).append(value.detach().double().cpu().numpy())

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate(self._parts[name])


class Tally:
    """Of one model: columns ``said`` (the likeliest class; -1 where the output is not a number), and with labels ``top1``,
    ``top5``, ``loss`` and ``confidence``.

    Args:
        metrics: by name.
        loss: a user's function of output and labels; None for cross entropy.
    """

    def __init__(self, metrics: Mapping[str, Any], loss: Callable[[Any, Any], Any] | None) -> None:
        self.columns = Columns()
        self.metrics = [follower_of(name, metric) for name, metric in metrics.items()]
        self.loss = None if loss is None else Follower("the loss", loss)

    def add(self, output: Any, labels: Any, images: int) -> None:
        """Add a batch.

        Raises:
            InputError: the labels are no classes of the output.
        """
        for metric in (*self.metrics, *((self.loss,) if self.loss is not None else ())):
            metric.add(output, labels, images)
        logits = logits_of(output, images)
        if logits is None:
            return
        broken = logits.isnan().any(1)
        likeliest = logits.argmax(1)
        self.columns.add(said=likeliest.masked_fill(broken, -1))
        numbers = class_numbers(labels, images, logits.shape[1])
        if numbers is not None:
            self._add_labelled(logits.double(), numbers.to(logits.device), broken)

    def _add_labelled(self, logits: Tensor, labels: Tensor, broken: Tensor) -> None:
        own = logits.gather(1, labels[:, None])
        earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
        # Of equal logits the first counts, as with argmax; where there is a NaN nothing is right.
        place = ((logits > own) | ((logits == own) & earlier)).sum(1)
        chances = logits.softmax(1)
        self.columns.add(
            top1=(place == 0) & ~broken,
            confidence=chances.amax(1).masked_fill(broken, torch.nan),
        )
        if logits.shape[1] > _TOP:
            self.columns.add(top5=(place < _TOP) & ~broken)
        if self.loss is None:
            self.columns.add(loss=torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def logits_of(output: Any, images: int) -> Tensor | None:
    """The output ``[images, classes]`` of a classifier: a tensor, or what an output calls ``logits``; None of another model."""
    if not isinstance(output, Tensor):
        output = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(output, Tensor) or output.dim() != 2 or not output.is_floating_point():
        return None
    return output if output.shape[0] == images and output.shape[1] > 1 else None


def class_numbers(labels: Any, images: int, classes: int) -> Tensor | None:
    """Labels as int64 ``[images]``; None if they are no class numbers.

    Raises:
        InputError: a number is none of the classes.
    """
    if isinstance(labels, (list, tuple)) and all(isinstance(label, int) for label in labels):
        labels = torch.tensor(labels)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
        return None
    if labels.shape == (images, 1):
        labels = labels[:, 0]
    if labels.shape != (images,):
        return None
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"a label is {low if low < 0 else high}, but the model tells {classes} classes apart, 0 to {classes - 1}"
        )
    return labels.long()


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Expected calibration error (Guo et al., ICML 2017, equation 3): ``sum_m |B_m| / n * |acc(B_m) - conf(B_m)|`` over bins
    ``B_m`` of confidences in ``((m - 1) / M, m / M]``.

    >>> f"{calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1.0, 1.0, 0.0, 1.0]), 10):.3f}"
    '0.100'

    Args:
        confidence: probability of the likeliest class ``[n]``.
        right: 1 where that class is the label, else 0 ``[n]``.
    """
    edges = np.arange(1, bins) / bins
    gaps = np.bincount(np.searchsorted(edges, confidence, side="left"), right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
