"""Accuracy after pruning, before any fine-tuning, at equal computation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from criteria_cost import Row, Task, reads_data, score
from criteria_data import Batches, Cifar, batches
from torch import nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.options import PruneOptions
from fxprune.planning.policies import chosen, policy_of
from fxprune.rewrite import rewrite, with_weights

__all__ = ["EXAMPLE", "Gone", "accuracy", "accuracy_tasks", "gone_for", "slim_for"]

EXAMPLE = (2, 3, 32, 32)
Gone = dict[str, np.ndarray]  # group id -> channels that go


def accuracy_tasks(network: str, model: nn.Module, data: Cifar, options: argparse.Namespace) -> Iterator[tuple[Row, Task]]:
    """Heads of rows, and what prepares the measurement of each; criterion ``none`` is the dense network."""
    shared = {"part": "accuracy", "network": network, "images": options.calibration, "test": options.test}

    def prepared(name: str) -> Callable[[], list[Row]]:
        calibration = batches(*data("train", options.calibration))
        test = batches(*data("test", options.test))
        return partial(_measured, name, model, calibration, test, options.scopes, options.cuts)

    for name in ["none", *options.criteria]:
        yield {**shared, "criterion": name}, partial(prepared, name)


def _measured(
    name: str, model: nn.Module, calibration: Batches, test: Batches, scopes: list[str], cuts: list[float]
) -> list[Row]:
    if name == "none":
        return [{"scope": "", "cut": 0.0, "accuracy": accuracy(model, test)}]
    analysis = fxprune.analyze(model, torch.zeros(EXAMPLE))
    scores = score(name, model, analysis, calibration if reads_data(name) else None)
    rows = []
    for scope in scopes:
        for cut in cuts:
            slim, fewer = slim_for(model, analysis, gone_for(analysis, scores, cut, scope))
            rows.append({"scope": scope, "cut": cut, "accuracy": accuracy(slim, test), **fewer})
    return rows


def gone_for(analysis: Analysis, scores: Mapping[str, Any], cut: float, scope: str = "global") -> Gone:
    """What goes so that a share `cut` of the MACs does, as nearly as bisection on the ratio finds it.

    Args:
        scores: group id -> scores ``[channels]``, comparable between groups.
    """
    ranked = {name: np.asarray(found, np.float64) for name, found in scores.items()}

    def made(ratio: float) -> Gone:
        return chosen(policy_of(PruneOptions(ratio, scope=scope)), analysis, ranked)

    def miss(gone: Gone) -> float:
        return 1 - analysis.cut(gone).macs / analysis.macs() - cut

    low, high = 0.0, 0.95
    best = made(high)
    for _ in range(9):  # the ratio to 0.2 %
        middle = (low + high) / 2
        found = made(middle)
        best = min(best, found, key=lambda g: abs(miss(g)))
        low, high = (middle, high) if miss(found) < 0 else (low, middle)
    return best


def slim_for(model: nn.Module, analysis: Analysis, gone: Gone) -> tuple[nn.Module, dict[str, float]]:
    """The slim model, and the shares of the MACs and parameters that went."""
    rewritten = rewrite(analysis, gone)
    cut = rewritten.cut
    fewer = {"macs": 1 - cut.macs / analysis.macs(), "params": 1 - cut.params / analysis.params()}
    return with_weights(rewritten, model).eval(), fewer


def accuracy(model: nn.Module, test: Batches) -> float:
    """Share of the test images that are classified right."""
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test)
    return right / sum(len(labels) for _, labels in test)
