"""The accuracy benchmark: equal cuts by both tools, and all that becomes of them, on a small network and made-up images."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import accuracy
import accuracy_cuts
import accuracy_peer
import pytest
import torch
from accuracy_table import behind, table
from models import VGG16BN, CifarResNet
from test_benchmarks_criteria import cifar  # noqa: F401  (a fixture)
from torch import nn

import fxprune

NO_PEER = pytest.mark.skipif(find_spec("torch_pruning") is None, reason="torch-pruning is not installed")
FEW = ("magnitude",)
NO_TRAINING = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-8 whose norms have seen images, so that their statistics say something."""
    torch.manual_seed(0)
    model = CifarResNet(8)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
        for _ in range(20):
            model(torch.randn(16, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(20, 3, 32, 32, generator=generator), torch.arange(20) % 10)]


@NO_PEER
@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in accuracy_peer.IMPORTANCES]
)
def test_a_cut_of_torch_pruning_is_made_by_fxprune_too(network: nn.Module, images: list, name: str) -> None:
    found = accuracy_cuts.theirs(network, name, "0.4", 0, images)
    whole = accuracy_cuts.macs(network)
    assert accuracy_cuts.macs(found.plain) == accuracy_cuts.macs(found.slim)
    assert 1 - accuracy_cuts.macs(found.plain) / whole == pytest.approx(0.4, abs=0.05)
    assert accuracy_cuts.params(found.plain) == accuracy_cuts.params(found.slim) < accuracy_cuts.params(network)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.whole(x), network(x))
        torch.testing.assert_close(found.slim(x), found.plain(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found.plain(x), network(x), rtol=1e-2)
    if name == FEW[0]:  # a repair leaves the constants of the shortcuts alone
        repaired = accuracy_cuts.mended(found, "full", images[0][0], 0)
        constants = {n: b for n, b in found.slim.named_buffers() if n.endswith("matrix")}
        assert len(constants) == 2
        assert all(torch.equal(b, repaired.get_buffer(n)) for n, b in constants.items())
        assert not torch.equal(repaired.linear.weight, found.slim.linear.weight)


def test_both_forms_of_the_shortcut_are_the_network_itself(network: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for made in (accuracy_peer.with_constants(network), accuracy_peer.with_selectors(network)):
            torch.testing.assert_close(made(x), network(x))
            assert accuracy_cuts.macs(made) == accuracy_cuts.macs(network) == fxprune.analyze(network, x).macs()
            assert accuracy_cuts.params(made) == sum(p.numel() for p in network.parameters())


@NO_PEER
@pytest.mark.slow
def test_a_preset_leaves_both_tools_the_same_widths(images: list) -> None:
    model = VGG16BN().eval()
    found = [
        make(model, name, "vgg16bn-middle", 0, images)
        for make, name in ((accuracy_cuts.ours, "l2"), (accuracy_cuts.theirs, "magnitude"))
    ]
    counts = {(accuracy_cuts.macs(made.plain), accuracy_cuts.params(made.plain)) for made in found}
    assert len(counts) == 1


def test_recalibrated_norms_have_the_statistics_of_what_they_get(network: nn.Module, images: list) -> None:
    slim = accuracy_cuts.ours(network, "l2", "0.4", 0, images).slim
    x = images[0][0]
    made = accuracy_cuts.recalibrated(slim, x)
    with torch.no_grad():
        seen = made.get_submodule("conv1")(x)
    norm = made.get_submodule("bn1")
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1 and not norm.training


def test_what_is_no_target_is_refused() -> None:
    assert [accuracy_cuts.known(t) for t in ("0.3", "2.1x", "vgg16bn-middle")] == [True] * 3
    assert [accuracy_cuts.known(t) for t in ("1.3", "0x", "0.5x", "half", "")] == [False] * 5
    assert accuracy_cuts.share_of("2.5x") == pytest.approx(0.6)


def measure(folder: Path, *more: object) -> list[dict]:
    options = ["--data", folder, "--weights", folder / "resnet8.safetensors", "--criteria", "l2", "--importances", "random"]
    options += ["--targets", 0.4, "--repairs", "none", "full", "--seeds", 2, "--images", 10, "--test", 10]
    options += ["--out", folder / "out", *([] if find_spec("torch_pruning") else ["--tools", "fxprune"]), *more]
    accuracy.main([str(option) for option in options])
    return [json.loads(line) for line in (folder / "out" / "accuracy.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_rows_are_measured_once(cifar: Path) -> None:  # noqa: F811
    found = measure(cifar)
    cells = [(r["tool"], r.get("repair"), r.get("seed")) for r in found]
    peer = [("torch-pruning", repair, seed) for repair in ("none", "full") for seed in (0, 1)]
    ours = [("dense", None, None), ("fxprune", "none", 0), ("fxprune", "full", 0)]
    assert cells == [*ours, *(peer if find_spec("torch_pruning") else [])]
    assert all(0 <= r["accuracy"] <= 1 for r in found)
    assert all(r["macs"] == pytest.approx(0.4, abs=0.06) for r in found if r["tool"] != "dense")
    assert "before any training" in (cifar / "out" / "accuracy.md").read_text()
    assert measure(cifar) == found  # what is there is not measured again


@NO_TRAINING
@pytest.mark.slow
def test_trained_by_one_loop(cifar: Path) -> None:  # noqa: F811
    found = measure(cifar, "--epochs", 1, "--train", 20, "--precision", "fp32")
    cells = [(r["tool"], r["repair"], r["seed"]) for r in found if r["tool"] == "fxprune"]
    assert cells == [("fxprune", repair, seed) for repair in ("none", "full") for seed in (0, 1)]
    assert all((r["epochs"], r["train"], r["precision"]) == (1, 20, "fp32") for r in found if r["tool"] != "dense")
    assert "after 1 epochs of 20 images" in (cifar / "out" / "accuracy.md").read_text()


def test_the_table_says_where_torch_pruning_is_ahead() -> None:
    def row(tool: str, name: str, accuracy: float, seed: int = 0, **more: object) -> dict:
        shared = {"network": "n", "test": 100, "target": "0.3", "repair": "full", "epochs": 0, "images": 9, "macs": 0.3}
        return {**shared, "tool": tool, "criterion": name, "seed": seed, "accuracy": accuracy, "params": 0.2, **more}

    rows = [row("fxprune", "l2", 0.8), row("torch-pruning", "fpgm", 0.7), row("torch-pruning", "random", 0.9)]
    rows += [row("torch-pruning", "random", 0.8, seed=1), row("torch-pruning", "lamp", 0.9, target="0.5")]
    lines = list(behind(rows))
    told = "n, -30%, repaired, before any training, 100 test images: random 85.00 ± 7.07 (2) against {}"
    assert lines == [told.format("80.00 by l2")]
    assert [*behind([*rows, row("fxprune", "surgeon", 0.81)])] == [
        told.format("81.00 by surgeon")
    ]  # the default, with a repair
    assert not [*behind([*rows, row("fxprune", "surgeon", 0.86)])]
    assert "| -30% | TP | random | -30.0% | -20.0% | 85.00 ± 7.07 (2) |" in "\n".join(table(rows))
