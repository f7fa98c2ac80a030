"""What `validate` measures, against figures worked out by hand, and what it leaves alone."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fingerprint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import flop_counter

import fxprune
from fxprune.errors import InputError
from fxprune.recovery.intervals import mcnemar, paired_interval, wilson
from fxprune.recovery.tally import calibration_error
from fxprune.statistics.costs import macs_of

CLASSES = 7


class Says(nn.Module):
    """Gives the columns of its input as logits."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2 * CLASSES)[:, start : start + CLASSES].clone())

    def forward(self, x: Tensor) -> Tensor:  # [N, 14] -> [N, 7]
        return x @ self.weight


def said(count: int = 200) -> tuple[Tensor, Tensor]:
    """Logits of two models side by side, and labels."""
    return torch.randn(count, 2 * CLASSES) * 2, torch.randint(0, CLASSES, (count,))


def in_batches(x: Tensor, y: Tensor | None = None, size: int = 64) -> list[Any]:
    parts = x.split(size)
    return [*parts] if y is None else list(zip(parts, y.split(size), strict=True))


def run(*arguments: Any, **options: Any) -> fxprune.Validation:
    return fxprune.validate(*arguments, **({"latency": False} | options))


def test_figures_of_a_classifier() -> None:
    x, y = said()
    logits = [x[:, :CLASSES].double(), x[:, CLASSES:].double()]
    found = run(Says(0), Says(CLASSES), in_batches(x, y))
    right = [(part.argmax(1) == y) for part in logits]
    for figures, part, hits in zip((found.dense, *found.slim), logits, right, strict=True):
        assert figures.top1.value == hits.double().mean()
        assert (figures.top1.low, figures.top1.high) == wilson(int(hits.sum()), len(y))
        five = (part.topk(5).indices == y[:, None]).any(1)
        assert figures.top5.value == five.double().mean()
        assert figures.loss.value == pytest.approx(float(F.cross_entropy(part, y)))
        assert figures.loss.low < figures.loss.value < figures.loss.high
        assert figures.calibration == pytest.approx(by_hand(part, y, 15))
        assert figures.params == 2 * CLASSES * CLASSES and figures.macs == 2 * CLASSES * CLASSES
    against = found.of("slim").against
    gained, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    assert gained and lost
    assert against.top1.value == (gained - lost) / len(y)
    assert against.top1.value == pytest.approx(found.slim[0].top1.value - found.dense.top1.value)
    assert (against.top1.low, against.top1.high) == paired_interval(gained, lost, len(y))
    assert against.top1.p == mcnemar(gained, lost)
    assert against.agreement.value == (logits[0].argmax(1) == logits[1].argmax(1)).double().mean()
    assert against.distance == pytest.approx(float((logits[1] - logits[0]).norm() / logits[0].norm()))
    assert against.loss.value == pytest.approx(found.slim[0].loss.value - found.dense.loss.value)
    assert against.loss.low < against.loss.value < against.loss.high
    assert (found.images, found.labelled, found.batch, found.model) == (200, True, 64, "Says")
    assert (against.macs, against.params, against.latency) == (1, 1, None)


def by_hand(logits: Tensor, labels: Tensor, bins: int) -> float:
    """Expected calibration error, bin by bin."""
    chance, best = logits.softmax(1).max(1)
    total = 0.0
    for m in range(1, bins + 1):
        inside = (chance > (m - 1) / bins) & (chance <= m / bins)
        if inside.any():
            accuracy, confidence = (best == labels)[inside].double().mean(), chance[inside].mean()
            total += float(inside.double().mean() * (accuracy - confidence).abs())
    return total


def test_calibration_error_on_the_edges_of_bins() -> None:
    """0.5 belongs to the bin below, as in the paper's ((m - 1) / M, m / M]."""
    confidence, right = np.array([0.5, 0.51, 1.0]), np.array([1.0, 0.0, 1.0])
    assert calibration_error(confidence, right, 2) == pytest.approx((0.5 + abs(-0.51 + 0.0)) / 3)
    assert calibration_error(np.ones(4), np.ones(4), 15) == 0


def test_a_model_beside_itself() -> None:
    x, y = said()
    net = Says(0)
    against = run(net, {"itself": net}, in_batches(x, y)).of("itself").against
    assert (against.agreement.value, against.distance, against.top1.value, against.top1.p) == (1, 0, 0, 1)
    assert against.top1.low < 0 < against.top1.high  # no difference on 200 images is not none at all
    assert (against.loss.low, against.loss.high) == (0, 0)


def test_ties_and_what_is_not_a_number() -> None:
    """Of equal logits the first class counts; an image without numbers is wrong, and the models do not agree on it."""
    x, y = torch.zeros(4, 2 * CLASSES), torch.tensor([0, 1, 0, 0])
    x[3] = torch.nan
    found = run(Says(0), Says(CLASSES), [(x, y)])
    assert found.dense.top1.value == 0.5 and found.dense.top5.value == 0.75
    assert found.slim[0].against.agreement.value == 0.75
    assert any("not a number for 1 images" in note for note in found.notes)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["dense"]["loss"]["value"] is None and document["dense"]["top1"]["value"] == 0.5


