"""Slim models in two real processes: DDP and FSDP2 give the gradients and outputs of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import copy, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from safetensors.torch import save_file
import fxprune

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(c, 4 * c, 3, padding=1), nn.GroupNorm(1, 4 * c), nn.Conv2d(4 * c, c, 1)
        self.scale = nn.Parameter(torch.ones(c, 1, 1))

    def forward(self, x):
        return x + self.b(self.norm(self.a(x)).relu()) * self.scale

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
x = torch.randn(6, 3, 8, 8)
slim = fxprune.prune(model, 0.5, x)
own = fxprune.shrink(model, slim)
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
mine = x[rank * 3 : rank * 3 + 3]

def kept(name, model, output):
    grads = {n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for n, p in model.named_parameters()}
    outputs = [torch.empty_like(output) for _ in range(2)]
    dist.all_gather(outputs, output.detach().contiguous())
    if rank == 0:
        save_file({**grads, "output": torch.cat(outputs)}, folder / f"{name}.safetensors")

if rank == 0:
    alone = copy.deepcopy(slim)
    output = alone(x)
    output.square().mean().backward()
    save_file({**{n: p.grad for n, p in alone.named_parameters()}, "output": output.detach()}, folder / "alone.safetensors")
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(slim))
output = wrapped(mine)
output.square().mean().backward()
kept("ddp", wrapped.module, output)
layered = copy.deepcopy(slim)
layers = [m for m in layered.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
for name, sharded, units in (("whole", copy.deepcopy(slim), []), ("layers", layered, layers), ("own", own, [own[1], own[2]])):
    for unit in (*units, sharded):
        fully_shard(unit, mesh=mesh)
    assert not next(iter(sharded.parameters())).to_local().shape == next(iter(slim.parameters())).shape, "it is sharded"
    output = sharded(mine)
    output.square().mean().backward()
    kept(name, sharded, output)
dist.destroy_process_group()
"""


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environ, cwd=tmp_path, stderr=pipe, text=True)
        for rank in range(2)
    ]
    try:
        said = [child.communicate(timeout=600)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    alone = load_file(tmp_path / "alone.safetensors")
    for name in ("ddp", "whole", "layers", "own"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert {*found} == {*alone}
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=f"{name}, {key}": f"{k}: {m}")
