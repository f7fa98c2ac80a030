"""Several processes: each prunes the same model to the same bits, and what they hold trains together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import fxprune

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import torch
import torch.distributed as dist
from torch import nn
import fxprune

torch.set_num_threads(1)
children = []

def make():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.SyncBatchNorm(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def same(tensors):
    for tensor in tensors:
        both = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(both, tensor.contiguous())
        assert torch.equal(both[0], both[1])

def work(rank):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[2] + "/meeting", rank=rank, world_size=2)
    x, y = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank)), torch.tensor([0, 1, 2, 3])
    model = make()
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for options in ({}, {"criterion": "taylor", "data": [(x, y)], "scope": "layer"}):  # each with its own share of the data
        slim = fxprune.prune(model.eval(), 0.5, x, **options)
        assert slim.get_submodule("0").out_channels < 8 and type(slim.get_submodule("4")) is nn.SyncBatchNorm
        same(slim.state_dict().values())
    fxprune.save(slim, sys.argv[2] + "/slim")  # both to one place
    loaded = fxprune.load(sys.argv[2] + "/slim")
    same(loaded.state_dict().values())
    plain = nn.Sequential(*[nn.BatchNorm2d(8) if type(m) is nn.SyncBatchNorm else m for m in make()])
    slim = fxprune.prune(plain.eval(), 0.5, x).train()
    parallel = nn.parallel.DistributedDataParallel(slim)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    before = [p.detach().clone() for p in slim.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(x), y).backward()
        optimizer.step()
    same([p.detach() for p in slim.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(before, slim.parameters()))
    try:
        fxprune.prune(parallel, 0.5, x)
        raise AssertionError("a wrapped model")
    except fxprune.InputError as error:
        assert ".module" in str(error)
    fxprune.prune(parallel.module.eval(), 0.5, x)
    dist.destroy_process_group()

for rank in range(2):
    child = os.fork()
    if not child:
        try:
            work(rank)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or not dist.is_available(), reason="no processes to compare")
def test_two_processes_prune_and_train(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(path.name for path in (tmp_path / "slim").iterdir()) == ["slim.py", "slim.safetensors"]


FORKED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
import fxprune
torch.set_num_threads(1)
model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4)
expected = fxprune.prune(model, 0.5, x).state_dict()
for _ in range(3):
    child = os.fork()
    if not child:
        found = fxprune.prune(model, 0.5, x).state_dict()
        os._exit(0 if all(torch.equal(found[name], value) for name, value in expected.items()) else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_processes_prune_on() -> None:
    """As workers of a data loader or a server do."""
    done = subprocess.run([sys.executable, "-c", FORKED, str(ROOT)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_a_plan_is_the_same_bytes_whatever_the_seed_of_hashes() -> None:
    """Python orders sets by hashes that differ from process to process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, fxprune; torch.manual_seed(0); n = torch.nn;"
        "m = n.Sequential(n.Conv2d(3, 8, 3), n.BatchNorm2d(8), n.Conv2d(8, 8, 1), n.Conv2d(8, 4, 1));"
        "print(fxprune.plan(m, 0.5, torch.zeros(1, 3, 8, 8)).to_json())"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.add(done.stdout)
    assert len(found) == 1 and fxprune.Plan.from_json(found.pop()).model == "Sequential"


def test_the_process_is_left_as_it_was() -> None:
    """Neither threads nor random state, neither grad mode nor default dtype are other ones after a prune."""
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4)

    def state() -> list[object]:
        modes = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled(), model.training]
        return [torch.get_num_threads(), torch.get_rng_state().tolist(), *modes]

    before = state()
    fxprune.verify(model, fxprune.prune(model, 0.5, x), latency=False)
    assert state() == before
