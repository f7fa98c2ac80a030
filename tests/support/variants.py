"""Any variant of a model: prune it, prove it, train it, save it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen import check_round_trip
from fxprune.inputs.sizes import infer_example_inputs
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.randomize import randomize


class Features(nn.Module):
    """What a user writes who calls ``model.forward_features`` and not the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model.forward_features(x)


def shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [tuple(value.shape)]
    return [s for v in (value.values() if isinstance(value, dict) else value) for s in shapes(v)]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in (value.values() if isinstance(value, dict) else value) for t in tensors(v)]


def check(model: nn.Module, example: tuple[Tensor, ...], *, fewer: float, folder: Path | None = None) -> None:
    """Prune half of every group, by layer and globally, and try all that holds for any model.

    Args:
        model: fresh weights; they are replaced by random ones, since fresh ones hide errors.
        example: inputs on the meta device.
        fewer: the share of the parameters that must go at least.
        folder: where to save the result; it is read back in another process.
    """
    randomize(model).eval()
    inputs = tuple(torch.randn(t.shape) for t in example)
    three = tuple(torch.randn(3, *t.shape[1:]) for t in example)
    with torch.no_grad():
        expected, expected3 = shapes(model(*inputs)), shapes(model(*three))
    analysis = fxprune.analyze(model, example, attention="both")
    assert not analysis.traced.mode.unknown
    error = permutation_error(analysis, model)
    if error >= 1e-4:  # where rounding grows, float64 tells it from a fault
        double = copy.deepcopy(model).double()
        wide = fxprune.analyze(double, tuple(t.double() for t in example), attention="both")
        error = permutation_error(wide, double)
    assert error < 1e-4
    for scope in ("layer", "global"):
        # Masked equivalence is checked inside: a difference raises.
        slim = fxprune.prune(model, 0.5, example, scope=scope, attention="both")  # type: ignore[arg-type]
        report = slim.meta["fxprune"]
        assert 1 - report.params_after / report.params_before >= fewer
        with torch.no_grad():
            assert shapes(slim(*inputs)) == expected
            assert shapes(slim(*three)) == expected3
    loss = sum(t.float().square().mean() for t in tensors(copy.deepcopy(slim).train()(*inputs)))
    assert isinstance(loss, Tensor) and math.isfinite(float(loss.detach()))
    loss.backward()  # type: ignore[no-untyped-call]
    if folder is not None:
        check_round_trip(slim, folder / "slim", inputs)


def check_timm(name: str, *, fewer: float, folder: Path | None = None, features: bool = False, **options: Any) -> None:
    model = timm.create_model(name, **options)
    example = infer_example_inputs(model)
    assert example is not None
    check(Features(model) if features else model, example, fewer=fewer, folder=folder)


VARIANTS: dict[str, dict[str, Any]] = {
    "features_only": {"features_only": True},
    "last features only": {"features_only": True, "out_indices": (-1,)},
    "no classes": {"num_classes": 0},
    "no classes, no pooling": {"num_classes": 0, "global_pool": ""},
    "forward_features": {"features": True},
    "one channel": {"in_chans": 1, "num_classes": 5},
    "six channels": {"in_chans": 6, "num_classes": 5},
}
