"""What a slim model costs beside its original: MACs by another count than ours, and seconds."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from fxprune.analysis.analysis import Analysis
from fxprune.inputs.examples import own_copy, random_like
from fxprune.state import place_of
from fxprune.statistics.costs import seconds_in_turns
from fxprune.tracing.skeleton import skeleton_of
from fxprune.tracing.untouched import twin_of

__all__ = ["count_macs", "latency"]


def count_macs(model: nn.Module, analysis: Analysis) -> int:
    """MACs of one sample by `torch.utils.flop_counter`, on the meta device (no weights, fused attention counted).

    A model whose code reads values of tensors does not run there: a copy of it is run on random inputs.
    """
    inputs, training = analysis.traced.inputs, "evaluation" in analysis.traced.refused
    try:
        skeleton, _ = skeleton_of(model)
        with torch.device("meta"):  # constants that forward makes, too
            flops = _flops(skeleton.train(training), *inputs)
    except Exception:  # whatever the model says to tensors without values
        device, dtype = place_of(model)
        flops = _flops(copy.deepcopy(model).train(training), *(random_like(v, device, dtype) for v in inputs))
    return round(flops / 2 / analysis.batch)


def _flops(model: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> int:
    """Floating-point operations of one run."""
    from torch.utils.flop_counter import FlopCounterMode

    model.requires_grad_(False)  # the counter's hooks fail on a parameter that is passed to a module
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*args, **named)
    return int(counter.get_total_flops())


def _run(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return module(*own_copy(args), **own_copy(named))


def latency(model: nn.Module, slim: nn.Module, analysis: Analysis, rounds: int = 7) -> tuple[float, float]:
    """Median seconds of one forward each, measured in turns on the example inputs."""
    device, dtype = place_of(model)
    args, named = (random_like(v, device, dtype) for v in analysis.traced.example)
    training = "evaluation" in analysis.traced.refused
    pair = (twin_of(model).train(training), twin_of(slim).train(training))
    runs = [partial(_run, module, args, named) for module in pair]
    original, other = seconds_in_turns(runs, device, rounds)
    return float(np.median(original)), float(np.median(other))
