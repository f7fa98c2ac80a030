"""Masked equivalence: the slim model must compute what the original does with the removed channels zeroed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.analysis.cut import Cut
from fxprune.errors import InputError
from fxprune.inputs.examples import own_copy, random_like
from fxprune.labels.store import axes_in
from fxprune.proofs.errors import relative_error
from fxprune.state import place_of, shallow_copy, sliced
from fxprune.tracing.module import build

__all__ = ["masked_error"]


def masked_error(cut: Cut, model: nn.Module, slim: fx.GraphModule, seed: int = 0) -> float:
    """Relative difference between `slim` and `model` with the removed channels zeroed at every node.

    Where a statistic runs over removed channels (LayerNorm, softmax, mean, ...), the reference runs that one operation
    of the slim model over the kept channels, and puts the result back among zeros.
    """
    traced = cut.analysis.traced
    reference, origin = build(traced, model, dict(traced.constants))
    slim = shallow_copy(slim)
    device, dtype = place_of(model)
    if dtype in (torch.float16, torch.bfloat16):
        reference, slim, dtype = copy.deepcopy(reference).float(), copy.deepcopy(slim).float(), torch.float32
    origin = _renamed(origin, reference)
    reference.eval()
    slim.eval()
    args, named = (random_like(v, device, dtype, seed) for v in traced.inputs)
    inputs = (*args, *named.values())
    with torch.no_grad():
        found = slim(*(own_copy(args)), **own_copy(named))
        expected = _Masked(reference, origin, cut, slim).run(*own_copy(inputs))
    return relative_error(found, expected)


def _renamed(origin: dict[fx.Node, fx.Node], module: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    by_name = {new.name: old for new, old in origin.items()}
    return {node: by_name[node.name] for node in module.graph.nodes}


class _Masked(fx.Interpreter):
    """Runs the original with removed channels zeroed in every node's result."""

    def __init__(self, module: fx.GraphModule, origin: Mapping[fx.Node, fx.Node], cut: Cut, slim: fx.GraphModule) -> None:
        super().__init__(module)
        self.origin, self.cut, self.traced = origin, cut, cut.analysis.traced
        self.slim = slim
        self.slim_nodes = {n.name: n for n in slim.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        old = self.origin[n]
        axes = self.traced.axes[old]
        if old.name in self.traced.mode.statistics_nodes and self._loses(n):
            return self._statistic(n, axes)
        value = super().run_node(n)
        if n.op in ("placeholder", "output"):
            return value
        if n.op == "get_attr" and isinstance(value, Tensor):
            value = value.clone()
        return self._mask(value, axes)

    def _loses(self, n: fx.Node) -> bool:
        axes = axes_in([self.traced.axes[self.origin[source]] for source in n.all_input_nodes])
        return any(self.cut.kept(a) is not None for a in axes)

    def _mask(self, value: Any, axes: Any) -> Any:
        """Zero what went, in place, so that views of one memory stay views of one memory."""

        def zeroed(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            for dim, axis in enumerate(axes):
                kept = self.cut.kept(axis)
                if kept is None:
                    continue
                gone = torch.from_numpy(np.setdiff1d(np.arange(axis.size), kept)).to(v.device)
                if 0 in v.stride():
                    v = v.clone()
                v.index_fill_(dim, gone, 0)
            return v

        return nested.map(zeroed, value, axes)

    def _statistic(self, n: fx.Node, axes: Any) -> Any:
        """Run the slim model's operation on the kept entries; zeros stand where channels went."""
        node = self.slim_nodes[n.name]

        def argument(source: fx.Node) -> Any:
            mine = next((m for m in n.all_input_nodes if m.name == source.name), None)
            if mine is None:
                return _attribute(self.slim, source)
            return self._compress(self.env[mine], self.traced.axes[self.origin[mine]])

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        if node.op == "call_module":
            value = self.slim.get_submodule(str(node.target))(*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            value = node.target(*args, **kwargs)
        return self._expand(value, axes)

    def _compress(self, value: Any, axes: Any) -> Any:
        def kept_of(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            return sliced(v, {d: k for d, a in enumerate(axes) if (k := self.cut.kept(a)) is not None})

        return nested.map(kept_of, value, axes)

    def _expand(self, value: Any, axes: Any) -> Any:
        def spread(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            for dim, axis in enumerate(axes):
                kept = self.cut.kept(axis)
                if kept is not None:
                    shape = list(v.shape)
                    shape[dim] = axis.size
                    whole = v.new_zeros(shape)
                    v = whole.index_copy_(dim, torch.from_numpy(kept).to(v.device), v)
            return v

        return nested.map(spread, value, axes)


def _attribute(module: nn.Module, node: fx.Node) -> Any:
    if node.op != "get_attr":
        raise InputError(f"the slim model computes {node.name} for a statistic, which cannot be checked alone")
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found
