"""`gather`: one call for one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.statistics.contract import Observer
from fxprune.statistics.gradients import Loss
from fxprune.statistics.running import Statistics, processes

__all__ = ["gather"]


def gather(
    model: nn.Module,
    analysis: Analysis,
    criteria: Sequence[Observer],
    data: Iterable[Any],
    *,
    loss: Loss | None = None,
    batches: int | None = None,
    calibration: int | None = None,
    classes: int | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = False,
) -> Statistics:
    """Show `model` at work on `data` to some criteria, in one pass; they can score afterwards.

    Args:
        model: the model of `analysis`; it runs in evaluation mode, on the device it is on, and stays as it is.
        data: any iterable of batches: tensors, pairs of inputs and labels, or mappings by the names of the inputs.
        loss: for criteria that use gradients: a function of the output and the labels; cross entropy if not given.
        batches: stop after so many.
        calibration: so many images, the first, fix the range of each channel's values, for criteria that count in bins; later
            values beyond it go to its ends. None: all images do, and the data are read twice; of an iterator, which can be
            read once only, the first 64. These images run through the model twice.
        classes: number of labels that are told apart; by default the size of the model's output, 100 at most. Larger
            labels are folded onto these (label modulo classes).
        autocast: run the model under ``torch.autocast`` with this dtype.
        progress: show a progress bar.

    In a process group of torch.distributed, every process brings its own share of the data (at least one batch), and all
    end up with the sums over all of it.

    Raises:
        InputError: there are no data, they do not fit the model, or an activation or gradient is not finite.
    """
    statistics = Statistics(model, analysis, criteria, loss=loss, calibration=calibration, classes=classes, autocast=autocast)
    statistics.update(data, batches=batches, progress=progress)
    if processes() > 1:
        statistics.all_reduce()
    statistics.finish()
    return statistics