def test_few_classes_have_no_top5() -> None:
    net = nn.Linear(4, 5)
    found = run(net, net, [(torch.randn(8, 4), torch.randint(0, 5, (8,)))])
    assert found.dense.top1 is not None and found.dense.top5 is None and found.slim[0].against.top5 is None


def test_without_labels() -> None:
    x, _ = said()
    found = run(Says(0), Says(CLASSES), in_batches(x))
    assert not found.labelled and found.dense.top1 is found.dense.loss is found.dense.calibration is None
    assert 0 < found.slim[0].against.agreement.value < 1 and found.slim[0].against.distance > 0
    assert "without labels" in str(found) and "top-1" not in str(found)


# -- metrics -------------------------------------------------------------------------------------------------------------


class Hits:
    """A metric as torchmetrics has them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, output: Tensor, labels: Tensor) -> None:
        self.right += int((output.argmax(1) == labels).sum())
        self.seen += len(labels)

    def compute(self) -> dict[str, Any]:
        return {"share": torch.tensor(self.right / self.seen), "counts": torch.tensor([self.right, self.seen])}


def test_metrics_of_every_kind() -> None:
    x, y = said(150)
    own = Hits()
    own.right, own.seen = 5, 5  # of somebody else's use: neither read nor changed

    def squares(output: Tensor, labels: Tensor) -> Tensor:
        return (output - F.one_hot(labels, CLASSES)).square().mean(1)

    def of_batch(output: Tensor, labels: Tensor) -> float:
        return float(squares(output, labels).mean())

    found = run(Says(0), Says(CLASSES), in_batches(x, y), metric={"hits": own, "brier": squares, "mean": of_batch})
    dense, slim = found.dense.metrics, found.slim[0].metrics
    assert dense["share"].value == pytest.approx(found.dense.top1.value, abs=1e-6)
    assert (dense["counts.0"].value, dense["counts.1"].value) == (found.dense.top1.value * 150, 150)
    assert dense["brier"].value == pytest.approx(float(squares(x[:, :CLASSES], y).mean()), rel=1e-5)
    assert dense["mean"].value == pytest.approx(dense["brier"].value)  # batches of 64, 64 and 22
    assert dense["brier"].low < dense["brier"].value < dense["brier"].high and dense["mean"].low is dense["share"].low is None
    changed = found.slim[0].against.metrics
    assert changed["brier"].value == pytest.approx(slim["brier"].value - dense["brier"].value)
    assert changed["brier"].low < changed["brier"].value < changed["brier"].high
    assert changed["share"].value == pytest.approx(found.slim[0].against.top1.value, abs=1e-6)
    assert (own.right, own.seen) == (5, 5)


def test_a_single_metric_has_its_own_name() -> None:
    x, y = said(64)

    def margin(output: Tensor, labels: Tensor) -> Tensor:
        return output.topk(2).values.diff(dim=1)[:, 0]

    assert [*run(Says(0), Says(0), [(x, y)], metric=margin).dense.metrics] == ["margin"]
    assert [*run(Says(0), Says(0), [(x, y)], metric=Hits()).dense.metrics] == ["share", "counts.0", "counts.1"]


class Boxes(nn.Module):
    """Gives no logits: a dict of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"maps": self.conv(x)}


def test_outputs_other_than_logits() -> None:
    net, x = Boxes(), torch.randn(6, 3, 8, 8)
    slim = fxprune.prune(nn.Sequential(net.conv, nn.Conv2d(4, 2, 1)), 0.5, x)
    assert run(net, Boxes(), [x]).slim[0].against.distance > 0
    with pytest.raises(InputError, match=r"output is a dict, no logits \[6, classes\].*metric= or loss="):
        run(net, net, [(x, torch.zeros(6))])
    with pytest.raises(InputError, match=r"output is of shape \(6, 2, 6, 6\)"):
        run(slim, slim, [(x, torch.zeros(6).long())])

    def above(output: dict[str, Tensor], labels: Tensor) -> Tensor:
        return (output["maps"].mean((1, 2, 3)) > labels).float()

    found = run(net, Boxes(), [(x, torch.zeros(6))], metric=above, loss=lambda o, y: o["maps"].square().mean())
    assert found.dense.metrics["above"].value == above(net(x), torch.zeros(6)).mean()
    assert found.dense.loss.value == pytest.approx(net(x)["maps"].square().mean().item(), rel=1e-6)
    assert found.dense.loss.low is None and found.dense.top1 is None


def test_a_loss_of_ones_own_replaces_cross_entropy() -> None:
    x, y = said(50)
    found = run(Says(0), Says(0), [(x, y)], loss=lambda output, labels: output[:, 0])
    assert found.dense.loss.value == pytest.approx(float(x[:, 0].mean()), rel=1e-5) and found.dense.loss.low is not None


@dataclass
class Output:
    logits: Tensor


