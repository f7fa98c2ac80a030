"""What `fxprune.sensitivity` may measure of classifiers: functions of a model, each over the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from torch import nn

from fxprune.errors import InputError, shown
from fxprune.options import one_of
from fxprune.recovery.showing import Show, evaluated
from fxprune.statistics.running import each_batch

__all__ = ["Measure", "classifies"]

Measure = Literal["top1", "top5", "loss"]


def classifies(loader: Iterable[Any], measure: Measure = "top1") -> Callable[[nn.Module], float]:
    """A function that says how well a classifier does: top-1 or top-5 accuracy, or mean cross entropy, in evaluation mode.

    >>> data = [(torch.ones(4, 8), torch.zeros(4, dtype=torch.long)), (torch.ones(4, 8), torch.ones(4, dtype=torch.long))]
    >>> classifies(data)(net), classifies(data, "loss")(net) > 0.69
    (0.5, True)

    Args:
        loader: batches of inputs and labels ``[n]``, which can be read again and again.
        measure: of the loss, lower is better: give `fxprune.sensitivity` ``better="lower"``.

    Raises:
        InputError: these are no batches; or later, of the function: they have no labels, or do not fit the model.
    """
    one_of("measure", measure, get_args(Measure))
    if isinstance(loader, (str, Iterator)) or not isinstance(loader, Iterable):
        raise InputError(f"loader must be batches that can be read again and again, as a list or a loader, not {shown(loader)}")

    def evaluate(model: nn.Module) -> float:
        show = Show({"dense": model}, {}, None, None)
        with evaluated([model], []):
            show.all(each_batch(loader))
        columns = show.tallies["dense"].columns
        if measure not in columns:
            what = "labels" if show.labelled is False else f"{measure}: it has too few classes"
            raise InputError(f"the data or the model have no {what}")
        return float(columns[measure].mean())

    return evaluate
