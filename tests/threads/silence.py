"""Nothing, or a part, is silently not pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import parameters_of
from networks import NETWORKS, conv, image
from torch import nn

import fxprune
from threads.base import PlainCnn, proved, thread


@thread("TP#416 MMRazor#544 every layer has a status")
def _(folder: Path) -> None:
    for net in NETWORKS.values():
        model = net.build()
        plan = fxprune.plan(model, 0.5, net.inputs(2), scope="layer")
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                answer = fxprune.why(plan, name)
                assert answer.status in ("pruned", "protected", "frozen"), f"{net.id}: {answer}"
                assert answer.status == "pruned" or all(part[4] for part in answer.parts), f"{net.id}: {answer}"


@thread("TP#417 nothing is dropped silently at a high ratio")
def _(folder: Path) -> None:
    sizes = []
    for ratio in (0.3, 0.5, 0.7, 0.9, 0.95):
        slim = proved(PlainCnn(), ratio, (image(2),), scope="layer")
        assert not slim.meta["fxprune"].frozen_by_rewrite
        assert {g.status for g in slim.meta["fxprune"].plan.groups} == {"free", "frozen"}
        sizes.append(parameters_of(slim))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) >= 4


@thread("TP#136 TP#356 OTO#57 nothing to prune is an error with its reasons")
def _(folder: Path) -> None:
    with pytest.raises(fxprune.NothingToPrune, match="output"):
        fxprune.prune(nn.Sequential(conv(3, 8)), 0.5, image(2))
    with pytest.raises(fxprune.NothingToPrune, match="ignore"):
        fxprune.prune(PlainCnn(), 0.5, image(2), ignore=["conv*"])


@thread("TP#505 TP#507 frozen weights are pruned like others")
def _(folder: Path) -> None:
    model = PlainCnn().requires_grad_(False)
    with torch.no_grad():
        slim = proved(model, 0.5, (image(2),), scope="layer")
    assert slim.get_submodule("conv2").weight.shape == (8, 8, 3, 3)
    assert not any(p.requires_grad for p in slim.parameters())


@thread("NNI#5277 a group that keeps its channels is protected, with the pattern")
def _(folder: Path) -> None:
    model = PlainCnn()
    slim = fxprune.prune(model, 0.5, image(2), ignore=["conv3"], scope="layer")
    answer = fxprune.why(slim, "conv3")
    assert answer.status == "protected" and "conv3" in str(answer)
    assert slim.get_submodule("conv3").out_channels == 32
    assert fxprune.why(slim, "conv1").status == "pruned"
