"""Sparse learning in `finetune`: resumed to the same bits; and that it makes pruning cost less."""

from __future__ import annotations

import pytest
import torch
from support.finetuning import QUICK, Net, data, same
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune import sparsity
from fxprune.errors import InputError
from fxprune.inputs.digits import digits

X = torch.zeros(2, 2, 6, 6)
METHODS = {
    "group": lambda m: sparsity.GroupPenalty(m, X, strength=0.05),
    "scp": lambda m: sparsity.SCP(m, X, strength=0.05, gate=sparsity.Gate(center=0.6)),
    "admm": lambda m: sparsity.ADMM(m, X, ratio=(0.2, 0.5), rho=0.1, every=2, rounds=1),
}


class Killed(Exception):
    """What stands for a killed process."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "admm" else pytest.mark.slow) for n in METHODS])
def test_a_killed_run_resumes_to_the_same_weights(name: str, tmp_path) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `train`")

    def kill(told: dict) -> None:
        if told["step"] == 4:
            raise Killed

    slim, options = Net(), {**QUICK, "checkpoint_every": 1, "sparsity": METHODS[name], "ema": 0.5}
    plain = fxprune.finetune(slim, data(), **{**QUICK, "ema": 0.5})
    whole = fxprune.finetune(slim, data(), **options)
    with pytest.raises(Killed):
        fxprune.finetune(slim, data(), out=tmp_path, callback=kill, **options)
    other = {**options, "sparsity": None if name == "group" else METHODS["group"]}
    with pytest.raises(InputError, match="is of another run: the sparse learning"):
        fxprune.finetune(slim, data(), out=tmp_path, resume=True, **other)
    resumed = fxprune.finetune(slim, data(), out=tmp_path, resume=True, **options)
    assert same(resumed, whole) and not same(plain, whole)
    assert resumed.meta["finetuning"]["resumed"] == [4]
    record = whole.meta["finetuning"]
    assert record["sparsity"]["method"] == METHODS[name](Net()).describe()["method"]
    assert all(0 <= epoch["sparsity"]["share"] <= 1 for epoch in record["epochs"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in whole.modules())


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_what_is_measured_after_an_epoch_wears_the_masks(ema: float) -> None:
    """With a gate that drops whatever is silent at all, every image gets the same; without masks they differ."""
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    one, other = torch.randn(2, 2, 2, 6, 6)
    measured: list[nn.Module] = []

    def apart(model: nn.Module) -> dict[str, float]:
        measured.append(model)
        with torch.no_grad():
            return {"apart": float((model(one) - model(other)).abs().max())}

    def masked(model: nn.Module) -> sparsity.Sparsity:
        return sparsity.SCP(model, X, gate=sparsity.Gate(center=1e-6))

    options = {**QUICK, "ema": ema, "evaluate": apart}
    trained = fxprune.finetune(Net(), data(), sparsity=masked, **options)
    assert [epoch["apart"] for epoch in trained.meta["finetuning"]["epochs"]] == [0.0, 0.0]
    assert all(apart(model.eval())["apart"] > 1e-3 for model in (trained, *measured[:2]))  # which no longer wear them
    plain = fxprune.finetune(Net(), data(), sparsity=METHODS["group"], **options)
    assert min(epoch["apart"] for epoch in plain.meta["finetuning"]["epochs"]) > 1e-3


@pytest.mark.parametrize(("given", "message"), [("group", "sparsity must be a function"), (lambda m: 3, "that gives a method")])
def test_what_is_no_sparse_learning_is_said(given: object, message: str) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    with pytest.raises(InputError, match=message):
        fxprune.finetune(Net(), data(), sparsity=given, **QUICK)


# ---------------------------------------------------------------- that it is worth it

SPARSE = {
    "group": lambda m, x: sparsity.GroupPenalty(m, x, strength=5e-3, biases=True),
    "scale": lambda m, x: sparsity.ScalePenalty(m, x, strength=3e-2),
    "scp": lambda m, x: sparsity.SCP(m, x, strength=1e-2),
    "admm": lambda m, x: sparsity.ADMM(m, x, ratio=0.5, rho=0.1, every=44),
    "progressive": lambda m, x: sparsity.ADMM(m, x, ratio=(0.2, 0.35, 0.5), rho=0.1, every=22, rounds=4),
}


@pytest.fixture(scope="module")
def images():
    pytest.importorskip("sklearn", reason="needs the extra `demo`")
    return digits()


def trained(images, make=None, criterion: str = "l2", epochs: int = 20) -> tuple[float, float]:
    """Accuracy of a small network on held-out digits, as it is and with half of each layer gone."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64, bias=False)]
    model = nn.Sequential(nn.Flatten(), *layers, nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    method = make(model, images.test_x[:2]) if make else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 22)
    for _ in range(epochs):
        for rows in torch.randperm(len(images.train_x)).split(64):
            F.cross_entropy(model(images.train_x[rows]), images.train_y[rows]).backward()
            if method:
                method.before_step()
            optimizer.step(), optimizer.zero_grad(), scheduler.step()
            if method:
                method.after_step()
    if method:
        method.remove()

    def accuracy(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(images.test_x).argmax(1) == images.test_y).double().mean())

    model.eval()
    return accuracy(model), accuracy(fxprune.prune(model, 0.5, images.test_x[:2], criterion=criterion, scope="layer"))


@pytest.mark.slow
def test_pruning_costs_next_to_nothing_after_each_method(images) -> None:
    dense, pruned = trained(images)
    assert dense > 0.95 and pruned < dense - 0.2
    for name, make in SPARSE.items():
        dense, pruned = trained(images, make, "bn_scale" if name == "scale" else "l2")
        assert dense > 0.93 and pruned > dense - 0.04, name
