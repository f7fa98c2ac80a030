"""Fine-tuning: what is minimised, in which order, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import copy
import json
import math
import random

import numpy as np
import pytest
import torch
from support.finetuning import CLASSES, Net, Noisy, data, same, tensors
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fxprune
from fxprune.recovery.finetune import chance
from fxprune.recovery.finetune.augment import moved
from fxprune.recovery.finetune.data import batches_of, share
from fxprune.recovery.finetune.losses import Objective, distillation
from fxprune.recovery.finetune.mixing import Mixer
from fxprune.recovery.finetune.options import FinetuneOptions
from fxprune.recovery.finetune.schedule import rate

pytest.importorskip("accelerate", reason="needs the extra `train`")

QUICK = {"batch_size": 6, "epochs": 2, "lr": 0.1, "device": "cpu", "progress": False}
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


# ---------------------------------------------------------------- parts


def test_distillation_is_the_formula() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    q, p = np.exp(teacher.numpy() / 2), np.exp(student.numpy() / 2)
    q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
    expected = 4 * (q * np.log(q / p)).sum(1).mean()
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    maps = distillation(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), 2.0)  # the mean over positions, too
    assert maps.shape == () and maps > 0
    student.requires_grad_()
    distillation(student, teacher, 1e4).backward()  # equation 4 of the paper: (s - t) / classes, for centred logits
    centred = [v.detach() - v.detach().mean(1, keepdim=True) for v in (student, teacher)]
    torch.testing.assert_close(student.grad * 5, (centred[0] - centred[1]) / 4, rtol=1e-2, atol=1e-3)


def test_a_teacher_alone_needs_no_labels() -> None:
    slim, teacher = Net(dropout=0.0), Net(dropout=0.0)
    images = [(x,) for x, _ in DataLoader(data(), batch_size=11)]
    found = fxprune.finetune(slim, images, teacher=teacher, distill_weight=1, **QUICK)
    labelled = fxprune.finetune(slim, [(x, torch.zeros(11)) for (x,) in images], teacher=teacher, distill_weight=1, **QUICK)
    assert same(found, labelled) and not same(found, slim)
    with pytest.raises(fxprune.InputError, match="hold no labels"):
        fxprune.finetune(slim, images, teacher=teacher, **QUICK)
    apart = fxprune.finetune(slim, data(), teacher=teacher, distill_weight=0, **QUICK)
    assert same(apart, fxprune.finetune(slim, data(), **QUICK))


def test_schedules() -> None:
    def rates(**given) -> list[float]:
        options = FinetuneOptions(epochs=4, lr=1.0, **given)
        return [round(rate(options, step, 5), 4) for step in (0, 1, 3, 4, 9, 10, 19)]

    assert rates(schedule="constant", warmup_steps=4) == [0.25, 0.5, 1, 1, 1, 1, 1]
    assert rates(schedule="step", milestones=(1, 2)) == [1, 1, 1, 1, 0.1, 0.01, 0.01]
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * s / 20)) / 2 for s in (0, 1, 3, 4, 9, 10, 19)]
    assert rates(lr_min=0.2) == [round(v, 4) for v in cosine]
    assert rates(warmup_steps=10) == [0.1, 0.2, 0.4, 0.5, 1, 1, round((1 + math.cos(math.pi * 0.9)) / 2, 4)]
    assert rates(warmup_steps=20)[-1] == 1


def test_the_average_is_that_of_the_formula() -> None:
    """The first step sets it, each one after moves it by 1 - decay."""
    slim, seen = Net(dropout=0.0), []
    images = [data().tensors]
    plain = {**QUICK, "epochs": 3}

    def weights(epochs: int) -> torch.Tensor:
        cut = {**plain, "callback": lambda told: told["step"] == epochs}
        return fxprune.finetune(slim, images, **cut).head.weight.detach()

    seen = [weights(n) for n in (1, 2, 3)]
    expected = 0.6 * (0.6 * seen[0] + 0.4 * seen[1]) + 0.4 * seen[2]
    found = fxprune.finetune(slim, images, ema=0.6, **plain)
    torch.testing.assert_close(found.head.weight.detach(), expected)
    assert found.meta["finetuning"]["averaged"]


def test_a_mask_of_infinities_stays_what_it_is() -> None:
    """A buffer of attention, of which a plain average would make NaN."""

    class Masked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.0]))

        def forward(self, x):
            return super().forward(x) + self.mask.exp()

    found = fxprune.finetune(Masked(), data(), ema=0.5, **QUICK)
    assert found.mask.tolist() == [0.0, -math.inf, 0.0] and torch.isfinite(found.head.weight).all()


def test_pruned_submodules_are_trained_in_their_model() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Net(dropout=0.0)

        def forward(self, x):
            return self.part(x) * (2.0 if float(x.sum()) > 0 else 1.0)  # which no graph can hold

    slim = fxprune.prune(Outer(), 0.3, torch.zeros(2, 2, 6, 6), submodules="part")
    found = fxprune.finetune(slim, data(), **QUICK)
    assert type(found) is Outer and not same(found, slim)
    assert found.meta["fxprune"].finetuning["steps"] == 6 and slim.meta["fxprune"].finetuning is None


@pytest.mark.parametrize("count", [6, 7])
def test_mixup_is_the_formula(count: int) -> None:
    options = FinetuneOptions(mixup=1.0, label_smoothing=0.3, seed=4)
    images, labels = torch.randn(count, 1, 2, 2), torch.arange(count) % 3
    kept = images.clone()
    mixed, target = Mixer(options, 3)(images, labels, step=7)
    smooth = F.one_hot(labels, 3) * 0.7 + 0.1
    share = ((mixed[0] - images[-1]) / (images[0] - images[-1])).mean()
    assert 0.01 < share < 0.99 and torch.equal(images, kept)
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, share * smooth + (1 - share) * smooth.flip(0), rtol=1e-4, atol=1e-5)
    again = Mixer(options, 3)(images, labels, step=7)[0]
    assert torch.equal(again, mixed) and not torch.equal(Mixer(options, 3)(images, labels, step=8)[0], mixed)


def test_cutmix_takes_a_box_and_its_share_of_the_label() -> None:
    images, labels = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8), torch.arange(4)
    mixed, target = Mixer(FinetuneOptions(cutmix=1.0, seed=1), 4)(images, labels, step=0)
    other = (mixed[0] == 3).float().mean()
    assert 0 < other < 1
    torch.testing.assert_close(target[0], torch.tensor([1 - other, 0, 0, other]))


def test_images_are_moved_and_mirrored() -> None:
    image = torch.arange(1.0, 10).reshape(1, 1, 3, 3).expand(200, 1, 3, 3)
    options = FinetuneOptions(shift=1, flip=True)
    rows = torch.arange(200)
    found = moved(image, options, 0, rows, 200)
    padded = F.pad(image[:1], (1, 1, 1, 1))
    expected = {tuple(padded[0, 0, y : y + 3, x : x + 3].flatten().tolist()) for y in range(3) for x in range(3)}
    expected |= {tuple(torch.tensor(e).reshape(3, 3).flip(1).flatten().tolist()) for e in set(expected)}
    assert {tuple(v.flatten().tolist()) for v in found} == expected  # 18 ways
    assert torch.equal(moved(image[:50], options, 0, rows[100:150], 200), found[100:150])
    assert not torch.equal(moved(image, options, 1, rows, 200), found)


def test_accelerate_is_left_as_it_was() -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for precision in ("fp32", "bf16"):  # accelerate alone would refuse the second
        found = fxprune.finetune(Net(), data(), precision=precision, **QUICK)
        assert found.one.weight.dtype is torch.float32
        assert not AcceleratorState._shared_state and not PartialState._shared_state and not GradientState._shared_state


# ---------------------------------------------------------------- several processes, played by one


@pytest.mark.parametrize("total", [2, 7, 10, 13])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_batch_in_pairs(total: int, processes: int) -> None:
    shares = [share(total, p, processes) for p in range(processes)]
    assert sorted(torch.cat(shares).tolist()) == list(range(total))
    for rows in shares:
        assert torch.equal(rows.flip(0), total - 1 - rows)


@pytest.mark.parametrize("kind", ["dataset", "list"])
def test_two_processes_see_what_one_would(kind: str) -> None:
    """Order, samples, moves, mixing: put together, the shares are the batches of one process."""
    options = FinetuneOptions(batch_size=6, shift=1, flip=True, mixup=0.5, cutmix=0.5, drop_last=False)
    source = Noisy() if kind == "dataset" else [tuple(t[i : i + 6] for t in data().tensors) for i in range(0, 22, 6)]
    mixer = Mixer(options, CLASSES)

    def read(process: int, processes: int) -> list[dict[int, tuple]]:
        found = []
        for step, part in enumerate(batches_of(source, options, process, processes).epoch(3, 0)):
            images = moved(part.args[0], options, step, part.rows, part.total)
            images, target = mixer(images, part.labels, step)
            found.append({int(r): (x, t) for r, x, t in zip(part.rows, images, target, strict=True)})
        return found

    one, first, second = read(0, 1), read(0, 2), read(1, 2)
    assert len(one) == len(first) == 4
    for whole, a, b in zip(one, first, second, strict=True):
        both = {**a, **b}
        assert both.keys() == whole.keys() and len(both) == len(a) + len(b)
        for row, (image, target) in whole.items():
            torch.testing.assert_close(both[row][0], image)
            torch.testing.assert_close(both[row][1], target)


def test_a_norm_of_two_processes_is_that_of_one(monkeypatch) -> None:
    from fxprune.recovery.finetune import distributed

    whole, norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(7, 3, 4, 4) * 3 + 1
    expected = whole(x)
    mean = x.mean((0, 2, 3))
    sums = iter([torch.cat([x.sum((0, 2, 3)), torch.tensor([7.0 * 16])]), (x - mean.view(1, 3, 1, 1)).square().sum((0, 2, 3))])
    monkeypatch.setattr(distributed, "_summed", lambda value: next(sums))
    assert distributed.synchronise_norms(norm) == 1
    torch.testing.assert_close(norm(x[:3]), expected[:3], rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(norm, name), getattr(whole, name))
    assert torch.equal(norm.eval()(x), nn.BatchNorm2d.forward(norm, x))


def test_order_follows_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, start: int = 0) -> list[int]:
        numbered = TensorDataset(torch.arange(12.0)[:, None], torch.arange(12))
        batches = batches_of(numbered, FinetuneOptions(batch_size=4, seed=seed), 0, 1)
        return [int(v) for part in batches.epoch(epoch, start) for v in part.labels]

    assert sorted(order(0, 0)) == list(range(12)) and order(0, 0) != order(0, 1) != order(1, 1)
    assert order(0, 1, start=2) == order(0, 1)[8:]


def test_chance_is_decided_by_what_it_is_for() -> None:
    def draws(*what) -> tuple[float, ...]:
        chance.seed_everything(*what)
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    with chance.kept():
        assert draws(0, "step", 1) == draws(0, "step", 1)
        assert len({draws(*what) for what in ((0, "step", 1), (0, "step", 2), (1, "step", 1), (0, "batch", 1))}) == 4


def test_the_objective_takes_a_loss_of_ones_own() -> None:
    seen = []

    def loss(output, labels):
        seen.append(labels)
        return F.mse_loss(output, F.one_hot(labels, CLASSES).float())

    found = fxprune.finetune(Net(), data(), loss=loss, **QUICK)
    assert len(seen) == 6 and found.meta["finetuning"]["epochs"][0]["loss"] < 1
    with pytest.raises(fxprune.InputError, match=r"one number, the mean over the batch, not a tensor of shape \(2,\)"):
        Objective(FinetuneOptions(), False, lambda o, y: torch.ones(2))(None, None, None)
