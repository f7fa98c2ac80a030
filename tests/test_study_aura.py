"""Maps of aura entropies."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import CifarResNet
from safetensors.torch import save_file
from support.study import X
from torch import Tensor, nn

from fxprune.studies import aura_map, plots


class Texture(nn.Module):
    """Channel 0 passes the image on, 1 is its mean over 3 x 3, 2 is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
            self.conv.weight[0, 0, 1, 1] = 1
            self.conv.weight[1] = 1 / 9

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_aura_map_tells_noise_from_smooth_from_constant(tmp_path):
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = aura_map(Texture(), [images], images[:2])
    assert (found.sites, found.images) == (("conv",), 8)
    (entropies,) = found.entropies
    assert entropies[0] > entropies[1] > entropies[2] == 0
    assert entropies.max() <= 2 * math.log2(found.levels)
    assert np.allclose(found.examples[0][0], images[0, 0])
    assert json.loads(json.dumps(found.to_dict()))["entropies"]["conv"] == pytest.approx(entropies.tolist(), rel=1e-5)
    pytest.importorskip("matplotlib")
    assert [p.suffix for p in plots.save({"aura": plots.aura(found)}, tmp_path)] == [".png", ".svg"]


class Residual(nn.Module):
    """A block with a shortcut, whose two halves of channels go different ways: two groups on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8))
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(torch.cat([x[:, :4].mean((2, 3)), x[:, 4:].amax((2, 3))], 1))


def test_aura_map_shows_shared_channels_in_every_block():
    found = aura_map(Residual().eval(), [X], X)
    assert found.sites == ("bn1", "bn2")
    assert [c.tolist() for c in found.channels] == [list(range(8))] * 2


@pytest.mark.slow
def test_benchmark_of_criteria(tmp_path):
    """On fresh weights of a small network of that family."""
    root = Path(__file__).parent.parent
    save_file(CifarResNet(8).state_dict(), tmp_path / "small.safetensors")
    command = [sys.executable, root / "benchmarks" / "study.py", "--weights", "small.safetensors", "--out", tmp_path]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| l1, l2 |" in (tmp_path / "small-layers.md").read_text()
    assert (tmp_path / "small-layers-similarity.png").exists()
