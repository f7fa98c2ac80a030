"""Fine-tuning with second factors: trained as such, stopped and resumed, and folded in what is handed over."""

from __future__ import annotations

import contextlib

import pytest
import torch
from support.finetuning import Net, Noisy, data, same, tensors
from torch import nn

import fxprune
from fxprune.cli.app import main
from fxprune.recovery.finetune.options import FinetuneOptions

pytest.importorskip("accelerate", reason="needs the extra `train`")

QUICK = {"batch_size": 6, "epochs": 2, "lr": 0.1, "device": "cpu", "progress": False, "overparameterize": "do_conv"}


def test_it_is_the_training_of_the_wide_model_folded() -> None:
    """By hand: over-parameterise, train that, fold; decay is on both factors."""
    slim = Net().train()
    found = fxprune.finetune(slim, data(), **QUICK)
    wide = fxprune.finetune(fxprune.over_parameterize(slim), data(), **{**QUICK, "overparameterize": None})
    assert wide.one.D.abs().sum() > 0 and same(fxprune.fold(wide), found)
    assert tensors(found).keys() == tensors(slim).keys() and type(found.one) is nn.Conv2d
    assert not same(found, fxprune.finetune(slim, data(), **{**QUICK, "overparameterize": None}))
    assert found.meta["finetuning"]["over_parameterized"] == {"layers": {"one": 9, "two": 9}, "left": {}}


@pytest.mark.parametrize("stop", [2, 4])
def test_a_stopped_run_goes_on_to_the_same_weights(stop: int, tmp_path) -> None:
    """Between two checkpoints and in the second epoch; with the average of the factors, and a teacher."""
    torch.manual_seed(0)
    slim, teacher = Net(), Net()
    options = {**QUICK, "ema": 0.8, "optimizer": "adamw", "lr": 0.01, "checkpoint_every": 2}
    whole = fxprune.finetune(slim, Noisy(), teacher=teacher, out=tmp_path / "whole", **options)
    fxprune.finetune(slim, Noisy(), teacher=teacher, out=tmp_path, callback=lambda told: told["step"] == stop, **options)
    again = fxprune.finetune(slim, Noisy(), teacher=teacher, out=tmp_path, resume=True, **options)
    assert same(again, whole) and again.meta["finetuning"]["resumed"] == [stop]
    with pytest.raises(fxprune.InputError, match=r"of another run: overparameterize \(then 'do_conv', now None\)"):
        fxprune.finetune(slim, Noisy(), teacher=teacher, out=tmp_path, resume=True, **{**options, "overparameterize": None})


def test_a_pruned_model_costs_what_it_did(tmp_path) -> None:
    model, x = Net(), torch.zeros(2, 2, 6, 6)
    slim = fxprune.prune(model, 0.3, x)
    seen = []

    def evaluate(tuned: nn.Module) -> dict[str, float]:
        seen.append([type(part).__name__ for part in tuned.modules()])
        return {}

    found = fxprune.finetune(slim, data(), teacher=model, evaluate=evaluate, **QUICK)
    assert len(seen) == 2 and not any("DOConv2d" in names for names in seen)
    assert {n: t.shape for n, t in tensors(found).items()} == {n: t.shape for n, t in tensors(slim).items()}
    before, after = fxprune.analyze(slim, x), fxprune.analyze(found, x)
    assert (before.macs(), before.params()) == (after.macs(), after.params())
    assert found.meta["fxprune"].finetuning["options"]["overparameterize"] == "do_conv"
    again = fxprune.load(fxprune.save(found, tmp_path))
    assert torch.equal(again.eval()(x), found.eval()(x))


def test_what_cannot_be_done_is_refused() -> None:
    for given in ("doconv", True, 3):
        with pytest.raises(fxprune.InputError, match="overparameterize must be 'do_conv' or None"):
            FinetuneOptions(overparameterize=given)
    with pytest.raises(fxprune.InputError, match="leave it or overparameterize out"):
        fxprune.finetune(Net(), data(), sparsity=lambda model: model, **QUICK)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(fxprune.InputError, match="the model has no convolution that can be over-parameterised"):
        fxprune.finetune(flat, data(), **QUICK)
    with pytest.raises(fxprune.InputError, match="'one' is over-parameterised already"):
        fxprune.finetune(fxprune.over_parameterize(Net()), data(), **QUICK)


def test_the_command_takes_it(tmp_path, capsys) -> None:
    import numpy as np

    fxprune.save(fxprune.prune(Net(0.0).eval(), 0.3, torch.zeros(2, 2, 6, 6)), tmp_path / "slim")
    images, labels = (t.numpy() for t in data().tensors)
    np.savez(tmp_path / "data.npz", inputs=images, labels=labels)
    command = ["finetune", tmp_path / "slim", "--data", tmp_path / "data.npz", "--out", tmp_path / "out", "--epochs", 1]
    short = ["--batch-size", 6, "--set", "device=cpu", "--overparameterize", "do_conv"]
    with contextlib.suppress(SystemExit):
        main([*map(str, [*command, *short])])
    capsys.readouterr()
    found, slim = fxprune.load(tmp_path / "out"), fxprune.load(tmp_path / "slim")
    samples = torch.utils.data.TensorDataset(*data().tensors)
    expected = fxprune.finetune(slim, samples, **{**QUICK, "epochs": 1, "lr": 0.01})
    assert same(found, expected)
