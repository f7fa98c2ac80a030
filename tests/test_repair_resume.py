"""A repair that is killed and goes on gives the weights of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import fxprune
from fxprune.recovery.repair.repairing import Repairing

torch.set_num_threads(1)


class Stop(Exception):
    pass


def net() -> tuple[nn.Module, Any, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 8, 1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip
    x = torch.randn(100, 3, 6, 6)
    return model, fxprune.prune(model, 0.5, x[:2], scope="layer"), x


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def stopped_after(sites: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repair is stopped at the site of this number."""
    done, call = [0], Repairing.__call__

    def counted(self: Repairing, site: Any) -> Any:
        if done[0] == sites:
            raise Stop
        done[0] += 1
        return call(self, site)

    monkeypatch.setattr(Repairing, "__call__", counted)


@pytest.mark.parametrize(("stop", "every"), [(0, 1), (1, 1), (3, 2), (4, 3), (4, 100)])
def test_a_repair_that_was_stopped_gives_the_same_weights(
    stop: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, slim, x = net()
    whole = fxprune.repair(slim, model, x, seed=1)
    file = tmp_path / "new" / "repair.safetensors"
    given: dict[str, Any] = {"seed": 1, "checkpoint": file, "checkpoint_every": every}
    with monkeypatch.context() as patched:
        stopped_after(stop, patched)
        with pytest.raises(Stop):
            fxprune.repair(slim, model, x, **given)
    with safe_open(file, "pt") as stored:
        document = json.loads(stored.metadata()["fxprune.repair"])
    assert len(document["sites"]) == stop - stop % every
    done = []
    with monkeypatch.context() as patched:
        call = Repairing.__call__
        patched.setattr(Repairing, "__call__", lambda self, site: (done.append(site.name), call(self, site))[1])
        again = fxprune.repair(slim, model, list(x.split(20)), **given)
    found, expected = (m.meta["fxprune"].repair for m in (again, whole))
    assert same(again, whole) and len(done) == len(expected.sites) - len(document["sites"]) > 0
    assert found.sites == expected.sites and (found.before, found.after) == (expected.before, expected.after)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_all_is_taken_from_a_checkpoint_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, slim, x = net()
    whole = fxprune.repair(slim, model, x, checkpoint=tmp_path / "all.safetensors")
    stopped_after(0, monkeypatch)
    again = fxprune.repair(slim, model, x, checkpoint=str(tmp_path / "all.safetensors"))
    assert same(whole, again) and again.meta["fxprune"].repair.sites == whole.meta["fxprune"].repair.sites
    assert not same(slim, again) and same(slim, net()[1])


def test_another_repair_and_damage_are_refused(tmp_path: Path) -> None:
    model, slim, x = net()
    file = tmp_path / "repair.safetensors"
    fxprune.repair(slim, model, x, checkpoint=file)
    other, there = net()[0], file.read_bytes()
    with torch.no_grad():
        other[0].weight.mul_(2)
    changed = x.clone()
    changed[50, 0, 0, 0] += 1
    slimmer = fxprune.prune(model, 0.4, x[:2], scope="layer")
    cases: list[tuple[Any, str]] = [
        (lambda: fxprune.repair(slim, model, changed, checkpoint=file), "with other images: remove it"),
        (lambda: fxprune.repair(slim, other, x, checkpoint=file), "with other dense model"),
        (lambda: fxprune.repair(slim, model, x, ridge=0.1, checkpoint=file), "with other options"),
        (lambda: fxprune.repair(slimmer, model, x, checkpoint=file), "no readable checkpoint|with other slim model"),
        (lambda: fxprune.repair(slim, model, x, checkpoint=tmp_path), "is a folder"),
        (lambda: fxprune.repair(slim, model, x, checkpoint=3), "must be the path of a file"),
        (lambda: fxprune.repair(slim, model, x, checkpoint=file, checkpoint_every=0), "checkpoint_every must be"),
    ]
    for run, words in cases:
        with pytest.raises(fxprune.InputError, match=words):
            run()
    assert file.read_bytes() == there
    for damage in (there[:100], there[:-50], b"", b"{}" * 20):
        file.write_bytes(damage)
        with pytest.raises(
            fxprune.InputError, match=r"no readable checkpoint of a repair of this model .*remove it to begin anew"
        ):
            fxprune.repair(slim, model, x, checkpoint=file)
    (tmp_path / "file").write_text("")
    with pytest.raises(fxprune.PruneError, match="cannot write"):
        fxprune.repair(slim, model, x, checkpoint=tmp_path / "file" / "repair.safetensors")


SCRIPT = """
import sys, time
import torch
from test_repair_resume import net
import fxprune
from fxprune.recovery.repair.repairing import Repairing

call = Repairing.__call__

def slow(self, site):
    print("site", flush=True)
    time.sleep(0.05)
    return call(self, site)

Repairing.__call__ = slow
model, slim, x = net()
fixed = fxprune.repair(slim, model, x, checkpoint=sys.argv[1], checkpoint_every=1)
torch.save(fixed.state_dict(), sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """Killed twice at whatever it was doing."""
    file, result = tmp_path / "repair.safetensors", tmp_path / "weights.pt"
    command = [sys.executable, "-c", SCRIPT, str(file), str(result)]
    for _ in range(2):
        process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "site\n"
        time.sleep(0.03)
        process.kill()
        process.wait()
        process.stdout.close()
        assert not result.exists()
    rest = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    model, slim, x = net()
    whole = fxprune.repair(slim, model, x)
    assert rest.stdout.count("site") < len(whole.meta["fxprune"].repair.sites)
    weights = torch.load(result, weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in whole.state_dict().items())