class Named(nn.Module):
    """Takes two inputs by name, one with a default; gives an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Output:
        return Output(self.head(tokens if mask is None else tokens * mask))


def test_batches_of_every_form() -> None:
    net, x, y, mask = Named(), torch.randn(5, 4), torch.randint(0, 3, (5,)), torch.zeros(5, 4)
    named = {"tokens": x, "labels": y, "other": "text"}
    plain = run(net, net, [(x, y)])
    assert run(net, net, [named]).dense.loss == plain.dense.loss
    assert run(net, net, [(x, mask, y)]).dense.loss == run(net, net, [{**named, "mask": mask}]).dense.loss != plain.dense.loss
    assert not run(net, net, [x]).labelled
    slim = fxprune.prune(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), 0.5, x)
    assert run(slim, slim, [(x, y)]).labelled
    with pytest.raises(InputError, match="holds 3 inputs"):
        run(slim, slim, [(x, mask, y)])


# -- what it leaves alone ------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Writes into a buffer and an attribute, and has dropout and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))
        self.register_buffer("calls", torch.zeros(()))
        self.last: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last.append(len(x))
        return self.body(x)


def test_models_come_out_as_they_went_in() -> None:
    net = Counting()
    net.body[1].eval()
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    slim = fxprune.prune(net.body, 0.5, x).train()
    other = Counting()
    before = [fingerprint(net), fingerprint(slim)], torch.get_rng_state()
    given = x.clone()
    found = fxprune.validate(net, {"slim": slim, "other": other}, in_batches(x, y, 16), batches=2)
    assert [fingerprint(net), fingerprint(slim)] == before[0] and net.last == [] and torch.equal(given, x)
    assert torch.equal(torch.get_rng_state(), before[1])
    assert found.images == 32 and found.dense.latency > 0 and found.slim[0].against.latency > 0
    # In evaluation mode: no dropout, running statistics.
    with torch.no_grad():
        expected = F.cross_entropy(net.body.eval()(x[:32]), y[:32])
    assert found.dense.loss.value == pytest.approx(float(expected), rel=1e-5)


def test_a_model_that_writes_into_its_inputs() -> None:
    class Writes(Says):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.add_(1.0))

    x, y = said(32)
    kept = x.clone()
    found = run(Writes(0), Writes(0), [(x, y)])
    assert torch.equal(x, kept) and found.slim[0].against.agreement.value == 1 == 1 - found.slim[0].against.distance


def test_the_report_keeps_the_figures() -> None:
    x, y = torch.randn(32, 8), torch.randint(0, 6, (32,))
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6))
    slims = [fxprune.prune(net, ratio, x) for ratio in (0.25, 0.5)]
    found = run(net, slims, [(x, y)])
    assert [figures.name for figures in found.slim] == ["slim 1", "slim 2"]
    for figures, slim in zip(found.slim, slims, strict=True):
        report = slim.meta["fxprune"]
        assert report.validation.slim == (figures,) and report.validation.dense == found.dense
        assert report.to_dict()["validation"]["slim"][0]["name"] == figures.name
        assert (found.dense.macs, figures.macs) == (report.macs_before, report.macs_after)
        assert (found.dense.params, figures.params) == (report.params_before, report.params_after)
    with pytest.raises(FrozenInstanceError):
        found.images = 3


def test_macs_of_attention_are_counted_in_both() -> None:
    """The fused kernel of `nn.TransformerEncoderLayer` has no formula: it is not used while MACs are counted."""
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    slim = fxprune.prune(net, 0.5, x, ignore="self_attn*")
    found, report = run(net, slim, [x]), slim.meta["fxprune"]
    assert (found.dense.macs, found.slim[0].macs) == (report.macs_before, report.macs_after)
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_of_attention_need_no_new_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.15 PyTorch has a formula of attention for GPUs alone."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    monkeypatch.setattr(flop_counter, "flop_registry", {k: v for k, v in flop_counter.flop_registry.items() if k != kernel})
    x = torch.randn(2, 3, 5, 8)  # samples, heads, tokens, channels
    assert macs_of(lambda: F.scaled_dot_product_attention(x, x, x)) == 2 * (2 * 3 * 5 * 5 * 8)


def test_the_table() -> None:
    x, y = said()
    lines = str(fxprune.validate(Says(0), [Says(CLASSES), Says(0)], in_batches(x, y))).splitlines()
    assert lines[0].startswith("Says: 200 images, CPU with 1 thread; intervals of 95%")
    assert lines[1].split() == ["dense", "slim", "1", "slim", "2"]
    names = [line.split("  ")[0] for line in lines[2:] if not line.startswith(" ")]
    assert names == [
        *("top-1", "top-5", "loss", "calibration error, 15 bins", "agreement with dense", "distance from dense"),
        *("MACs an image", "parameters", "ms for 64 images"),
    ]
    assert "+0.00 (-1.88 to +1.88), p 1.0000" in lines[3]  # 3.84 / (200 + 3.84)


def test_autocast_runs_in_another_precision() -> None:
    x, y = said(64)
    one, other = (run(Says(0), Says(0), [(x, y)], autocast=kind).dense.loss.value for kind in (None, torch.bfloat16))
    assert one != other and one == pytest.approx(other, rel=0.02)
