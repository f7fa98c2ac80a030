"""Every network of the table with random weights, and its slim half."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from helpers import named_tensors, to_double
from networks import NETWORKS, Network
from torch import nn

import fxprune
from fxprune.analysis.analysis import Analysis
from fxprune.proofs.randomize import randomize
from fxprune.tracing.untouched import seed_all
from tests.kinds import sampled

each = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS.keys())
each_scope = pytest.mark.parametrize("scope", ["layer", pytest.param("global", marks=pytest.mark.slow)])
some = pytest.mark.parametrize("net", sampled([pytest.param(net, id=name) for name, net in NETWORKS.items()], 5))


def model_of(net: Network) -> nn.Module:
    """The network with random values in every parameter, in float64 and train mode."""
    seed_all(0)
    return randomize(net.build(), 1).double()


def inputs_of(net: Network, batch: int = 2) -> tuple[Any, ...]:
    found: tuple[Any, ...] = to_double(net.inputs(batch))
    return found


@functools.cache
def analyzed(net_id: str) -> Analysis:
    """Of that network, what goes with what; no test may change it."""
    net = NETWORKS[net_id]
    return fxprune.analyze(model_of(net), inputs_of(net))


@functools.cache
def pruned(net_id: str, scope: str) -> tuple[nn.Module, Any]:
    """The original and its slim half; neither may be changed by a test."""
    net = NETWORKS[net_id]
    model = model_of(net)
    return model, fxprune.prune(model, 0.5, inputs_of(net), scope=scope)


@functools.cache
def verified(net_id: str, scope: str) -> fxprune.Checks:
    """All that is proved of them."""
    return fxprune.verify(*pruned(net_id, scope), latency=False)


def seeded_run(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> Any:
    """The output in a mode, with the same random numbers each time."""
    model.train(training)
    seed_all(3)
    with torch.no_grad():
        return model(*copy.deepcopy(inputs))


def run_and_put_back(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> Any:
    """As on a copy of the model, which takes longer to make than to run."""
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    modes = [(part, part.training) for part in model.modules()]
    result = copy.deepcopy(seeded_run(model, inputs, training))
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(before[name])
    for part, training in modes:
        part.training = training
    return result
