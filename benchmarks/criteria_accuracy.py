"""Accuracy after pruning, before any fine-tuning, at equal computation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from criteria_cost import Row, Task, reads_data, score
from criteria_data import Batches, Cifar, batches
from torch import Tensor, nn

import fxprune
from fxprune.planning.plan import Plan

__all__ = ["accuracy_tasks", "plan_for"]

_EXAMPLE = (2, 3, 32, 32)


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
    analysis = fxprune.analyze(model, torch.zeros(_EXAMPLE))
    scores = score(name, model, analysis, calibration if reads_data(name) else None)
    rows = []
    for scope in scopes:
        for cut in cuts:
            plan = plan_for(model, scores, cut, scope)
            slim = fxprune.apply(model, plan, verify=False)
            fewer = [1 - after / before for before, after in (plan.macs, plan.params)]
            rows.append({"scope": scope, "cut": cut, "accuracy": accuracy(slim, test), "macs": fewer[0], "params": fewer[1]})
    return rows


def plan_for(model: nn.Module, scores: dict[str, Tensor], cut: float, scope: str) -> Plan:
    """The plan that comes nearest to removing a share `cut` of the MACs, by bisection on the ratio."""

    def made(ratio: float) -> Plan:
        example = torch.zeros(_EXAMPLE)
        return fxprune.plan(model, ratio, example, criterion=lambda group, _: scores[group.id], scope=scope)  # type: ignore[arg-type]

    def miss(plan: Plan) -> float:
        return 1 - plan.macs[1] / plan.macs[0] - cut

    low, high = 0.0, 0.95
    best = made(high)
    for _ in range(9):  # the ratio to 0.2 %
        middle = (low + high) / 2
        found = made(middle)
        best = min(best, found, key=lambda p: abs(miss(p)))
        low, high = (middle, high) if miss(found) < 0 else (low, middle)
    return best


def accuracy(model: nn.Module, test: Batches) -> float:
    """Share of the test images that are classified right."""
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test)
    return right / sum(len(labels) for _, labels in test)
