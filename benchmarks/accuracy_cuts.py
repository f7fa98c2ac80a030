"""Cuts of a network by fxprune and by Torch-Pruning, to the same MACs, and what brings the accuracy back without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accuracy_peer import Constant, Importance, channels_of, with_constants, with_selectors
from criteria_accuracy import EXAMPLE, Gone, gone_for
from criteria_data import Batches
from models import PRESETS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

import fxprune
from fxprune import criteria
from fxprune.analysis.analysis import Analysis
from fxprune.options import PruneOptions
from fxprune.planning.document import document_of

__all__ = [
    "BUDGET",
    "REPAIRS",
    "TOOLS",
    "TRIED",
    "Pruned",
    "chosen_by_images",
    "fits",
    "known",
    "macs",
    "mended",
    "ours",
    "params",
    "recalibrated",
    "theirs",
]

TOOLS = ("fxprune", "torch-pruning")
REPAIRS = ("none", "norms", "full")
TRIED = "tried"  # under a budget, `fxprune.prune` chooses among plans by the repair's images


@dataclass
class Pruned:
    """One cut, in two forms that compute the same.

    Attributes:
        plain: as its tool gave it.
        slim: as fxprune makes the same cut.
        whole: what `slim` was made from.
    """

    plain: nn.Module
    slim: nn.Module
    whole: nn.Module


BUDGET, BRANCHES = "macs=", "+branches"


def share_of(target: str) -> float | None:
    """The share of the MACs that a target takes: ``"0.3"``, ``"2.1x"`` fewer, or ``"macs=0.7"`` kept, or
    ``"macs=0.7+branches"``; None of a preset's name.

    Raises:
        ValueError: this is none of them.
    """
    if target in PRESETS:
        return None
    if target.startswith(BUDGET):
        share = 1 - float(target[len(BUDGET) :].removesuffix(BRANCHES))
    else:
        share = 1 - 1 / float(target[:-1]) if target.endswith("x") else float(target)
    if not 0 < share < 1:
        raise ValueError(f"{target} is no share of the MACs")
    return share


def known(target: str) -> bool:
    """Whether `share_of` knows a target."""
    try:
        share_of(target)
    except (ValueError, ZeroDivisionError):
        return False
    return True


def fits(model: nn.Module, target: str) -> bool:
    """Whether a target is for this network: a preset is for its own alone."""
    return target not in PRESETS or type(PRESETS[target].network()) is type(model)


def ours(model: nn.Module, name: str, target: str, seed: int, calibration: Batches) -> Pruned:
    """fxprune's cut by a criterion and its defaults: in one ranking of all channels, by a preset's ratios, or by the search
    under a budget."""
    analysis = fxprune.analyze(model, torch.zeros(EXAMPLE))
    criterion = criteria.resolve(name, seed=seed)
    data = calibration if getattr(criterion, "needs_data", False) else None
    share = share_of(target)
    if share is None or target.startswith(BUDGET):
        ratio = PRESETS[target].ratio if share is None else None
        budget = None if share is None else 1 - share
        branches = target.endswith(BRANCHES)
        data = calibration if branches else data  # what the output loses with a branch is measured
        asked = {"macs": budget, "criterion": name, "seed": seed, "data": data, "branches": branches}
        plan = fxprune.plan(model, ratio, torch.zeros(EXAMPLE), **asked)
        slim = fxprune.apply(model, plan, verify=False)
    else:
        scores = criteria.score_groups(criterion, model, analysis, data=data)
        slim = _made(model, analysis, gone_for(analysis, scores, share))
    return Pruned(slim.eval(), slim, model)


def chosen_by_images(
    model: nn.Module, name: str, target: str, seed: int, calibration: Batches, images: Tensor
) -> tuple[nn.Module, dict[str, Any]]:
    """What `fxprune.prune` makes under a budget where a repair follows: of several plans, repaired from a part of the images,
    that which does best on the others; then repaired from all. And each plan's error, and which was taken."""
    share = share_of(target)
    if share is None or not target.startswith(BUDGET):
        raise ValueError(f"{target} is no budget: there is one plan")
    branches = target.endswith(BRANCHES)
    data = calibration if branches or getattr(criteria.resolve(name, seed=seed), "needs_data", False) else None
    asked = {"macs": 1 - share, "criterion": name, "seed": seed, "data": data, "branches": branches}
    slim: nn.Module = fxprune.prune(model, None, torch.zeros(EXAMPLE), repair=images, **asked)
    trials = slim.meta["fxprune"].trials  # type: ignore[index]
    return slim.eval(), {} if trials is None else {"plan": trials.chosen, "errors": {t.name: t.error for t in trials.trials}}


