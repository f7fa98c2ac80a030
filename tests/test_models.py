"""The models that the project promises, for real: slow, one test a model (``pytest -m slow tests/test_models.py``)."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CifarResNet
from torch import Tensor, nn

import fxprune
from fxprune.analysis.analysis import analyze_model
from fxprune.codegen import check_round_trip
from fxprune.inputs.models import load_model
from fxprune.inputs.sizes import infer_example_inputs
from fxprune.proofs.errors import relative_error
from fxprune.proofs.measure import count_macs
from fxprune.proofs.permutation import permutation_error
from fxprune.proofs.randomize import randomize

CNNS = [
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:resnext50_32x4d",
    "torchvision:vgg16_bn",
    "torchvision:alexnet",
    "torchvision:densenet121",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_large",
    "torchvision:googlenet",
    "torchvision:inception_v3",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:squeezenet1_1",
    "torchvision:mnasnet1_0",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "torchvision:convnext_tiny",
    "torchvision:deeplabv3_resnet50",
    "timm:resnet50d",
    "timm:seresnet50",
    "timm:res2net50d",
    "timm:hrnet_w18_small",
    "timm:ese_vovnet19b_dw",
    "timm:dla34",
    "timm:efficientnetv2_rw_t",
]
TRANSFORMERS = [
    "torchvision:vit_b_16",
    "torchvision:swin_t",
    "timm:deit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:mixer_s32_224",
]
# These hold positions of one resolution; swin_t also branches on it (no shift where one window covers the map), which a
# trace asserts.
ONE_RESOLUTION = {*TRANSFORMERS}


def build(spec: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    if spec.startswith("cifar:"):
        return CifarResNet(int(spec.partition(":")[2])), [torch.randn(2, 3, 32, 32)]
    model = load_model(spec)
    shapes = infer_example_inputs(model)
    assert shapes is not None
    return model, [torch.randn(t.shape) for t in shapes]


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in (value.values() if isinstance(value, dict) else value) for t in tensors_of(v)]


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*CNNS, *TRANSFORMERS, "cifar:20", "cifar:56"])
def test_model(spec: str, tmp_path: Path, record_property: Any) -> None:
    model, inputs = build(spec)
    randomize(model).eval()
    with torch.no_grad():
        expected = model(*inputs)
    shapes = [t.shape for t in tensors_of(expected)]
    measured: dict[str, Any] = {"permutation32": permutation_error(analyze_model(model, inputs), model)}
    assert measured["permutation32"] < 1e-4
    for scope in ("layer", "global"):
        for ratio in (0.3, 0.5, 0.7):
            slim = fxprune.prune(model, ratio, tuple(inputs), scope=scope)
            report = slim.meta["fxprune"]
            assert not report.frozen_by_rewrite
            fewer = 1 - report.macs_after / report.macs_before
            measured[f"{scope}@{ratio}"] = (round(fewer, 4), report.checks.masked_error)
            with torch.no_grad():
                assert [t.shape for t in tensors_of(slim(*inputs))] == shapes
            if ratio == 0.5 and spec not in TRANSFORMERS:
                assert fewer >= 0.45
            if ratio == 0.5:
                check_slim(spec, model, slim, inputs, tmp_path / scope)
    check_trace(model, inputs)
    double = copy.deepcopy(model).double()
    wide = [t.double() for t in inputs]
    exact = fxprune.prune(double, 0.5, tuple(wide), scope="layer")
    measured["masked64"] = exact.meta["fxprune"].checks.masked_error
    measured["permutation64"] = permutation_error(analyze_model(double, wide), double)
    assert measured["masked64"] < 1e-9
    assert measured["permutation64"] < 1e-9
    for key, value in measured.items():
        record_property(key, value)
    print(spec, measured)


def check_slim(spec: str, model: nn.Module, slim: Any, inputs: list[Tensor], folder: Path) -> None:
    """Another batch size and resolution, saving, counting and a step of training."""
    with torch.no_grad():
        three = [torch.cat([t, t[:1]]) for t in inputs]
        assert all(t.shape[0] == 3 for t in tensors_of(slim(*three)))
        if spec not in ONE_RESOLUTION and not spec.endswith("alexnet"):
            larger = [torch.randn(2, 3, t.shape[2] + 32, t.shape[3] + 64) for t in inputs]
            assert [t.shape for t in tensors_of(slim(*larger))] == [t.shape for t in tensors_of(model(*larger))]
    check_round_trip(slim, folder, tuple(inputs))
    analysis = analyze_model(model, inputs)
    report = slim.meta["fxprune"]
    assert (count_macs(model, analysis), count_macs(slim, analysis)) == report.plan.macs
    trained = copy.deepcopy(slim).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    loss = sum(t.float().square().mean() for t in tensors_of(trained(*inputs)))
    assert isinstance(loss, Tensor)
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    assert all(p.grad is not None for p in trained.parameters())
    optimizer.step()


def check_trace(model: nn.Module, inputs: list[Tensor]) -> None:
    """The traced model gives the original's output in both modes, under one seed."""
    traced = fxprune.trace(model, tuple(inputs))
    for mode in (False, True):
        one, other = copy.deepcopy(model).train(mode), copy.deepcopy(traced).train(mode)
        torch.manual_seed(1)
        expected = one(*inputs)
        torch.manual_seed(1)
        found = other(*inputs)
        assert isinstance(found, dict) == isinstance(expected, dict)
        # Bit for bit, but for nn.MultiheadAttention, which has a fused kernel of its own in evaluation.
        attention = any(isinstance(m, nn.MultiheadAttention) for m in model.modules())
        assert relative_error(found, expected) <= (1e-6 if attention else 0)
