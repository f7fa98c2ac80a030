"""An iteration that is killed and goes on gives the plan and the weights of one that was not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.killing import killed_again_and_again
from test_iterate import net, shaken
from torch import nn

import fxprune
from fxprune import InputError, PruneError
from fxprune.iterating import store

torch.set_num_threads(1)
IMAGES = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def run(folder: Path | None, **options: Any) -> tuple[list[Any], Any]:
    """Reports and the last slim model."""
    model, x = net()
    options = {"macs": 0.5, "steps": 3, "train": shaken, "verify": False, **options}
    reports: list[Any] = []
    for slim in fxprune.iterate(model, example_inputs=x, folder=folder, **options):
        reports.append(slim.meta["fxprune"])
    return reports, slim


def same(one: nn.Module, other: nn.Module) -> bool:
    found = other.state_dict()
    return all(torch.equal(v, found[n]) for n, v in one.state_dict().items())


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("after", "images"), [(False, None), *(pytest.param(after, IMAGES, marks=pytest.mark.slow) for after in (False, True))]
)
def test_it_may_end_at_any_write(after: bool, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of every file fails once, before or after the file is replaced; then the iteration goes on."""
    expected, whole = run(None, repair=images, steps=2)
    real, seen = store.replaced, set()

    def failing(path: Path, put: Any) -> None:
        content = Path(str(path) + ".try")
        put(content)
        mark = (path.name, content.read_bytes())
        content.unlink()
        if first := mark not in seen:
            seen.add(mark)
            if not after:
                raise Stop
        real(path, put)
        if first:
            raise Stop

    monkeypatch.setattr(store, "replaced", failing)
    ends = 0
    while True:
        try:
            reports, slim = run(tmp_path, repair=images, steps=2)
            break
        except Stop:
            ends += 1
    assert ends >= 12 and same(slim, whole)
    assert reports[-1].plan.to_json() == expected[-1].plan.to_json() == (tmp_path / "plan.json").read_text()
    assert [json.loads(line)["event"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()] == [
        "pruned",
        "trained",
    ] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "iteration.safetensors", "journal.jsonl", "plan-1.json", "plan-2.json", "plan.json",
    ]  # fmt: skip


def test_a_step_whose_body_was_cut_short_is_given_again(tmp_path: Path) -> None:
    model, x = net()
    seen: list[int] = []

    def loop(stop: int) -> None:
        for slim in fxprune.iterate(model, 0.5, x, steps=3, folder=tmp_path, verify=False):
            seen.append(slim.meta["fxprune"].step.number)
            with torch.no_grad():
                slim.get_submodule("7").bias.add_(1)
            if seen[-1] == stop:
                raise Stop

    for stop in (2, 3):
        with pytest.raises(Stop):
            loop(stop)
    loop(0)
    assert seen == [1, 2, 2, 3, 3]
    loop(0)
    assert seen[5:] == [3]  # of one that is done, the last step
    bias = load_file(tmp_path / "iteration.safetensors")["weights.7.bias"]
    torch.testing.assert_close(bias, model.get_submodule("7").bias.detach() + 4)


@pytest.mark.slow
def test_what_a_repair_did_is_kept(tmp_path: Path) -> None:
    expected, _ = run(tmp_path, repair=IMAGES, verify=True)
    (again,), _ = run(tmp_path, repair=IMAGES, verify=True)
    assert again.repair == expected[-1].repair and again.step == expected[-1].step and again.checks.passed
    assert again.step.trained and again.step.original.passed


def test_a_finetuning_resumes_too(tmp_path: Path) -> None:
    """What `fxprune.finetune` did is part of the report, before and after."""

    def train(slim: Any) -> Any:
        shaken(slim)
        slim.meta["fxprune"].finetuning = {"epochs": [{"loss": 1.0}]}

    run(tmp_path, train=train, steps=1)
    (again,), _ = run(tmp_path, train=train, steps=1)
    assert again.finetuning == {"epochs": [{"loss": 1.0}]}


# -- folders of something else --------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "options": ({"macs": 0.6}, "another options"),
    "criterion": ({"criterion": "l1"}, "another options"),
    "steps": ({"steps": 4}, "another schedule"),
    "schedule": ({"schedule": "linear"}, "another schedule"),
    "recovery": ({"repair": IMAGES}, "another way to recover"),
}


def test_a_folder_of_another_iteration_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=1)
    for options, text in OTHERS.values():
        with pytest.raises(InputError, match=text):
            run(tmp_path, **{"steps": 1, **options})
    model, x = net()
    nn.init.zeros_(model.get_submodule("7").bias)
    with pytest.raises(InputError, match="another model"):
        fxprune.iterate(model, example_inputs=x, macs=0.5, steps=1, train=shaken, folder=tmp_path)


def test_a_damaged_state_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run(tmp_path, steps=1)
    file = tmp_path / "iteration.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-100], whole.replace(b'"stage', b'"stege'), b"\0" * 64):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="no readable state of an iteration"):
            run(tmp_path, steps=1)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(InputError, match="no readable state"):
        run(tmp_path, steps=1)


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PruneError, match=r"cannot write .*No space"):
            run(tmp_path / "new", steps=1)
    assert not [*(tmp_path / "new").iterdir()]
    assert len(run(tmp_path / "new", steps=1)[0]) == 1


# -- killed processes -----------------------------------------------------------------------------------------------------


def killable(_: str, folder: str | None) -> None:
    run(None if folder is None else Path(folder), repair=IMAGES, verify=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Twenty times: killed again and again at random moments until it is done."""
    reports, whole = run(None, repair=IMAGES, verify=True)
    expected = reports[-1].plan.to_json()

    def check(folder: Path) -> None:
        assert (folder / "plan.json").read_text() == expected
        stored = load_file(folder / "iteration.safetensors")
        assert all(torch.equal(stored[f"weights.{n}"], v) for n, v in whole.state_dict().items())

    assert killed_again_and_again((__name__, "killable", ""), tmp_path, 20, check) >= 40
