"""Tracing fails, or an unsupported operator aborts everything; what the ratio means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import run
from networks import conv, image
from torch import Tensor, nn

import fxprune
from threads.base import PlainCnn, proved, proved_network, thread

# -- tracing fails -----------------------------------------------------------------------------------------


@thread("timm#1176 a timm model as it is")
def _(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    for name in ("test_resnet", "test_vit", "test_efficientnet"):
        model = timm.create_model(name, num_classes=5).eval()
        proved(model, 0.5, (image(2, size=model.pretrained_cfg["input_size"][-1]),))


@thread("MMRazor#464 MMRazor#524 MMRazor#585 NNI#5134 branches on shapes, lists and dictionaries")
def _(folder: Path) -> None:
    class Branching(PlainCnn):
        def forward(self, x: Tensor, scale: float = 1.0, parts: Any = None) -> Any:
            if x.shape[1] != 3:
                raise ValueError(f"expected 3 channels, found {x.shape[1]}")
            height, width = x.shape[-2:]
            if height % 4 or width % 4:
                x = F.pad(x, (0, -width % 4, 0, -height % 4))
            features: dict[str, list[Tensor]] = {"maps": []}
            for layer in (self.conv1, self.conv2, self.conv3):
                x = torch.relu(layer(x)) * scale
                features["maps"].append(x)
            assert len(features["maps"]) == 3 and int(x.shape[1]) == 32
            return {"logits": self.fc(x.flatten(2).mean(-1)), "size": (height, width)}

    slim = proved(Branching(), 0.5, (image(2),), scope="layer")
    assert run(slim, (image(3).double(),))["logits"].shape == (3, 5)


@thread("pytorch#70485 NNI#5193 a failed trace names the line")
def _(folder: Path) -> None:
    class DataDependent(PlainCnn):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            if x.sum() > 0:
                x = -x
            found: Tensor = self.fc(self.conv3(x).mean((2, 3)))
            return found

    with pytest.raises(fxprune.TraceError, match=r"threads/tracing\.py:\d+"):
        fxprune.prune(DataDependent(), 0.5, image(2))


# -- an unsupported operator aborts everything -------------------------------------------------------------


@thread("NNI#4905 TNN#122 resampling")
def _(folder: Path) -> None:
    proved_network("resampling", scope="layer")


@thread("NNI#5172 NNI#5435 any activation")
def _(folder: Path) -> None:
    acts = (
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Mish,
        nn.Softplus,
        nn.LogSigmoid,
        nn.CELU,
        nn.Tanhshrink,
        nn.RReLU,
        nn.ReLU6,
        nn.Softsign,
        nn.SELU,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.Softshrink,
        nn.Threshold,
    )
    for act in acts:
        layer = act(0.1, 0.2) if act is nn.Threshold else act()
        model = nn.Sequential(conv(3, 8), layer, nn.BatchNorm2d(8), conv(8, 5))
        slim = proved(model, 0.5, (image(2),), scope="layer")
        assert slim.get_submodule("0").out_channels == 4, act.__name__


@thread("NNCF#163 transposed convolution")
def _(folder: Path) -> None:
    for name in (
        "transposed convolution",
        "transposed convolution, grouped",
        "transposed convolution, depthwise",
    ):
        proved_network(name, scope="layer")


@thread("NNCF#1057 instance norm")
def _(folder: Path) -> None:
    proved_network("InstanceNorm", scope="layer")


@thread("NNI#5152 an operator without a rule is pruned around, and named")
def _(folder: Path) -> None:
    slim = proved_network("custom operator", scope="layer")
    assert slim.get_submodule("conv1").out_channels == 12
    assert slim.get_submodule("conv2").out_channels == 6
    answer = fxprune.why(slim, "conv1")
    assert answer.status == "frozen" and "halve" in str(answer) and "layers.py" in str(answer)


# -- what does the ratio mean? -----------------------------------------------------------------------------


@thread("TP#111 TP#214 TP#479 the ratio counts channels")
def _(folder: Path) -> None:
    """Of all channels that may go, in one ranking; or of each group."""
    model = PlainCnn(20)  # groups of 20 and 40 channels
    for ratio in (0.25, 0.5, 0.75):
        slim = fxprune.prune(model, ratio, image(2), scope="global")
        free = [g for g in slim.meta["fxprune"].plan.groups if g.status == "free"]
        assert sorted(g.size for g in free) == [20, 40]
        assert sum(len(g.removed) for g in free) == round(60 * ratio)
        slim = fxprune.prune(model, ratio, image(2), scope="layer")
        plan = slim.meta["fxprune"].plan
        assert all(len(g.removed) == round(g.size * ratio) for g in plan.groups if g.status == "free")
    for wrong in (0, 1, -0.5, 1.5, float("nan"), "half", True):
        with pytest.raises(fxprune.InputError, match="ratio"):
            fxprune.prune(model, wrong, image(2))  # type: ignore[arg-type]
