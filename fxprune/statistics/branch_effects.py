"""What a model's output loses with each residual branch: measured on images, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError
from fxprune.inputs.batches import Batch, Names, inputs_of, read_batch
from fxprune.state import clone_tensors, place_of
from fxprune.statistics.running import each_batch
from fxprune.statistics.walk import failing
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.module import build
from fxprune.tracing.graphs.one_mode import without_checks

__all__ = ["branch_effects"]

_IMAGES = 64
_FEWEST = 8
_WORK = 5e11  # multiply-accumulates of all runs


def branch_effects(model: nn.Module, analysis: Analysis, data: Iterable[Any], batches: int | None = None) -> dict[str, float]:
    """``{branch: E}`` of the branches that may go: how far the output is off with zeros in place of what a branch adds,

        E = sum |output without - output|^2 / sum |output - mean output|^2

    over up to 64 images, fewer of large models (the runs together take 0.5 TMACs, or 8 images each). It is the measure of
    `fxprune.repair`: 1 is what a constant output would be off.

    Args:
        data: an iterable of batches as `fxprune.prune` takes them; labels are not read.
        batches: read so many at most.

    Raises:
        InputError: there are no images, or they do not fit the model.
    """
    branches = [b for b in analysis.full.branches.all.values() if not b.reason]
    if not branches:
        return {}
    most = int(min(_IMAGES, max(_FEWEST, _WORK / max(analysis.full.macs() * (len(branches) + 1), 1))))
    traced = analysis.traced
    module, origin = build(traced, model, {name: t.detach().clone() for name, t in traced.constants.items()})
    clone_tensors(module)
    module = without_checks(module).eval()
    names = {new.name: old.name for new, old in origin.items()}
    inputs = inputs_of(module.graph)
    lost, spread, seen = dict.fromkeys((b.id for b in branches), 0.0), 0.0, 0
    with torch.no_grad():
        for batch in _batches(data, inputs, place_of(model)[0], batches):
            given = _first(batch, most - seen)
            seen += min(batch.images, most - seen)
            with failing("the model"):
                output = _values(_Without(module, names, "", "").run(*given))
            spread += float((output - output.mean(0)).square().sum())
            for branch in branches:
                other = _values(_Without(module, names, branch.add, branch.operand).run(*given))
                lost[branch.id] += float((other - output).square().sum())
            if seen >= most:
                break
    if not seen:
        raise InputError("data hold no batches: what branches do is measured on images")
    return {name: value / max(spread, 1e-30) for name, value in lost.items()}


class _Without(fx.Interpreter):
    """Runs a model's evaluation; one sum gets zeros in place of one operand. Nodes are named as when they were recorded."""

    def __init__(self, module: fx.GraphModule, names: dict[str, str], add: str, operand: str) -> None:
        super().__init__(module)
        self.names, self.add, self.operand = names, add, operand

    def run_node(self, n: fx.Node) -> Any:
        if n.meta.get("mode") == "training":
            return None
        if self.add and self.names.get(n.name) == self.add:
            source = next(s for s in n.all_input_nodes if self.names[s.name] == self.operand)
            self.env[source] = torch.zeros_like(self.env[source])
        with entered(n, gradients=False):
            return super().run_node(n)


def _batches(data: Iterable[Any], names: Names, device: torch.device, most: int | None) -> Iterator[Batch]:
    for number, batch in enumerate(each_batch(data)):
        if number == most:
            return
        yield read_batch(batch, names, device)


def _first(batch: Batch, images: int) -> tuple[Any, ...]:
    """Copies of the inputs of the first images: a model may write into them."""

    def part(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return (value[:images] if value.dim() and len(value) == batch.images else value).clone()

    found: tuple[Any, ...] = nested.map(part, batch.inputs)
    return found


def _values(output: Any) -> Tensor:
    """All numbers of an output, ``[images, numbers]`` where each tensor has an entry an image."""
    parts = [t.detach().double() for t in nested.tensors(output) if t.is_floating_point() and t.numel()]
    if not parts:
        return torch.zeros(1, 1)
    images = len(parts[0]) if parts[0].dim() else 1
    whole = all(t.dim() and len(t) == images for t in parts)
    return torch.cat([t.flatten(1) if whole and t.dim() > 1 else t.reshape(images if whole else 1, -1) for t in parts], 1)
