"""The saved model is not smaller, or cannot be loaded without the tool; MACs fall, speed does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_equivalent, parameters_of, run
from networks import image
from torch import nn

import fxprune
from fxprune.proofs.randomize import randomize
from threads.base import PlainCnn, proved, thread

# -- the saved model is not smaller, or cannot be loaded without the tool ----------------------------------


@thread("TP#51 NNI#2097 saved model loads without the tool")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2))
    fxprune.save(slim, folder / "slim")
    torch.save({"x": image(2), "y": run(slim, (image(2),))}, folder / "case.pt")
    script = (
        "import sys, torch; sys.path.insert(0, 'slim'); import slim\n"
        "torch.set_num_threads(1)\n"
        "case = torch.load('case.pt', weights_only=True)\n"
        "torch.testing.assert_close(slim.load().eval()(case['x']), case['y'], rtol=1e-5, atol=1e-5)\n"
        "assert 'fxprune' not in sys.modules and 'timm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@thread("NNCF#1038 pytorch#58846 channels are removed, not set to zero")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2), scope="layer")
    fxprune.save(fxprune.trace(model, image(2)), folder / "whole")
    fxprune.save(slim, folder / "slim")
    assert parameters_of(slim) < 0.35 * parameters_of(model)
    sizes = [(folder / part / "slim.safetensors").stat().st_size for part in ("slim", "whole")]
    assert sizes[0] < 0.5 * sizes[1]
    assert all(not (p == 0).all() for p in slim.parameters())


@thread("OTO#42 the result is an nn.Module that trains")
def _(folder: Path) -> None:
    slim = fxprune.prune(randomize(PlainCnn()), 0.5, image(2)).train()
    optimizer = torch.optim.Adam(slim.parameters(), lr=1e-2)
    target = torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(slim(image(4)), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@thread("TP#428 NNI#3527 the plan is text, and fits another checkpoint")
def _(folder: Path) -> None:
    model, other = randomize(PlainCnn(), 1), randomize(PlainCnn(), 2)
    text = fxprune.plan(model, 0.5, image(2)).to_json()
    (folder / "plan.json").write_text(text)
    plan = fxprune.Plan.from_json((folder / "plan.json").read_text())
    slim = fxprune.apply(other, plan)
    assert_equivalent(other, slim, (image(3),), plan.kept)
    with pytest.raises(fxprune.PlanMismatch):
        fxprune.apply(PlainCnn(12), plan)


# -- MACs fall, speed does not -----------------------------------------------------------------------------


@thread("TP#38 kept channels are a multiple of round_to")
def _(folder: Path) -> None:
    slim = proved(PlainCnn(32), 0.4, (image(2),), round_to=8, scope="layer")
    plan = slim.meta["fxprune"].plan
    assert all(len(g.kept) % 8 == 0 for g in plan.groups if g.status == "free")
    for module in slim.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % 8 == 0 and module.out_channels >= 8


@thread("TP#22 TP#97 pytorch#36214 layers are dense, contiguous and really narrower")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2), scope="layer")
    assert type(slim.get_submodule("conv2")) is nn.Conv2d
    assert slim.get_submodule("conv2").weight.shape == (8, 8, 3, 3)
    assert all(p.is_contiguous() and p.layout is torch.strided for p in slim.parameters())
    before, after = slim.meta["fxprune"].plan.macs
    assert after < 0.35 * before
