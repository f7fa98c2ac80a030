"""The parts of fine-tuning: losses, schedules, averages, mixed images, and what several processes share."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from support.finetuning import CLASSES, QUICK, Net, Noisy, data, same
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

# ---------------------------------------------------------------- parts

pytest.importorskip("accelerate", reason="needs the extra `train`")


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
