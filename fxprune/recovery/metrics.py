"""Metrics as users have them: objects with update, compute and reset (torchmetrics), or functions of output and labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import InputError, said, shown

__all__ = ["Follower", "Metric", "follower_of", "named_metrics"]

Metric = Callable[..., Any]


class Follower:
    """A function of output and labels, followed over batches: of one model.

    It gives a number for each image ``[n]``, or one for the batch, which counts for each of its images.
    """

    def __init__(self, name: str, function: Metric) -> None:
        self.name, self.function = name, function
        self.parts: list[np.ndarray] = []
        self.each = True  # a number for each image, so far

    def add(self, output: Any, labels: Any, images: int) -> None:
        """
        Raises:
            InputError: the function fails, or gives no numbers.
        """
        value = _ran(self.name, lambda: _numbers(self.function(output, labels)))
        if value.shape not in ((), (images,)):
            raise InputError(
                f"metric {self.name!r} gave {tuple(value.shape)} numbers for {images} images: give one for each, or one for all"
            )
        self.each = self.each and value.dim() == 1
        self.parts.append(value.expand(images).numpy())

    def values(self) -> dict[str, float]:
        return {self.name: float(np.concatenate(self.parts).mean())}

    def images(self) -> np.ndarray | None:
        """The numbers of all images ``[n]``; None where they are those of batches."""
        return np.concatenate(self.parts) if self.each else None


class _Stateful:
    """A metric with a state, of which each model has its own copy."""

    def __init__(self, name: str, metric: Any) -> None:
        self.name = name
        self.metric = _ran(name, lambda: copy.deepcopy(metric))
        _ran(name, self.metric.reset)
        self.device: torch.device | None = None

    def add(self, output: Any, labels: Any, images: int) -> None:
        device = output.device if isinstance(output, Tensor) else None
        if device is not None and device != self.device and hasattr(self.metric, "to"):
            self.metric, self.device = self.metric.to(device), device
        _ran(self.name, lambda: self.metric.update(output, labels))

    def values(self) -> dict[str, float]:
        found = _ran(self.name, self.metric.compute)
        parts = found if isinstance(found, Mapping) else {self.name: found}
        values: dict[str, float] = {}
        for name, part in parts.items():
            numbers = _ran(self.name, partial(_numbers, part))
            several = numbers.dim() > 0
            values |= {f"{name}.{i}" if several else str(name): float(v) for i, v in enumerate(numbers.reshape(-1))}
        return values

    def images(self) -> np.ndarray | None:
        return None


def follower_of(name: str, metric: Any) -> Follower | _Stateful:
    """What follows one metric on one model."""
    return _Stateful(name, metric) if _has_state(metric) else Follower(name, metric)


def named_metrics(metric: Any) -> dict[str, Metric]:
    """A user's metric, or several by name, checked.

    >>> list(named_metrics(max)), list(named_metrics({"top": max}))
    (['max'], ['top'])

    Raises:
        InputError: it is none.
    """
    if metric is None:
        return {}
    if isinstance(metric, Mapping) and not _has_state(metric):
        found = {str(name): part for name, part in metric.items()}
    else:
        found = {str(getattr(metric, "__name__", type(metric).__name__)): metric}
    for name, part in found.items():
        if isinstance(part, type) or not (_has_state(part) or callable(part)):
            made = " (a class: give an object of it)" if isinstance(part, type) else ""
            raise InputError(
                f"metric {name!r} is {shown(part)}{made}: give a function of output and labels, or an object with update, "
                "compute and reset, as torchmetrics has them"
            )
    return found


def _numbers(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().double().cpu()


def _has_state(metric: Any) -> bool:
    return not isinstance(metric, type) and all(
        callable(getattr(metric, name, None)) for name in ("update", "compute", "reset")
    )


def _ran(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        raise InputError(f"metric {name!r} failed: {type(error).__name__}: {said(error)}") from error
