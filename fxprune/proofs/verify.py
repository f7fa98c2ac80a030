"""Proofs: the groups are right (permutation invariance) and the rewrite is right (masked equivalence)."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.analysis.analysis import Analysis, analyze_model, axes_in
from fxprune.errors import InputError
from fxprune.inputs.examples import example_of, random_like, settle_inputs
from fxprune.labels.store import Axis
from fxprune.planning.plan import Plan, fingerprint
from fxprune.planning.report import Checks, report_of
from fxprune.proofs.occurrences import Occurrences
from fxprune.state import copied, named_tensors, place_of, replace_tensors, shallow_copy, sliced
from fxprune.tracing.module import build

__all__ = ["masked_error", "permutation_error", "randomize", "relative_error", "tolerance_of", "verify_pair"]


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic of `model` random values of amplitude about 1, in place.

    Default initialisation hides errors (zero tables, unit scales, weights of 0.02). Weights of layers are scaled by
    their fan-in, so that activations stay near 1. Returns the model.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    with torch.no_grad():
        for _, tensor in model.named_parameters():
            shape = tensor.shape
            if not tensor.is_floating_point():
                continue
            if len(shape) < 2:
                sign = torch.randint(0, 4, shape, generator=generator).clamp(max=1) * 2 - 1
                tensor.copy_((0.5 + torch.rand(shape, generator=generator)) * sign)
            elif shape[0] == 1 or (min(shape) == 1 and len(shape) < 4):
                normal(tensor, 1.0)
            else:
                normal(tensor, float(np.prod(shape[1:])) ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                normal(buffer, 0.5)
    return model


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference of nested outputs, relative to the largest entry of each tensor; NaN equals NaN."""
    a, b = nested.tensors(found), nested.tensors(expected)
    if len(a) != len(b):
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape:
            return float("inf")
        if not x.numel():
            continue
        x, y = x.detach().double(), y.detach().double()
        if not torch.equal(x.isfinite(), y.isfinite()):
            return float("inf")
        finite = y.isfinite()
        if finite.any():
            x, y = x[finite], y[finite]
            worst = max(worst, float((x - y).abs().max() / y.abs().max().clamp_min(1e-30)))
    return worst


