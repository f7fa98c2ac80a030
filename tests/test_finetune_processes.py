"""Fine-tuning in real processes: two that share batches, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="needs the extra `train`")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import json, os, sys, time
import torch
from pathlib import Path
from safetensors.torch import save_file

torch.set_num_threads(1)
from support.finetuning import Net, Noisy, data, tensors
import fxprune

out, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
slow, kind = settings.pop("slow", 0), settings.pop("kind", "dataset")
torch.manual_seed(0)
slim, teacher = Net(settings.pop("dropout", 0.0)), Net(0.0)
torch.manual_seed(int(time.time()))  # what comes now has no say
if sparse := settings.pop("sparse", None):
    settings["sparsity"] = lambda model: fxprune.sparsity.make(sparse[0], model, torch.zeros(2, 2, 6, 6), **sparse[1])
loader = Noisy(46) if kind == "dataset" else [tuple(t[i : i + 8] for t in data(46).tensors) for i in range(0, 46, 8)]

def callback(told):
    print("step", told["step"], flush=True)
    time.sleep(slow)

found = fxprune.finetune(slim, loader, teacher=teacher, out=out, callback=callback, progress=False, **settings)
values = {n: t.detach().contiguous() for n, t in tensors(found).items()}
if int(os.environ.get("RANK", 0)) == 0:
    save_file(values, out / f"found-{found.meta['finetuning']['processes']}.safetensors")
"""
SETTINGS = {
    "batch_size": 8,
    "epochs": 2,
    "lr": 0.05,
    "device": "cpu",
    "drop_last": False,
    "log_every": 1,
    "mixup": 0.3,
    "cutmix": 0.5,
    "shift": 1,
    "flip": True,
    "ema": 0.7,
    "clip_norm": 1.0,
}


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(folder: Path, out: Path, settings: dict, processes: int = 1) -> list[str]:
    file = folder / "script.py"
    file.write_text(SCRIPT)
    # What `accelerate launch` starts for GPUs; for CPUs it would need MPI.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    return [sys.executable, *launch, str(file), str(out), json.dumps(settings)]


def run(folder: Path, out: Path, settings: dict, processes: int = 1) -> dict[str, torch.Tensor]:
    done = subprocess.run(
        command(folder, out, settings, processes), env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out / f"found-{processes}.safetensors")


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("kind", ["dataset", "list"])
def test_two_processes_are_one(kind: str, tmp_path: Path) -> None:
    """The same losses step by step, and the same weights, statistics of norms among them, up to rounding: batches of 8, and one
    of 6, at the end of each epoch.
    """
    settings = {**SETTINGS, "kind": kind}
    one = run(tmp_path, tmp_path / "one", settings)
    two = run(tmp_path, tmp_path / "two", settings, processes=2)
    assert len(losses(tmp_path / "one")) == 12
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-3, atol=2e-4)
    # What is compared can tell: norms of each process alone give other losses.
    run(tmp_path, tmp_path / "apart", {**settings, "sync_norms": False}, processes=2)
    assert losses(tmp_path / "apart") != pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_sparse_learning_in_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Both draw the same masks, and norms hold back the same channels."""
    settings = {**SETTINGS, "sparse": ["scp", {"strength": 0.05}]}
    one = run(tmp_path, tmp_path / "one", settings)
    two = run(tmp_path, tmp_path / "two", settings, processes=2)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-3, atol=2e-4)


def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL, twice, at steps that nobody chose; bit for bit, with dropout and a data set that draws."""
    settings = {**SETTINGS, "dropout": 0.2, "checkpoint_every": 2, "optimizer": "adamw"}
    whole = run(tmp_path, tmp_path / "whole", settings)
    out = tmp_path / "cut"
    for steps in (3, 5):
        again = {**settings, "resume": True, "slow": 0.05}
        process = subprocess.Popen(command(tmp_path, out, again), env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(steps):
            assert process.stdout.readline().startswith("step")
        time.sleep(0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert (out / "checkpoint.safetensors").exists() and not (out / "found-1.safetensors").exists()
    found = run(tmp_path, out, {**settings, "resume": True, "workers": 2})  # which have no say
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
    assert losses(out) == losses(tmp_path / "whole")