def theirs(model: nn.Module, name: str, target: str, seed: int, calibration: Batches) -> Pruned:
    """Torch-Pruning's cut by one of its importances, likewise.

    Raises:
        ValueError: fxprune's form of the cut puts out something else.
    """
    found = Importance.of(name, with_constants(model), calibration)
    share = share_of(target)
    if share is None:
        plain, history = found.cut(_rates(model, target), seed)
    else:
        plain, history = _nearest(lambda ratio: found.cut(ratio, seed), share, macs(model))
    whole = with_selectors(model)
    analysis = fxprune.analyze(whole, torch.zeros(EXAMPLE))
    slim = _made(whole, analysis, channels_of(history, analysis))
    images = calibration[0][0][:16]
    with torch.no_grad():
        one, other = plain(images), slim(images)
    if not torch.allclose(one, other, atol=1e-4 * float(one.abs().max()), rtol=1e-4):
        raise ValueError(f"the same cut by both tools differs by {float((one - other).abs().max()):.3g}")
    return Pruned(plain, slim, whole)


def _made(model: nn.Module, analysis: Analysis, gone: Gone) -> nn.Module:
    """What fxprune makes of `model` when these channels go."""
    plan = document_of(model, analysis.cut(gone), PruneOptions(0.5).to_json())
    made: nn.Module = fxprune.apply(model, plan, verify=False)
    return made.eval()


def _nearest(cut: Callable[[float], tuple[nn.Module, Any]], share: float, whole: int) -> tuple[nn.Module, Any]:
    """The cut that takes a share of the MACs as nearly as bisection on the ratio of channels finds it, as `gone_for` does."""
    low, high = 0.0, 0.95
    best, least = None, float("inf")
    for _ in range(9):
        middle = (low + high) / 2
        found = cut(middle)
        miss = 1 - macs(found[0]) / whole - share
        if abs(miss) < least:
            best, least = found, abs(miss)
        low, high = (middle, high) if miss < 0 else (low, middle)
    assert best is not None
    return best


def _rates(model: nn.Module, preset: str) -> Mapping[str, float]:
    """Torch-Pruning's ratios by layer, for the widths that fxprune makes of a preset: it rounds the kept ones down."""
    plan = fxprune.plan(model, PRESETS[preset].ratio, torch.zeros(EXAMPLE), criterion="l1")
    pruned = [group for group in plan.groups if group.removed]
    return {group.id.rpartition(".")[0]: len(group.removed) / group.size for group in pruned}


def macs(model: nn.Module) -> int:
    """Multiply-accumulates of the convolutions and linear layers on one image, but for `Constant`."""
    total = 0

    def count(module: Any, _: Any, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and not isinstance(m, Constant)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, *EXAMPLE[1:]))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def params(model: nn.Module) -> int:
    """Parameters, but for those of `Constant`."""
    constant = sum(m.weight.numel() for m in model.modules() if isinstance(m, Constant))
    return sum(p.numel() for p in model.parameters()) - constant


def mended(pruned: Pruned, repair: str, images: Tensor, seed: int) -> nn.Module:
    """The slim model as it is (``"none"``), with new statistics in its batch norms (``"norms"``), or after `fxprune.repair`
    (``"full"``), from unlabelled images."""
    if repair == "full":
        made: nn.Module = fxprune.repair(pruned.slim, pruned.whole, images, seed=seed)
        return made
    return recalibrated(pruned.plain, images) if repair == "norms" else pruned.plain


def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose batch norms have the mean and variance of what they get, averaged over batches of 128 images."""
    made = copy.deepcopy(model).eval()
    norms = {module: module.momentum for module in made.modules() if isinstance(module, BatchNorm)}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for part in images.split(128):
            made(part)
    for norm, momentum in norms.items():
        norm.momentum = momentum
    return made.eval()