def tolerance_of(model: nn.Module) -> float:
    """What counts as rounding: 1e-9 in float64, 1e-4 otherwise (half precision is checked in float32)."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return 1e-9 if dtype is torch.float64 else 1e-4


# -- masked equivalence ------------------------------------------------------------------------------------------------


def masked_error(analysis: Analysis, removed: np.ndarray, model: nn.Module, slim: fx.GraphModule, seed: int = 0) -> float:
    """Relative difference between `slim` and `model` with the removed channels zeroed at every node.

    Where a statistic runs over removed channels (LayerNorm, softmax, mean, ...), the reference runs that one operation
    of the slim model over the kept channels, and puts the result back among zeros.
    """
    reference, origin = build(analysis.traced, model, dict(analysis.traced.constants))
    slim = shallow_copy(slim)
    device, dtype = place_of(model)
    if dtype in (torch.float16, torch.bfloat16):
        reference, slim, dtype = copy.deepcopy(reference).float(), copy.deepcopy(slim).float(), torch.float32
    origin = _renamed(origin, reference)
    reference.eval()
    slim.eval()
    args, named = (random_like(v, device, dtype, seed) for v in analysis.traced.inputs)
    inputs = (*args, *named.values())
    with torch.no_grad():
        found = slim(*(_copy_inputs(args)), **_copy_inputs(named))
        expected = _Masked(reference, origin, analysis, removed, slim).run(*_copy_inputs(inputs))
    return relative_error(found, expected)


def _renamed(origin: dict[fx.Node, fx.Node], module: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    by_name = {new.name: old for new, old in origin.items()}
    return {node: by_name[node.name] for node in module.graph.nodes}


class _Masked(fx.Interpreter):
    """Runs the original with removed channels zeroed in every node's result."""

    def __init__(
        self,
        module: fx.GraphModule,
        origin: Mapping[fx.Node, fx.Node],
        analysis: Analysis,
        removed: np.ndarray,
        slim: fx.GraphModule,
    ) -> None:
        super().__init__(module)
        self.origin, self.analysis, self.removed = origin, analysis, removed
        self.slim = slim
        self.slim_nodes = {n.name: n for n in slim.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        old = self.origin[n]
        axes = self.analysis.traced.axes[old]
        if old.name in self.analysis.traced.mode.statistics_nodes and self._loses(n):
            return self._statistic(n, axes)
        value = super().run_node(n)
        if n.op in ("placeholder", "output"):
            return value
        if n.op == "get_attr" and isinstance(value, Tensor):
            value = value.clone()
        return self._mask(value, axes)

    def _kept(self, axis: Axis) -> np.ndarray | None:
        return self.analysis.kept(axis, self.removed)

    def _loses(self, n: fx.Node) -> bool:
        return any(
            self._kept(a) is not None
            for source in n.all_input_nodes
            for a in axes_in(self.analysis.traced.axes[self.origin[source]])
        )

    def _mask(self, value: Any, axes: Any) -> Any:
        """Zero what went, in place, so that views of one memory stay views of one memory."""

        def zeroed(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            for dim, axis in enumerate(axes):
                kept = self._kept(axis)
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
            return self._compress(self.env[mine], self.analysis.traced.axes[self.origin[mine]])

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
            return sliced(v, {d: k for d, a in enumerate(axes) if (k := self._kept(a)) is not None})

        return nested.map(kept_of, value, axes)

    def _expand(self, value: Any, axes: Any) -> Any:
        def spread(v: Any, axes: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            for dim, axis in enumerate(axes):
                kept = self._kept(axis)
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


# -- permutation invariance --------------------------------------------------------------------------------------------


def permutation_error(analysis: Analysis, model: nn.Module, seed: int = 0) -> float:
    """Relative change of the output of `model` when the channels of every free group are permuted, wherever they occur.

    Channels change places with those that play the same part in the model (`fxprune.proofs.occurrences`).
    """
    random = np.random.default_rng(seed)
    original = shallow_copy(model).eval()
    permuted = shallow_copy(model).eval()
    device, dtype = place_of(model)
    if dtype in (torch.float16, torch.bfloat16):
        original, permuted, dtype = copy.deepcopy(original).float(), copy.deepcopy(permuted).float(), torch.float32
    tensors = dict(permuted.named_parameters()) | dict(permuted.named_buffers())
    data = {name: tensor.detach() for name, tensor in tensors.items()}
    occurrences = Occurrences(analysis)
    for group in analysis.free:
        order = np.arange(group.size)
        for part in occurrences.parts(group):
            order[part] = random.permutation(part)
        for member in group.members:
            index = np.arange(data[member.name].shape[member.axis])
            entries = occurrences.indices(group, member)
            index[entries.ravel()] = entries[order].ravel()
            picked = torch.from_numpy(index).to(device)
            data[member.name] = data[member.name].index_select(member.axis, picked)
    replace_tensors(permuted, {id(t): copied(t, data[name]) for name, t in tensors.items() if data[name] is not t})
    args, named = (random_like(v, device, dtype, seed) for v in analysis.traced.inputs)
    with torch.no_grad():
        expected = original(*_copy_inputs(args), **_copy_inputs(named))
        found = permuted(*_copy_inputs(args), **_copy_inputs(named))
    return relative_error(found, expected)


# -- both, and the numbers ---------------------------------------------------------------------------------------------


def verify_pair(model: nn.Module, slim: Any, example_inputs: Any, *, latency: bool, seed: int) -> Checks:
    """See `fxprune.verify`."""
    plan = _plan_of(slim)
    if fingerprint(model) != plan.fingerprint:
        raise InputError("slim was not made from a model like this one: names or shapes of parameters differ")
    args, named = example_of(plan.example) if example_inputs is None else settle_inputs(model, example_inputs)
    analysis = analyze_model(model, args, named, attention=plan.options["attention"], ignore=plan.options["ignore"])
    gone = {g.id: np.asarray(g.removed) for g in plan.groups if g.removed}
    removed = analysis.removed(gone)
    random_model = randomize(copy.deepcopy(model), seed)
    permuted, masked, tolerance = _prove(random_model, slim, analysis, removed, seed)
    pruned = [analysis.group(name) for name in gone]
    checks = Checks(
        permutation_error=permuted,
        masked_error=masked,
        exact_groups=sum(g.exact for g in pruned),
        statistics_groups=sum(not g.exact for g in pruned),
        macs=plan.macs,
        params=plan.params,
        flop_counter=(count_macs(model, analysis), count_macs(slim, analysis)),
        tolerance=tolerance,
    )
    if latency:
        checks.latency = _latency(model, slim, analysis)
    return checks


def _prove(
    model: nn.Module, slim: fx.GraphModule, analysis: Analysis, removed: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """Both errors and their tolerance: in the model's precision, or in float64 where rounding alone grows too large."""
    tolerance = tolerance_of(model)
    permuted = permutation_error(analysis, model, seed)
    masked = masked_error(analysis, removed, model, _refilled(slim, analysis, removed, model), seed)
    if max(permuted, masked) <= tolerance or place_of(model)[1] is not torch.float32:
        return permuted, masked, tolerance
    try:
        return _prove(copy.deepcopy(model).double(), copy.deepcopy(slim).double(), analysis, removed, seed)
    except RuntimeError:  # the model's code names float32
        return permuted, masked, tolerance


def masked_error_and_tolerance(
    analysis: Analysis, removed: np.ndarray, model: nn.Module, slim: fx.GraphModule
) -> tuple[float, float]:
    """`masked_error` in the model's precision, or in float64 where rounding alone grows too large."""
    error, tolerance = masked_error(analysis, removed, model, slim), tolerance_of(model)
    if error <= tolerance or place_of(model)[1] is not torch.float32:
        return error, tolerance
    try:
        wide = copy.deepcopy(model).double()
        return masked_error(analysis, removed, wide, copy.deepcopy(slim).double()), tolerance_of(wide)
    except RuntimeError:  # the model's code names float32
        return error, tolerance


def count_macs(model: nn.Module, analysis: Analysis) -> int:
    """MACs of one sample by `torch.utils.flop_counter`, on the meta device (no weights, fused attention counted)."""
    from torch.utils.flop_counter import FlopCounterMode

    from fxprune.tracing.skeleton import skeleton_of

    skeleton, _ = skeleton_of(model)
    skeleton.requires_grad_(False)  # the counter's hooks fail on a parameter that is passed to a module
    args, named = analysis.traced.inputs
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.device("meta"), counter:  # constants that forward makes, too
        skeleton.eval()(*args, **named)
    return round(counter.get_total_flops() / 2 / analysis.batch)


def _refilled(slim: fx.GraphModule, analysis: Analysis, removed: np.ndarray, model: nn.Module) -> fx.GraphModule:
    """The graph of `slim` with the kept weights of `model`."""
    kept = analysis.kept_tensors(removed)
    source = named_tensors(model)
    new = shallow_copy(slim)
    replace_tensors(
        new,
        {
            id(t): copied(t, sliced(source[n], kept.get(n, {})))
            for n, t in (*new.named_parameters(), *new.named_buffers())
            if n in source
        },
    )
    return new


def _latency(model: nn.Module, slim: nn.Module, analysis: Analysis, rounds: int = 7) -> tuple[float, float]:
    """Median seconds of one forward each, measured in turns on the example inputs."""
    device, dtype = place_of(model)
    args, named = (random_like(v, device, dtype) for v in analysis.traced.inputs)
    pair = (shallow_copy(model).eval(), shallow_copy(slim).eval())
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for turn in range(rounds + 1):
            for module, found in zip(pair, seconds, strict=True):
                start = time.perf_counter()
                module(*_copy_inputs(args), **_copy_inputs(named))
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if turn:
                    found.append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def _plan_of(slim: Any) -> Plan:
    report = report_of(slim) if isinstance(slim, fx.GraphModule) else None
    if report is None:
        raise InputError("slim must be the GraphModule, or model with pruned submodules, of fxprune.prune or fxprune.apply")
    return report.plan


def _copy_inputs(value: Any) -> Any:
    """Inputs that a model may write into."""
    return nested.map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)
