"""Fine-tuning: what is minimised, in which order, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from support.finetuning import CLASSES, QUICK, Net, Noisy, data, same, tensors
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fxprune

pytest.importorskip("accelerate", reason="needs the extra `train`")

RICH = {
    **QUICK,
    "optimizer": "adamw",
    "lr": 0.01,
    "mixup": 0.4,
    "cutmix": 1.0,
    "ema": 0.8,
    "shift": 1,
    "flip": True,
    "clip_norm": 0.5,
    "label_smoothing": 0.1,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "log_every": 1,
}


class Killed(Exception):
    """What stands for a killed process."""


def kill_at(step: int):
    def callback(told: dict) -> None:
        if told["step"] == step:
            raise Killed

    return callback


# ---------------------------------------------------------------- the sum that is minimised


def test_the_weights_are_those_of_the_loop_written_out() -> None:
    """SGD with momentum, Nesterov and weight decay on weights alone, a cosine, and the loss of Hinton et al."""
    torch.manual_seed(3)
    slim, teacher = Net(dropout=0.0).train(), Net(dropout=0.0)
    loader = [(x, y) for x, y in DataLoader(data(), batch_size=8)]  # 8, 8, 6
    found = fxprune.finetune(slim, loader, teacher=teacher, temperature=3.0, distill_weight=0.7, label_smoothing=0.1, **QUICK)

    model, teacher = copy.deepcopy(slim), copy.deepcopy(teacher).eval()
    weights, others = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0}], momentum=0.9, nesterov=True, lr=1
    )
    for step, (x, y) in enumerate(loader * 2):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 + math.cos(math.pi * step / 6)) / 2
        logits, taught = model(x), teacher(x).detach()
        q, p = (taught / 3).softmax(1), (logits / 3).softmax(1)
        hard = F.cross_entropy(logits, y, label_smoothing=0.1)
        soft = 9 * (q * (q.log() - p.log())).sum(1).mean()
        optimizer.zero_grad()
        (0.3 * hard + 0.7 * soft).backward()
        optimizer.step()
    for name, value in tensors(model).items():
        torch.testing.assert_close(tensors(found)[name], value, rtol=1e-4, atol=1e-5)
    assert not same(found, slim)


def test_nothing_that_was_given_is_changed() -> None:
    slim, teacher, images = Net().eval(), Net().train(), data()
    before = copy.deepcopy((slim, teacher, images.tensors))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    found = fxprune.finetune(slim, images, teacher=teacher, **{**RICH, "epochs": 1})
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert same(slim, before[0]) and same(teacher, before[1]) and teacher.training and not slim.training
    assert all(map(torch.equal, images.tensors, before[2])) and not hasattr(slim, "meta")
    assert not found.training and all(p.requires_grad for p in found.parameters())
    batches = [images.tensors]  # which mixing must not write into
    fxprune.finetune(slim, batches, **{**RICH, "epochs": 1})
    assert all(map(torch.equal, images.tensors, before[2]))


def test_a_pruned_model_keeps_its_report_and_can_be_saved(tmp_path) -> None:
    model = Net()
    slim = fxprune.prune(model, 0.3, torch.zeros(2, 2, 6, 6))
    found = fxprune.finetune(slim, data(), teacher=model, evaluate=lambda m: {"mode": float(m.training)}, **QUICK)
    report = found.meta["fxprune"]
    assert slim.meta["fxprune"].finetuning is None and report.plan is slim.meta["fxprune"].plan
    assert report.finetuning == found.meta["finetuning"] == report.to_dict()["finetuning"]
    epochs = report.finetuning["epochs"]
    assert [e["epoch"] for e in epochs] == [0, 1] and all(e["images"] == 18 and e["mode"] == 0.0 for e in epochs)
    assert report.finetuning["steps"] == 6 and "follow from the seed" in report.finetuning["promise"]
    json.dumps(report.to_dict())
    again = fxprune.load(fxprune.save(found, tmp_path / "slim"))
    x = data().tensors[0]
    assert torch.equal(again.eval()(x), found.eval()(x))


def test_training_helps() -> None:
    """Labels that can be learnt are."""
    images, labels = torch.randn(60, 2, 6, 6) * 0.3, torch.arange(60) % CLASSES
    images[labels == 1, 0] += 1
    images[labels == 2, 1] += 1
    found = fxprune.finetune(Net(), TensorDataset(images, labels), **{**QUICK, "batch_size": 20, "epochs": 12})
    epochs = found.meta["finetuning"]["epochs"]
    assert epochs[0]["accuracy"] < 0.8 < 0.9 < epochs[-1]["accuracy"] and epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
    assert (found.eval()(images).argmax(1) == labels).float().mean() > 0.9


# ---------------------------------------------------------------- stopped and resumed


# Killed in the callback of a step: after its checkpoint, but before that of the epoch.
RESUMED = {1: [], 4: [2], 6: [6], 7: [6]}


@pytest.mark.parametrize("stop", RESUMED)
@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_a_stopped_run_goes_on_to_the_same_weights(kind: str, stop: int, tmp_path) -> None:
    """Bit for bit: before the first checkpoint, between two, at the end of an epoch, in the second one."""
    torch.manual_seed(0)
    slim, teacher = Net(), Net()
    options = {**RICH, "drop_last": False}  # 4 batches of 6, 6, 6 and 4 images

    def loader():
        return Noisy() if kind == "dataset" else DataLoader(Noisy(), batch_size=6, shuffle=True)

    whole = fxprune.finetune(slim, loader(), teacher=teacher, out=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        fxprune.finetune(slim, loader(), teacher=teacher, out=tmp_path / "cut", callback=kill_at(stop), **options)
    torch.manual_seed(99)  # the state of the process has no say
    found = fxprune.finetune(slim, loader(), teacher=teacher, out=tmp_path / "cut", resume=True, **options)
    assert same(found, whole) and not same(found, slim)
    last = {
        1: [],
        4: [2],
        6: [4],
        7: [6],
    }  # killed in the callback, which comes after the checkpoint but of an epoch's last step
    assert found.meta["finetuning"]["resumed"] == {1: [], 4: [2], 6: [6], 7: [6]}[stop] or last[stop] == []
    histories = [m.meta["finetuning"]["epochs"] for m in (whole, found)]
    assert [{**e, "seconds": 0} for e in histories[0]] == [{**e, "seconds": 0} for e in histories[1]]
    logs = [[json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("whole", "cut")]
    told = [[e for e in log if e["event"] == "step"] for log in logs]
    assert told[0] == told[1] and [e["step"] for e in told[0]] == list(range(1, 9))


def test_a_callback_ends_a_run_that_can_be_resumed(tmp_path) -> None:
    slim = Net()
    whole = fxprune.finetune(slim, data(), **QUICK)
    part = fxprune.finetune(slim, data(), out=tmp_path, callback=lambda told: told["step"] == 5, **QUICK)
    assert part.meta["finetuning"]["stopped"] and part.meta["finetuning"]["steps"] == 5 and not same(part, whole)
    assert same(fxprune.finetune(slim, data(), out=tmp_path, resume=True, **QUICK), whole)
    assert same(fxprune.finetune(slim, data(), out=tmp_path, resume=True, **QUICK), whole)  # one that has ended


def test_what_evaluation_loses_training_does_not(tmp_path) -> None:
    slim = Net()

    def evaluate(model: nn.Module) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):
        fxprune.finetune(slim, data(), out=tmp_path, evaluate=evaluate, **QUICK)
    found = fxprune.finetune(slim, data(), out=tmp_path, resume=True, **QUICK)
    assert found.meta["finetuning"]["resumed"] == [3] and same(found, fxprune.finetune(slim, data(), **QUICK))


def test_a_checkpoint_is_plain_tensors_and_json(tmp_path) -> None:
    from safetensors import safe_open

    fxprune.finetune(Net(), data(), out=tmp_path, **{**RICH, "epochs": 1})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.safetensors", "log.jsonl"]
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        names = set(file.keys())
        assert json.loads(file.metadata()["fxprune.finetune"])["step"] == 3
    kinds = ("model.one.weight", "model.norm.running_var", "ema.one.weight", "optimizer.one.weight:exp_avg_sq")
    assert names >= {*kinds, "optimizer.head.bias:step"}


def test_a_checkpoint_of_another_run_is_refused(tmp_path) -> None:
    slim, teacher = Net(), Net()
    fxprune.finetune(slim, data(), teacher=teacher, out=tmp_path, **{**QUICK, "epochs": 1})
    cases = [
        ({"epochs": 3}, slim, teacher, "epochs .then 1, now 3"),
        ({"epochs": 1}, Net(), teacher, "weights of the slim model"),
        ({"epochs": 1}, slim, Net(), "weights of the teacher model"),
        ({"epochs": 1, "batch_size": 5}, slim, teacher, "batch_size .then 6, now 5.*, batches of an epoch .then 3, now 4"),
    ]
    for changed, model, taught, sentence in cases:
        with pytest.raises(fxprune.InputError, match=sentence):
            fxprune.finetune(model, data(), teacher=taught, out=tmp_path, resume=True, **{**QUICK, **changed})
    with pytest.raises(fxprune.InputError, match="holds the checkpoint of a run"):
        fxprune.finetune(slim, data(), teacher=teacher, out=tmp_path, **{**QUICK, "epochs": 1})
    free = {**QUICK, "epochs": 1, "log_every": 2, "checkpoint_every": 1}
    fxprune.finetune(slim, data(), teacher=teacher, out=tmp_path, resume=True, **free)
    for damage in (b"", b"\0" * 40, (tmp_path / "checkpoint.safetensors").read_bytes()[:-9]):
        (tmp_path / "checkpoint.safetensors").write_bytes(damage)
        with pytest.raises(fxprune.InputError, match="no readable checkpoint"):
            fxprune.finetune(slim, data(), teacher=teacher, out=tmp_path, resume=True, **QUICK)
