"""Torch-Pruning's cuts of the CIFAR networks, as it makes them, and the channels that they take, so that fxprune can make the
same cut.

Two things are done in its favour. The shortcut of option A (every second row and column, channels of zeros around) is written
as a 1 x 1 convolution with a constant weight, which nobody trains or counts: as it stands, Torch-Pruning 1.6.1 removes the
same channel numbers on both sides of the padding, which shifts them. And `hessian` adds up the squared gradients of all images:
its own sums are looked up by name and stored by tensor, so that each image replaces the one before. Its `OBDCImportance` is
left out: it raises a TypeError on networks without attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from criteria_accuracy import Gone
from criteria_data import Batches
from models.cifar_resnet import Block, Padded, Selector
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.analysis.analysis import Analysis

__all__ = ["IMPORTANCES", "Constant", "History", "Importance", "channels_of", "with_constants", "with_selectors"]

IMPORTANCES = ("magnitude", "taylor", "bn_scale", "lamp", "fpgm", "hessian", "activation", "random")
History = list[tuple[str, bool, list[int]]]  # module, whether its outputs went, and which


class Constant(nn.Conv2d):
    """A `Selector` as a layer that Torch-Pruning can cut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__(width, out, 1, stride, bias=False)
        with torch.no_grad():
            self.weight.copy_(Selector(width, out, stride).matrix)


def with_selectors(model: nn.Module) -> nn.Module:
    """A copy in which shortcuts of option A are products with constant matrices: fxprune's form of `with_constants`."""
    return _rewritten(model, Selector)


def with_constants(model: nn.Module) -> nn.Module:
    """A copy in which shortcuts of option A are layers that Torch-Pruning can cut."""
    return _rewritten(model, Constant)


def _rewritten(model: nn.Module, kind: Callable[[int, int, int], nn.Module]) -> nn.Module:
    made = copy.deepcopy(model)
    for block in made.modules():
        if isinstance(block, Block) and isinstance(block.shortcut, Padded):
            block.shortcut = kind(block.conv1.in_channels, block.conv2.out_channels, 2)
    return made.eval()


@dataclass
class Importance:
    """A network and what one of Torch-Pruning's importances needs to know of it; pruned as often as one likes.

    Attributes:
        model: with layers for all that is cut; it stays whole.
        importance: Torch-Pruning's.
        gradients: of the parameters, in their order; empty where none are looked at.
    """

    model: nn.Module
    importance: Any
    gradients: list[Tensor]

    @classmethod
    def of(cls, name: str, model: nn.Module, calibration: Batches) -> Importance:
        """As the examples and docstrings of Torch-Pruning prepare it.

        Args:
            model: what `with_constants` gave.
            calibration: images, and labels for those that use gradients of the loss.
        """
        import torch_pruning as tp

        made = {
            "magnitude": tp.importance.GroupMagnitudeImportance,
            "taylor": tp.importance.GroupTaylorImportance,
            "bn_scale": tp.importance.BNScaleImportance,
            "lamp": tp.importance.LAMPImportance,
            "fpgm": tp.importance.FPGMImportance,
            "hessian": tp.importance.GroupHessianImportance,
            "activation": tp.importance.ActivationImportance,
            "random": tp.importance.RandomImportance,
        }[name]()
        found = cls(model, made, [])
        if name == "activation":
            with torch.no_grad(), made.compute_importance(model):
                model(torch.cat([images for images, _ in calibration]))  # it keeps the last batch alone
        if name in ("taylor", "hessian"):
            found.gradients = _squares(model, calibration) if name == "hessian" else _sums(model, calibration)
        return found

    def cut(self, ratio: float | Mapping[str, float], seed: int = 0) -> tuple[nn.Module, History]:
        """The pruned network, in evaluation mode, and what went.

        Args:
            ratio: of all channels, in one ranking; or by the names of layers.
        """
        import torch_pruning as tp

        model, importance = copy.deepcopy((self.model, self.importance))
        for parameter, gradient in zip(model.parameters(), self.gradients, strict=False):
            parameter.grad = gradient.clone()
        by_layer = None if isinstance(ratio, float) else {model.get_submodule(n): r for n, r in ratio.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Its defaults for the last three are dicts shared between calls: always pass new ones.
            pruner = tp.pruner.BasePruner(
                model,
                torch.zeros(1, 3, 32, 32),
                importance=importance,
                global_pruning=by_layer is None,
                pruning_ratio=ratio if isinstance(ratio, float) else 0.0,
                pruning_ratio_dict=by_layer,
                ignored_layers=[_classifier(model)],
                num_heads={},
                in_channel_groups={},
                out_channel_groups={},
            )
            for group in pruner.step(interactive=True):
                group.prune()
        model.zero_grad(set_to_none=True)
        for module in model.modules():
            if isinstance(module, Constant):
                module.requires_grad_(False)
        return model.eval(), [(name, out, list(map(int, which))) for name, out, which in pruner.pruning_history()]


def channels_of(history: History, analysis: Analysis) -> Gone:
    """The channels of fxprune's groups that a history of Torch-Pruning's took.

    Raises:
        ValueError: it took part of a channel.
    """
    gone: dict[str, set[int]] = {}
    for layer, out, which in history:
        found = 0
        for group in analysis.free:
            for member in group.members:
                if member.name.rpartition(".")[0] == layer and member.axis == (0 if out else 1):
                    inside = np.isin(member.indices, which)
                    if (inside.any(1) != inside.all(1)).any():
                        raise ValueError(f"Torch-Pruning took a part of a channel of {layer}")
                    gone.setdefault(group.id, set()).update(np.flatnonzero(inside.all(1)).tolist())
                    found += int(inside.sum())
                    break
        if found < len(set(which)):
            raise ValueError(f"Torch-Pruning took channels of {layer} that fxprune does not know")
    return {name: np.array(sorted(channels), np.int64) for name, channels in gone.items()}


def _classifier(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _sums(model: nn.Module, calibration: Batches) -> list[Tensor]:
    """Gradients of the loss, added up over the batches."""
    model.zero_grad(set_to_none=True)
    for images, labels in calibration:
        F.cross_entropy(model(images), labels).backward()
    return _taken(model)


def _squares(model: nn.Module, calibration: Batches) -> list[Tensor]:
    """Mean over the images of the squared gradients of their losses."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    count = 0
    for images, labels in calibration:
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(image), label).backward()
            total = [t + g.square() for t, g in zip(total, _taken(model), strict=True)]
            count += 1
    return [t / count for t in total]


def _taken(model: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return found
