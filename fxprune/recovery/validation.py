"""`validate`: slim models and their original on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.options import check_flag, check_seed, real
from fxprune.planning.report import report_of
from fxprune.planning.validation import Validation
from fxprune.progress import length, track
from fxprune.recovery.comparing import Costs, Judge
from fxprune.recovery.metrics import Metric, named_metrics
from fxprune.recovery.showing import Show, buffers_put_back, evaluated
from fxprune.state import place_of
from fxprune.statistics.running import each_batch
from fxprune.tracing.untouched import untouched

__all__ = ["validate"]


def validate(
    model: nn.Module,
    slim: nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module],
    loader: Iterable[Any],
    *,
    metric: Metric | Mapping[str, Metric] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    batches: int | None = None,
    latency: bool = True,
    bins: int = 15,
    confidence: float = 0.95,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Validation:
    """Say how well slim models do beside the dense one: on the same images, with intervals, in one pass.

    Of classifiers: top-1 and top-5 accuracy, loss, calibration error, agreement with the dense model. Of any model: metrics,
    distance of the outputs, MACs, parameters, latency. Accuracies have Wilson's intervals (1927); their differences, which are
    on the same images, Tango's (1998) and McNemar's exact test (1947); means over images a paired bootstrap's.

    >>> data = [(torch.randn(32, 8), torch.randint(0, 2, (32,))) for _ in range(4)]
    >>> found = validate(net, {"same": net}, data, latency=False)
    >>> found.images, found.of("same").against.agreement.value, found.of("same").against.top1.value
    (128, 1.0, 0.0)

    Args:
        model: the dense model. All models run in evaluation mode, without gradients, where they are, and stay as they are.
        slim: what `fxprune.prune` gave; or several models, in a list or by name.
        loader: batches: inputs, or inputs and labels ``[n]`` (a pair, or a mapping). Without labels, what needs none
            is measured.
        metric: a function of output and labels, which gives a number for each image ``[n]`` or one for the batch; or an object
            with ``update(output, labels)``, ``compute`` and ``reset``, as torchmetrics has them, of which each model gets a
            copy; or several by name. Needed where the output is not ``[n, classes]``, and labels are given.
        loss: a function of output and labels, likewise; cross entropy of class numbers if not given.
        batches: use so many at most.
        latency: measure the median seconds of the first batch, in turns.
        bins: of the calibration error.
        confidence: level of the intervals.
        autocast: run the models under ``torch.autocast`` with this dtype.
        seed: of the bootstrap.
        progress: show a progress bar.

    Returns:
        The figures; ``print`` shows a table. Each slim model's own are also in its report: ``slim.meta["fxprune"].validation``.

    Raises:
        InputError: an argument is out of range, or data, labels or metric do not fit the models.
    """
    models = {"dense": model, **_named(slim)}
    for each in models.values():
        check_model(each)
        check_values(each, "validate filled models")
    bins, seed, level = _whole(bins, "bins"), check_seed(seed), real(confidence)
    if level is None or not 0 < level < 1:
        raise InputError(f"confidence must be a fraction in (0, 1), not {shown(confidence)}")
    limit = None if batches is None else _whole(batches, "batches")
    if isinstance(loader, str) or not isinstance(loader, Iterable):
        raise InputError(f"loader must be an iterable of batches, not {shown(loader)}; by name: fxprune.inputs.data.load_data")
    metrics, timed = named_metrics(metric), check_flag(latency, "latency")
    if loss is not None and not callable(loss):
        raise InputError(f"loss must be a function of output and labels, not {shown(loss)}")

    show = Show(models, metrics, loss, autocast)
    with untouched(*models.values()), evaluated(models.values(), show.notes):
        show.all(track(islice(each_batch(loader), limit), "validating", length(loader, limit), shown=progress or None))
    show.note_classes(loader)
    # Without the watch, which takes time of every operator: buffers are put back, and parameters are not written in forward.
    with untouched(*models.values(), watch=False), evaluated(models.values(), []), buffers_put_back(models.values()):
        costs = show.costs(timed)
    return _judged(show, costs, Judge(level, bins, seed))


def _named(slim: Any) -> dict[str, nn.Module]:
    """Slim models by name.

    Raises:
        InputError: there is none, or the dense model's name is taken.
    """
    if isinstance(slim, nn.Module) and not isinstance(slim, (nn.ModuleList, nn.ModuleDict)):
        return {"slim": slim}
    if isinstance(slim, (Mapping, nn.ModuleDict)):
        found = {str(name): part for name, part in slim.items()}
    elif isinstance(slim, (list, tuple, nn.ModuleList)):
        found = {"slim" if len(slim) == 1 else f"slim {i}": part for i, part in enumerate(slim, 1)}
    else:
        found = {"slim": slim}
    if not found or "dense" in found:
        raise InputError("slim must be one model or several, by names other than 'dense'" if found else "slim holds no model")
    return found


def _whole(given: Any, name: str) -> int:
    value = real(given)
    if value is None or not 1 <= value < 1e9 or value != int(value):
        raise InputError(f"{name} must be a whole number of at least 1, not {shown(given)}")
    return int(value)


def _judged(show: Show, costs: Mapping[str, Costs], judge: Judge) -> Validation:
    """All figures, and each slim model's in its report."""
    assert show.first is not None
    dense = (show.tallies["dense"], costs["dense"])
    slim = []
    for name, distance in show.distances.items():
        own = (show.tallies[name], costs[name])
        slim.append(judge.figures(name, *own, judge.against(dense, own, distance.value)))
    device = place_of(show.models["dense"])[0]
    threads = torch.get_num_threads()
    found = Validation(
        type(show.models["dense"]).__name__,
        judge.figures("dense", *dense, None),
        tuple(slim),
        show.images,
        bool(show.labelled),
        judge.confidence,
        judge.bins,
        show.first.images,
        f"CPU with {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device),
        tuple(show.notes),
    )
    for figures in slim:
        report = report_of(show.models[figures.name])
        if report is not None:
            report.validation = replace(found, slim=(figures,))
    return found
