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
EXAMPLE_BATCH = 1  # of the inputs that a model is recorded and pruned with
OTHER_BATCH = 3  # of those that it must run on, too


def check_fxprune(spec: str, ratio: float, scope: Any, attention: Any, stage: Stages) -> None:
    """Prune one model and try everything that a user would do with the result."""
    trial = Trial(spec, ratio, scope, attention)
    if all(stage(work.__name__, work) for work in (trial.build, trial.analyze, trial.prune)):
        # The step of training is the last: it changes the weights.
        for work in (trial.shape, trial.batch, trial.resolution, trial.round_trip, trial.verify, trial.backward):
            stage(work.__name__, work)


class Trial:
    """One model on its way; each method is a stage, and gives what it found."""

    model: nn.Module
    slim: fx.GraphModule
    inputs: tuple[Tensor, ...] = ()

    def __init__(self, spec: str, ratio: float, scope: Any, attention: Any) -> None:
        self.spec, self.ratio, self.scope, self.attention = spec, ratio, scope, attention

    def build(self) -> dict[str, Any]:
        """Make the model, with random weights."""
        torch.manual_seed(0)
        self.model = load_model(self.spec).eval()
        self.inputs = resized(infer_example_inputs(self.model) or (), EXAMPLE_BATCH)
        return {"parameters": sum(p.numel() for p in self.model.parameters()), "input": shapes(self.inputs)}

    def analyze(self) -> dict[str, Any]:
        """Find what may go, and why the rest may not."""
        analysis = fxprune.analyze(self.model, self.inputs, attention=self.attention)
        frozen: dict[str, int] = {}
        for group in analysis.groups:
            if group.status == "frozen":
                frozen[group.reason] = frozen.get(group.reason, 0) + group.size
        top = sorted(frozen.items(), key=lambda item: -item[1])[:5]
        fixed = sorted(fixed_entries(analysis, self.model).items(), key=lambda item: -item[1])[:3]
        return {
            "traced": True,
            "free_share": round(free_share(analysis, self.model), 4),
            "fixed_parameters": [
                {"name": name, "entries": round(n), "reason": analysis.whole.get(name, "")[:200]} for name, n in fixed if n >= 1
            ],
            "unknown_ops": sorted(map(str, analysis.traced.mode.unknown)),
            "frozen": [{"channels": n, "reason": reason[:200]} for reason, n in top],
        }

    def prune(self) -> dict[str, Any]:
        """Prune, with time and memory."""
        reset_peak()
        before, _ = memory()
        start = time.perf_counter()
        options = {"scope": self.scope, "attention": self.attention}
        self.slim = fxprune.prune(self.model, self.ratio, self.inputs, verify=False, **options)
        seconds = time.perf_counter() - start
        report = self.slim.meta["fxprune"]
        return {
            "seconds": round(seconds, 3),
            "peak_mib": round((memory()[1] - before) / 2**20),
            "macs": [report.macs_before, report.macs_after],
            "params": [report.params_before, report.params_after],
            "refused": dict(list(report.frozen_by_rewrite.items())[:3]),
            "refused_groups": len(report.frozen_by_rewrite),
        }

    def shape(self) -> dict[str, Any]:
        """Run the slim model on inputs of the original's shape."""
        return {"shape": _same_shapes(self.model, self.slim, resized(self.inputs, self.inputs[0].shape[0]))}

    def batch(self) -> dict[str, Any]:
        """On another batch size."""
        return {"batch": _same_shapes(self.model, self.slim, resized(self.inputs, OTHER_BATCH))}

    def resolution(self) -> dict[str, Any]:
        """On larger images; None where the original does not take them either."""
        other = resized(self.inputs, 1, GROWTH)
        try:
            return {"resolution": _same_shapes(self.model, self.slim, other)}
        except Exception as error:
            complaint = first_line(error)
        try:
            _run(self.model, other)
        except Exception:
            return {"resolution": None}
        return {"resolution": False, "resolution_error": complaint}

    def round_trip(self) -> dict[str, Any]:
        """Write source and weights, and read them back in a process without fxprune."""
        from fxprune.codegen import check_round_trip

        with tempfile.TemporaryDirectory() as folder:
            file = check_round_trip(self.slim, Path(folder) / "slim.py", resized(self.inputs, 2))
            return {"round_trip": True, "lines": len(file.read_text().splitlines())}

    def verify(self) -> dict[str, Any]:
        """Prove the slim model against the original; once more in float64 where float32 is too coarse."""
        found = _errors(self.model, self.slim, self.inputs)
        result: dict[str, Any] = {**found, "verified": _within(found, torch.float32)}
        if not result["verified"]:
            exact = _errors(copy.deepcopy(self.model).double(), copy.deepcopy(self.slim).double(), self.inputs)
            result["float64"] = {**exact, "verified": _within(exact, torch.float64)}
        return result

    def backward(self) -> dict[str, Any]:
        """One step of training."""
        return {"backward": _train_step(self.slim, resized(self.inputs, 2))}


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
    assert checks.fidelity is not None
    return {
        "fidelity": checks.fidelity.passed,
        "fidelity_error": checks.fidelity.error,
        "fidelity_checks": sorted(checks.fidelity.errors),
        "fidelity_refused": {name: why[:200] for name, why in checks.fidelity.refused.items()},
        "permutation_error": checks.permutation_error,
        "masked_error": checks.masked_error,
        "exact_groups": checks.exact_groups,
        "statistics_groups": checks.statistics_groups,
        "flop_counter": list(counted),
        "macs_agree": all(abs(a - b) <= 1e-3 * max(b, 1) for a, b in zip(closed, counted, strict=True)),
    }


def _within(found: Mapping[str, Any], dtype: torch.dtype) -> bool:
    errors = (found["permutation_error"], found["masked_error"])
    return found["fidelity"] and all(e is not None and e <= TOLERANCE[dtype] for e in errors)


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
