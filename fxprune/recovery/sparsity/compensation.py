"""The constants that silent channels leave, folded into the layers that read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.errors import PlanMismatch
from fxprune.inputs.acceptance import check_model, check_values
from fxprune.inputs.examples import example_of
from fxprune.planning.plan import Plan, checked_plan, fingerprint
from fxprune.recovery.sparsity.gate import mean_after_relu
from fxprune.recovery.sparsity.sites import norm_at, norm_before
from fxprune.state import deep_copy
from fxprune.statistics.spot import Spot
from fxprune.statistics.spots import Spots

__all__ = ["Compensated", "compensate"]


@dataclass(eq=False)
class Compensated:
    """What `compensate` did.

    Attributes:
        model: a copy of the model with other biases and running means.
        folded: layer that reads channels that go -> the tensor that took their constants.
        left: layer -> why it got none.
    """

    model: nn.Module
    folded: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def compensate(model: nn.Module, plan: Plan) -> Compensated:
    """Fold what the channels that a plan removes give on the mean into the layers that read them; `model` is untouched.

    What leaves a batch norm with scale gamma and shift beta is about normal (Kang & Han, "SCP", ICML 2020), so that a channel
    gives ``c = E[max(0, N(beta, gamma^2))] = beta Phi(beta / |gamma|) + |gamma| phi(beta / |gamma|)`` after ReLU: a constant
    where the channel is all but silent, and where gamma is 0 exactly. Removing the channel takes ``c`` times the sum of its
    weights over the kernel from every output of the next layer. That goes into the layer's bias, or out of the running mean
    of the batch norm that alone reads it. Exact for linear layers and convolutions without padding where gamma is 0; padding
    is zero and not ``c``, so that border outputs get too much; elsewhere right on the mean.

    It is meant for models whose channels are on when they are evaluated. A model that was trained with the masks of `SCP` has
    learnt to do without what they drop, and needs none.

    >>> import fxprune
    >>> normed = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    >>> made = compensate(normed, fxprune.plan(normed, 0.5, x))
    >>> made.folded
    {'3': '3.bias'}
    >>> slim = fxprune.apply(made.model, fxprune.plan(normed, 0.5, x))

    Args:
        plan: of `fxprune.plan` for this model, which is then applied to the result.

    Raises:
        InputError: there is no model, or no plan.
        PlanMismatch: the plan is for another model, or for submodules.
    """
    check_model(model)
    check_values(model, "compensate one that has some")
    if fingerprint(model) != checked_plan(plan).fingerprint:
        raise PlanMismatch("the plan was made for another model, or for submodules of it: names or shapes differ")
    settings = plan.settings
    args, named = example_of(plan.example)
    analysis = analyze_model(model, args, named, attention=settings.attention, ignore=settings.ignore)
    found = Compensated(deep_copy(model))
    work = _Folding(analysis, found)
    gone = plan.gone(analysis.free)
    with torch.no_grad():
        for group, spots in work.spots.of("consumer").items():
            for spot in spots:
                if group in gone:
                    work.fold(spot, np.asarray(gone[group]))
    for layer in found.folded:
        found.left.pop(layer, None)
    return found


class _Folding:
    """The layers of one model that read channels, and where the channels come from."""

    def __init__(self, analysis: Analysis, found: Compensated) -> None:
        self.analysis, self.found = analysis, found
        self.spots = Spots(analysis)
        self.nodes: dict[str, fx.Node] = {n.name: n for n in analysis.traced.graph.nodes}
        self.readers: dict[int, int] = {}  # skeleton tensor -> nodes that read it
        for node in analysis.traced.graph.nodes:
            for tensor in self._read_by(node):
                self.readers[id(tensor)] = self.readers.get(id(tensor), 0) + 1

    def _read_by(self, node: fx.Node) -> list[Tensor]:
        if node.op == "get_attr":
            tensor = self.analysis.traced.tensors.get(str(node.target))
            return [] if tensor is None else [tensor] * len(node.users)
        if node.op != "call_module":
            return []
        module = self.analysis.traced.names.modules[str(node.target)]
        return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]

    def fold(self, spot: Spot, gone: np.ndarray) -> None:
        """Fold the constants of the channels `gone` into the layer of a spot, or note why not."""
        node = self.nodes[spot.node]
        layer = str(node.target) if node.op == "call_module" else node.name
        why = self._fold(spot, node, gone)
        if why:
            self.found.left[layer] = why

    def _fold(self, spot: Spot, node: fx.Node, gone: np.ndarray) -> str:
        if node.op != "call_module":
            return "it is a function"
        assert spot.reader is not None
        norm = norm_before(self.nodes[spot.source], spot.group, self.spots.occupancy)
        scale = self._entries(f"{norm}.weight", spot.group) if norm else None
        if scale is None or scale.shape[1] != 1:
            return "what it reads is not a batch norm and ReLU alone"
        take = torch.from_numpy(np.ascontiguousarray(scale[gone, 0]))
        before: Any = self.found.model.get_submodule(norm)
        layer: Any = self.found.model.get_submodule(str(node.target))
        constants = mean_after_relu(before.weight.double().cpu()[take], before.bias.double().cpu()[take])
        weight = layer.weight.double().cpu().reshape(*layer.weight.shape[:2], -1).sum(2)  # over the kernel
        columns = torch.from_numpy(np.ascontiguousarray(spot.reader.indices[gone]))  # [channels that go, entries]
        added = weight[:, columns].sum(2) @ constants
        return self._put(node, layer, added)

    def _put(self, node: fx.Node, layer: Any, added: Tensor) -> str:
        """Into the bias, or the running mean of the norm behind; else why not."""
        name = str(node.target)
        own = self.analysis.traced.names.modules[name]
        if self.readers[id(own.weight)] > 1 or (own.bias is not None and self.readers[id(own.bias)] > 1):
            return "its weights are used at several places"
        if layer.bias is not None:
            layer.bias.add_(added.to(layer.bias))
            self.found.folded[name] = f"{name}.bias"
            return ""
        behind = [norm_at(user, self.analysis) for user in node.users]
        if len(behind) != 1 or not behind[0]:
            return "it has no bias, and no batch norm alone reads it"
        mean: Any = self.found.model.get_submodule(behind[0]).running_mean
        if self.readers[id(self.analysis.traced.names.modules[behind[0]].running_mean)] > 1:
            return "the batch norm that reads it is used at several places"
        mean.sub_(added.to(mean))
        self.found.folded[name] = f"{behind[0]}.running_mean"
        return ""

    def _entries(self, name: str, group: str) -> np.ndarray | None:
        members = [m.indices for m in self.analysis.group(group).members if m.name == name]
        return members[0] if len(members) == 1 else None
