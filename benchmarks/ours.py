"""Everything that a user would do with a pruned model, as stages."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from measure import first_line, memory, reset_peak, resized, shapes, shapes_on_meta, tensors
from stages import Stages
from torch import Tensor, fx, nn

import fxprune
from fxprune.inputs.models import load_model
from fxprune.inputs.sizes import infer_example_inputs

__all__ = ["check_fxprune", "fixed_entries", "free_share"]

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
GROWTH = 64  # pixels by which the other resolution is larger: a multiple of every patch and window stride
OTHER_BATCH = 3


def check_fxprune(spec: str, ratio: float, scope: Any, attention: Any, stage: Stages) -> None:
    """Prune one model and try everything that a user would do with the result."""
    model: nn.Module
    slim: fx.GraphModule
    inputs: tuple[Tensor, ...] = ()

    def build() -> dict[str, Any]:
        nonlocal model, inputs
        torch.manual_seed(0)
        model = load_model(spec).eval()
        inputs = infer_example_inputs(model) or ()
        return {"parameters": sum(p.numel() for p in model.parameters()), "input": shapes(inputs)}

    def analyze() -> dict[str, Any]:
        analysis = fxprune.analyze(model, attention=attention)
        frozen: dict[str, int] = {}
        for group in analysis.groups:
            if group.status == "frozen":
                frozen[group.reason] = frozen.get(group.reason, 0) + group.size
        top = sorted(frozen.items(), key=lambda item: -item[1])[:5]
        fixed = sorted(fixed_entries(analysis, model).items(), key=lambda item: -item[1])[:3]
        return {
            "traced": True,
            "free_share": round(free_share(analysis, model), 4),
            "fixed_parameters": [
                {"name": name, "entries": round(n), "reason": analysis.whole.get(name, "")[:200]} for name, n in fixed if n >= 1
            ],
            "unknown_ops": sorted(map(str, analysis.traced.mode.unknown)),
            "frozen": [{"channels": n, "reason": reason[:200]} for reason, n in top],
        }

    def prune() -> dict[str, Any]:
        nonlocal slim
        reset_peak()
        before, _ = memory()
        start = time.perf_counter()
        slim = fxprune.prune(model, ratio, scope=scope, attention=attention, verify=False)
        seconds = time.perf_counter() - start
        report = slim.meta["fxprune"]
        return {
            "seconds": round(seconds, 3),
            "peak_mib": round((memory()[1] - before) / 2**20),
            "macs": [report.macs_before, report.macs_after],
            "params": [report.params_before, report.params_after],
            "refused": dict(list(report.frozen_by_rewrite.items())[:3]),
            "refused_groups": len(report.frozen_by_rewrite),
        }

    def shape() -> dict[str, Any]:
        return {"shape": _same_shapes(model, slim, resized(inputs, inputs[0].shape[0]))}

    def batch() -> dict[str, Any]:
        return {"batch": _same_shapes(model, slim, resized(inputs, OTHER_BATCH))}

    def resolution() -> dict[str, Any]:
        other = resized(inputs, 1, GROWTH)
        try:
            return {"resolution": _same_shapes(model, slim, other)}
        except Exception as error:
            complaint = first_line(error)
        try:
            _run(model, other)
        except Exception:  # the original does not take this size either
            return {"resolution": None}
        return {"resolution": False, "resolution_error": complaint}

    def verify() -> dict[str, Any]:
        found = _errors(model, slim, inputs)
        result: dict[str, Any] = {**found, "verified": _within(found, torch.float32)}
        if not result["verified"]:
            exact = _errors(copy.deepcopy(model).double(), copy.deepcopy(slim).double(), inputs)
            result["float64"] = {**exact, "verified": _within(exact, torch.float64)}
        return result

    def round_trip() -> dict[str, Any]:
        from fxprune.codegen import check_round_trip

        with tempfile.TemporaryDirectory() as folder:
            file = check_round_trip(slim, Path(folder) / "slim.py", resized(inputs, 2))
            return {"round_trip": True, "lines": len(file.read_text().splitlines())}

    def backward() -> dict[str, Any]:
        return {"backward": _train_step(slim, resized(inputs, 2))}

    if not stage("build", build) or not stage("analyze", analyze) or not stage("prune", prune):
        return
    for name, work in {
        "shape": shape,
        "batch": batch,
        "resolution": resolution,
        "round_trip": round_trip,
        "verify": verify,
        "backward": backward,  # the last: it changes the weights
    }.items():
        stage(name, work)


def fixed_entries(analysis: fxprune.Analysis, model: nn.Module) -> dict[str, float]:
    """Of each parameter, how many entries lie in no channel that may go."""
    free: dict[str, dict[int, set[int]]] = {}
    for group in analysis.free:
        for member in group.members:
            axes = free.setdefault(member.name, {})
            axes.setdefault(member.axis, set()).update(member.indices.ravel().tolist())
    fixed: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        axes = free.get(name, {})
        stays = math.prod(1 - len(entries) / parameter.shape[axis] for axis, entries in axes.items())
        fixed[name] = parameter.numel() * stays
    return fixed


def free_share(analysis: fxprune.Analysis, model: nn.Module) -> float:
    """Share of the model's parameter entries that lie in at least one channel that may go."""
    total = sum(p.numel() for p in model.parameters())
    return 1 - sum(fixed_entries(analysis, model).values()) / max(total, 1)


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return shapes(model(*inputs))


def _same_shapes(model: nn.Module, slim: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    expected, found = shapes_on_meta(model, inputs), _run(slim, inputs)
    if found != expected:
        raise AssertionError(f"the slim model gives {found[:3]}, the original {expected[:3]}")
    return True


def _errors(model: nn.Module, slim: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    checks = fxprune.verify(model, slim, tuple(x.to(dtype) for x in inputs), latency=False)
    closed, counted = checks.macs, checks.flop_counter or (0, 0)
    return {
        "permutation_error": checks.permutation_error,
        "masked_error": checks.masked_error,
        "exact_groups": checks.exact_groups,
        "statistics_groups": checks.statistics_groups,
        "flop_counter": list(counted),
        "macs_agree": all(abs(a - b) <= 1e-3 * max(b, 1) for a, b in zip(closed, counted, strict=True)),
    }


def _within(found: Mapping[str, Any], dtype: torch.dtype) -> bool:
    errors = (found["permutation_error"], found["masked_error"])
    return all(e is not None and e <= TOLERANCE[dtype] for e in errors)


def _train_step(slim: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """One step of SGD in train mode; gradients must exist and be finite."""
    torch.manual_seed(0)
    slim.train()
    optimizer = torch.optim.SGD(slim.parameters(), lr=1e-3)
    outputs = [t for t in tensors(slim(*inputs)) if t.requires_grad]
    torch.stack([t.float().square().mean() for t in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in slim.parameters() if p.grad is not None]
    if not gradients:
        raise AssertionError("no parameter of the slim model has a gradient")
    if not all(g.isfinite().all() for g in gradients):
        raise AssertionError("a gradient of the slim model is not finite")
    optimizer.step()
    slim.eval()
    return True
