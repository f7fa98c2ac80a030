"""Torch-Pruning 1.6.1 on a model of a library, as its README says."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from measure import tensors
from torch import Tensor, nn
from zoo.base import Entry, call

__all__ = ["prune_with_peer"]


def prune_with_peer(entry: Entry, ratio: float, batch: int, scope: str) -> dict[str, Any]:
    """Time, MACs and parameters, and whether the output has the shapes of the original.

    As in its README: magnitude importance, `pruning_ratio`, `output_transform`, and the layers that make the outputs
    ignored. Those are the modules that the entry names, and every layer with as many outputs as an output of the model has
    channels.

    Raises:
        Exception: whatever it raises; AssertionError where the pruned model gives other shapes.
    """
    import torch_pruning as tp

    model = entry.make().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    inputs = entry.inputs(batch)
    before = _shapes(model, inputs)
    macs = _macs(model, inputs)
    params = sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model,
        inputs if isinstance(inputs, dict) or len(inputs) > 1 else inputs[0],
        importance=tp.importance.MagnitudeImportance(p=2),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        ignored_layers=_ignored(model, entry, before),
        output_transform=_with_gradient,
        # Its defaults for these are dicts shared between calls.
        num_heads={},
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()
    seconds = time.perf_counter() - start
    found = _shapes(model, inputs)
    if found != before:
        raise AssertionError(f"the pruned model gives {found[:3]}, the original {before[:3]}")
    return {
        "seconds": round(seconds, 3),
        "macs": [macs, _macs(model, inputs)],
        "params": [params, sum(p.numel() for p in model.parameters())],
    }


def _with_gradient(output: Any) -> list[Tensor]:
    """The first tensor of an output, of a class that it may not know, in a list: of all of them it takes for ever."""
    return [t for t in tensors(output) if t.grad_fn is not None][:1]


def _ignored(model: nn.Module, entry: Entry, outputs: list[tuple[int, ...]]) -> list[nn.Module]:
    widths = {shape[axis] for shape in outputs for axis in ((1, -1) if len(shape) > 2 else (-1,) if shape else ())}
    found = [m for m in model.modules() if _width(m) in widths]
    for name in entry.outputs:
        module = [*model.children()][-1] if name == "head" and not hasattr(model, "head") else model.get_submodule(name)
        module = module[-1] if isinstance(module, nn.Sequential) and name == "head" else module
        found += [m for m in module.modules() if not any(m is f for f in found)]
    return found


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else -1


def _shapes(model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(t.shape) for t in tensors(call(copy.deepcopy(model), inputs))]


def _macs(model: nn.Module, inputs: Any) -> int:
    """MACs of one sample by `torch.utils.flop_counter`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    twin = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad(), counter:
        call(twin, inputs)
    return round(counter.get_total_flops() / 2 / max(int(tensors(inputs)[0].shape[0]), 1))
