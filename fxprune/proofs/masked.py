"""Masked equivalence: the slim model must compute what the original does with the removed channels zeroed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from fxprune import nested
from fxprune.analysis.cut import Cut
from fxprune.errors import PruneError
from fxprune.inputs.examples import own_copy, random_like
from fxprune.labels.store import axes_in
from fxprune.proofs.errors import relative_error
from fxprune.proofs.norm_references import arguments_of_layer
from fxprune.proofs.one_precision import in_one_precision
from fxprune.proofs.precision import precision_of, tolerance_of
from fxprune.proofs.references import Whole, reference_of
from fxprune.state import named_tensors, place_of, sliced
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.module import build
from fxprune.tracing.graphs.one_mode import without_checks
from fxprune.tracing.untouched import seed_all, twin_of

__all__ = ["MaskedRun", "SizesMixed", "masked_error", "masked_run"]


def masked_error(cut: Cut, model: nn.Module, slim: fx.GraphModule, seed: int = 0, dtype: torch.dtype | None = None) -> float:
    """Relative difference between `slim` and `model` with the removed channels zeroed at every node, and zeros in place of
    what removed branches add.

    Where a statistic runs over removed channels (LayerNorm, softmax, mean, ...), it is taken over the kept ones with the
    original's weights and settings, as `fxprune.proofs.references` has it, and put back among zeros; at the norms of
    `Cut.exact_norms` over all channels, zeros included, by the original's operator. An operator without a reference runs as
    the slim model has it: its settings are all that is not checked then. Both models run in float32 or float64: `dtype`, or
    what `precision_of` says.
    """
    return masked_run(cut, model, slim, seed, dtype).error


@dataclass(frozen=True)
class MaskedRun:
    """Both outputs, and the nodes with a statistic over channels that go.

    Attributes:
        found, expected: what the slim model returns, and the masked original.
        referenced, own: statistics that a reference computed, and those that the slim model's own operator did.
    """

    found: Any
    expected: Any
    referenced: list[str]
    own: list[str]

    @property
    def error(self) -> float:
        """The relative difference of the outputs."""
        return relative_error(self.found, self.expected)


def masked_run(
    cut: Cut, model: nn.Module, slim: fx.GraphModule, seed: int = 0, dtype: torch.dtype | None = None, inputs: Any = None
) -> MaskedRun:
    """Run `slim` and what `model` does with the removed channels zeroed: see `masked_error`.

    Args:
        inputs: positional and keyword inputs whose shapes count; those of the example if not given.

    Raises:
        SizesMixed: axes that lose entries follow the sizes of the inputs.
    """
    traced = cut.analysis.traced
    device, own = place_of(model)
    dtype = dtype or precision_of(model)
    wide = None if own is dtype else dtype
    constants = {n: t.to(wide) if wide and t.is_floating_point() else t.clone() for n, t in traced.constants.items()}
    reference, origin = build(traced, twin_of(model, wide), constants)
    slim = twin_of(slim, wide)
    reference, slim = without_checks(reference).eval(), without_checks(slim).eval()
    args, named = random_like(inputs or traced.example, device, dtype, seed)
    with torch.no_grad(), in_one_precision(reference.graph, dtype):
        seed_all(seed)
        found = slim(*own_copy(args), **own_copy(named))
        seed_all(seed)
        masked = _Masked(reference, {new.name: old for new, old in origin.items()}, cut, slim)
        try:
            expected = masked.run(*own_copy((*args, *named.values())))
        except SizesMixed:
            if inputs is not None:
                raise
            return masked_run(cut, model, slim, seed, dtype, traced.inputs)
    return MaskedRun(found, expected, masked.referenced, masked.own)


_HOLDS = {dtype: tolerance_of(dtype) for dtype in (torch.float32, torch.float64)}


class SizesMixed(Exception):
    """An axis that loses entries has another size on these inputs than on those that were recorded: which go is not known."""


class _Masked(fx.Interpreter):
    """Runs the original with removed channels zeroed in every node's result.

    Attributes:
        branches: sum -> what a removed branch adds to it, by names of traced nodes.
        origin: name of a node -> the traced node.
        slim: runs single operations of the slim model, whose nodes have the names of the original's.
        referenced, own: statistics that were computed by a reference, and those that the slim model's operator computed.
    """

    def __init__(self, module: fx.GraphModule, origin: Mapping[str, fx.Node], cut: Cut, slim: fx.GraphModule) -> None:
        super().__init__(module)
        self.origin, self.cut, self.traced = origin, cut, cut.analysis.traced
        self.slim = fx.Interpreter(slim)
        self.slim_nodes = {n.name: n for n in slim.graph.nodes}
        self.referenced: list[str] = []
        self.own: list[str] = []
        analysis = cut.analysis
        gone = [analysis.branches.all[name] for name in analysis.without_branches]
        self.branches = {branch.add: branch.operand for branch in gone}

    def run_node(self, n: fx.Node) -> Any:
        if n.meta.get("mode") == "training":
            return None
        with entered(n, gradients=False):
            return self._masked(n)

    def _masked(self, n: fx.Node) -> Any:
        old = self.origin[n.name].name
        if old in self.cut.analysis.dropped:  # it runs as it is: what it gives is multiplied by zero
            return super().run_node(n)
        if old in self.branches:
            self._without(n, self.branches[old])
        axes = self._axes(n)
        if old in self.traced.mode.statistics_nodes and old not in self.cut.exact_norms and self._loses(n):
            value = self._by_reference(n)
            return self._statistic(n, axes) if value is NotImplemented else self._expand(value, axes)
        value = super().run_node(n)
        if n.op in ("placeholder", "output"):
            return value
        if n.op == "get_attr" and isinstance(value, Tensor) and not any("acts" in user.meta for user in n.users):
            value = value.clone()  # where somebody writes into it, all others have to see that
        if "acts" in n.meta:  # what it wrote into holds something where channels went
            for source in n.all_input_nodes:
                self._mask(self.env[source], self._axes(source))
        return self._mask(value, axes)

    def _without(self, n: fx.Node, operand: str) -> None:
        """A sum gets zeros in place of a branch."""
        source = next(s for s in n.all_input_nodes if self.origin[s.name].name == operand)
        self.env[source] = torch.zeros_like(self.env[source])

    def _axes(self, n: fx.Node) -> Any:
        return self.traced.axes[self.origin[n.name]]

    def _loses(self, n: fx.Node) -> bool:
        return any(self.cut.kept(a) is not None for a in axes_in([self._axes(source) for source in n.all_input_nodes]))

    def _mask(self, value: Any, axes: Any) -> Any:
        """Zero what went, in place, so that views of one memory stay views of one memory."""

        def zeroed(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            for dim, axis in enumerate(axes):
                kept = self.cut.kept(axis)
                if kept is None:
                    continue
                if v.shape[dim] != axis.size:
                    raise SizesMixed
                lost = np.ones(axis.size, bool)
                lost[kept] = False
                gone = torch.from_numpy(np.flatnonzero(lost)).to(v.device)
                if 0 in v.stride():  # entries of an expanded tensor share memory
                    v = v.clone()
                v.index_fill_(dim, gone, 0)
            return v

        if isinstance(value, (list, tuple)) and len(value) != len(axes):  # a part for each sample, or for several
            if any(self.cut.kept(a) is not None for a in axes_in([axes])):
                raise SizesMixed
            return value
        return nested.map(zeroed, value, axes)

    def _by_reference(self, n: fx.Node) -> Any:
        """What a reference computes of the kept entries; NotImplemented where there is none that holds.

        That it holds for these arguments is tried on all entries, where the original's operator says what is right.
        """
        args, kwargs = fx.node.map_arg((n.args, n.kwargs), self.env.__getitem__)
        axes = fx.node.map_arg((n.args, n.kwargs), self._axes)
        name = str(n.target)
        tensors: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        if n.op == "call_module":
            layer = self.module.get_submodule(name)
            name, tensors = arguments_of_layer(layer, named_tensors(layer))
            kept = arguments_of_layer(layer, self._kept_tensors(str(n.target)))[1]
        elif n.op == "call_function":
            name = getattr(n.target, "__name__", "")
        function, first = reference_of(name), next(iter(nested.tensors((args, kwargs))), None)
        if function is None or first is None:
            return NotImplemented
        sizes = tuple(first.shape)
        of_first = tuple(self.cut.kept(a) for a in self._axes(n.all_input_nodes[0]))
        try:
            all_of_it = function(Whole(sizes, (None,) * len(sizes)), *args, **kwargs, **tensors)
            if all_of_it is NotImplemented or not relative_error(all_of_it, super().run_node(n)) <= _HOLDS[first.dtype]:
                return NotImplemented
            args, kwargs = self._compress((args, kwargs), axes)
            value = function(Whole(sizes, of_first), *args, **kwargs, **kept)
        except (TypeError, RuntimeError, ValueError, IndexError, KeyError, AttributeError):  # other arguments than it knows
            return NotImplemented
        self.referenced.append(n.name)
        return value

    def _statistic(self, n: fx.Node, axes: Any) -> Any:
        """Run the slim model's operation on the kept entries; zeros stand where channels went."""
        self.own.append(n.name)
        node = self.slim_nodes.get(n.name)
        if node is None:
            raise PruneError(
                f"a pass took out the node {n.name}, a statistic over channels that go, which cannot be checked without it: "
                "the node must stay, under its name"
            )
        here, there = _read_by(n), _read_by(node)
        # A pass may have put another node in the place of one that it took out. The original's value at that place is
        # what counts: if the slim model computes another there, its output tells.
        places = dict(zip(there, here, strict=True)) if len(here) == len(there) else {}
        inputs = {source.name: source for source in n.all_input_nodes}

        def argument(source: fx.Node) -> Any:
            mine = inputs.get(source.name, None if source.op == "get_attr" else places.get(source))
            if mine is not None:
                return self._compress(self.env[mine], self._axes(mine))
            if source.op == "get_attr":
                return self.slim.fetch_attr(str(source.target))
            raise PruneError(f"the slim model computes {source.name} for a statistic, which cannot be checked alone")

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        if node.op == "call_module":
            # With the original's weights, so that those of the slim model are checked here, too.
            module, tensors = self.slim.fetch_attr(str(node.target)), self._kept_tensors(str(n.target))
            value = functional_call(module, tensors, args, kwargs, tie_weights=False)
        else:
            value = getattr(self.slim, node.op)(node.target, args, kwargs)
        return self._expand(value, axes)

    def _kept_tensors(self, target: str) -> dict[str, Tensor]:
        """What remains of the tensors of a module of the original."""
        labelled = named_tensors(self.traced.skeleton.get_submodule(target))
        tensors = named_tensors(self.module.get_submodule(target))
        return {name: self._compress(t, self.traced.mode.axes(labelled[name])) for name, t in tensors.items()}

    def _compress(self, value: Any, axes: Any) -> Any:
        def kept_of(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            kept = {d: k for d, a in enumerate(axes) if (k := self.cut.kept(a)) is not None}
            if any(v.shape[d] != axes[d].size for d in kept):
                raise SizesMixed
            return sliced(v, kept)

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


def _read_by(node: fx.Node) -> list[fx.Node]:
    """The nodes in the arguments of a node, in their order, as often as they stand there."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), lambda n: found.append(n))
    return found
