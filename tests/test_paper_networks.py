"""Networks of the papers, and the counts that the papers' cuts must give, parameter by parameter.

Counts are those of the authors' tables where they print them in full, and of their per-layer rates otherwise. Weights are
random: only the shapes that remain are tested here, and that each slim network computes what it should.
"""

from __future__ import annotations

import pytest
import torch
from models import PRESETS, CifarResNet
from models.cifar_resnet import Selector
from torch import Tensor, nn

import fxprune
from fxprune.planning.plan import Plan


def slow(*values: object) -> object:
    """A case that others like it stand for, but for ``pytest -m slow``."""
    return pytest.param(*values, marks=pytest.mark.slow)


def cut(name: str, shape: tuple[int, ...] | None = None, verify: bool = False) -> tuple[nn.Module, nn.Module, Plan]:
    """The dense network, the slim one and the plan."""
    preset = PRESETS[name]
    model = preset.network().eval()
    inputs = torch.zeros(2, *(shape or preset.shape))
    slim = fxprune.prune(model, preset.ratio, inputs, criterion="l1", verify=verify)
    return model, slim, slim.meta["fxprune"].plan


def planned(name: str) -> Plan:
    """The plan alone, of a network of which only the counts are asked."""
    preset = PRESETS[name]
    return fxprune.plan(preset.network().eval(), preset.ratio, torch.zeros(2, *preset.shape), criterion="l1")


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def with_statistics(model: nn.Module) -> int:
    """As Keras counts: a batch norm has four numbers a channel."""
    running = sum(b.numel() for n, b in model.named_buffers() if n.rpartition(".")[2].startswith("running"))
    return trainable(model) + running


def removed(plan: Plan) -> tuple[float, float]:
    """Per cent of the parameters and of the MACs."""
    return tuple(100 * (1 - after / before) for before, after in (plan.params, plan.macs))  # type: ignore[return-value]


# -- passive filter pruning (Singh & Plumbley) -----------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "keras", "macs"), [(25, 27_906, 164.2e6), (50, 14_270, 75.6e6), (75, 5_338, 20.9e6)])
def test_dcase21_net(percent: int, keras: int, macs: float) -> None:
    model, slim, plan = cut(f"dcase21-{percent}")
    assert (with_statistics(model), with_statistics(slim)) == (46_246, keras)
    assert plan.params == (trainable(model), trainable(slim))
    assert plan.macs == (pytest.approx(286.6e6, abs=5e4), pytest.approx(macs, abs=5e4))
    if percent == 50:
        assert plan.params == (46_118, 14_206)


@pytest.mark.parametrize(
    ("percent", "params", "fewer"),
    [slow(25, 40_810_058, (26.3, 42.5)), slow(50, 26_821_130, (51.6, 73.4)), (75, 13_394_378, (75.8, 92.5))],
)
def test_vggish(percent: int, params: int, fewer: tuple[float, float]) -> None:
    model, slim, plan = cut(f"vggish-{percent}")
    assert (trainable(model), trainable(slim)) == plan.params == (55_361_162, params)
    assert plan.macs[0] == pytest.approx(847.1e6, abs=5e4)
    assert removed(plan) == pytest.approx(fewer, abs=0.05)
    # Each map of the last convolution feeds 6 x 4 inputs of the dense layer, side by side.
    assert slim.dense1.in_features == 24 * slim.conv6.out_channels
    kept = plan.kept["conv6.weight"][0]
    assert plan.kept["dense1.weight"][1] == [24 * c + i for c in kept for i in range(24)]


def test_vgg16_for_mnist() -> None:
    _, slim, plan = cut("vgg16-mnist-90")
    assert with_statistics(slim) == 180_787
    assert trainable(slim) == plan.params[1] == 178_929


@pytest.mark.parametrize(("percent", "fewer"), [(50, (56.0, 21.9)), (75, (72.1, 28.9)), (90, (78.1, 31.8))])
def test_last_five_convolutions_of_vgg16(percent: int, fewer: tuple[float, float]) -> None:
    model, slim, plan = cut(f"vgg16-cifar-{percent}")
    # The published share counts a batch norm's running statistics, too.
    assert 100 * (1 - with_statistics(slim) / with_statistics(model)) == pytest.approx(fewer[0], abs=0.05)
    assert removed(plan)[1] == pytest.approx(fewer[1], abs=0.05)
    assert slim.features.conv8.out_channels == 512


@pytest.mark.parametrize(("percent", "fewer"), [slow(25, 17.0), (50, 34.0), slow(75, 51.0), slow(90, 61.3)])
def test_resnet50_for_cifar(percent: int, fewer: float) -> None:
    model, slim, _ = cut(f"resnet50-cifar-{percent}")
    assert with_statistics(model) == pytest.approx(24.1e6, abs=5e4)
    assert 100 * (1 - with_statistics(slim) / with_statistics(model)) == pytest.approx(fewer, abs=0.05)


# -- HRankPlus, CHIP, SFM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fewer", "macs"), [("low", 81.55, None), ("middle", 83.29, 66.74), ("high", 87.31, None)])
def test_vgg16_with_batch_norm(name: str, fewer: float, macs: float | None) -> None:
    plan = planned(f"vgg16bn-{name}")
    assert plan.params[0] == pytest.approx(14.99e6, abs=5e3)
    assert removed(plan)[0] == pytest.approx(fewer, abs=5e-3)
    if macs is not None:
        assert removed(plan)[1] == pytest.approx(macs, abs=5e-3)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("low", 660_157, 89.5e6), ("middle", 485_413, 65.2e6), ("high", 240_793, 34.2e6)],
)
def test_resnet56(name: str, params: int, macs: float) -> None:
    model, slim, plan = cut(f"resnet56-{name}")
    assert (trainable(model), trainable(slim)) == plan.params == (853_018, params)
    # The products with the constant matrices stand for strides and zero padding, which are not counted.
    assert plan.macs[0] - selecting(model) == 125_485_696
    assert plan.macs[1] - selecting(slim) == pytest.approx(macs, abs=5e4)


def selecting(model: nn.Module) -> int:
    """MACs of the selectors, on 32 x 32 images."""
    matrices = [b for n, b in model.named_buffers() if n.endswith("shortcut.matrix")]
    return sum(matrix.numel() * positions for matrix, positions in zip(matrices, (1024, 256, 64), strict=True))


@pytest.mark.parametrize(("name", "millions"), [("low", 15.09), ("middle", 11.05), ("high", 8.02)])
def test_resnet50(name: str, millions: float) -> None:
    plan = planned(f"resnet50-{name}")
    assert plan.params[0] == 25_557_032
    assert plan.params[1] / 1e6 == pytest.approx(millions, abs=5e-3)


def test_resnet50_for_100_classes() -> None:
    plan = planned("resnet50-imagenet100")
    assert plan.params[0] == 23_712_932
    assert removed(plan) == pytest.approx((61.19, 63.17), abs=5e-3)


# -- right, not only small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dcase21-50", None),
        slow("vggish-75", None),
        ("vgg16-mnist-90", None),
        ("vgg16bn-middle", None),
        ("resnet56-high", (3, 16, 16)),
        ("resnet50-cifar-50", None),
        slow("resnet50-high", (3, 64, 64)),
    ],
)
def test_slim_networks_equal_the_masked_originals(name: str, shape: tuple[int, ...] | None) -> None:
    """`prune` raises otherwise."""
    _, slim, _ = cut(name, shape, verify=True)
    assert slim.meta["fxprune"].checks.masked_error < 1e-5


@pytest.mark.parametrize(("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.73")])
def test_cifar_resnets(depth: int, millions: str) -> None:
    model = CifarResNet(depth)
    assert f"{trainable(model) / 1e6:.2f}" == millions
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == depth


def test_names_of_cifar_resnets_are_those_of_the_weights_that_are_around() -> None:
    names = {n.rpartition(".")[0] for n in CifarResNet(20).state_dict()}
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]
    assert names == {"conv1", "bn1", "linear"} | {f"{b}.{m}" for b in blocks for m in ("conv1", "bn1", "conv2", "bn2")}


def test_selectors_are_option_a() -> None:
    plain, other = CifarResNet(20).eval(), CifarResNet(20, selectors=True).eval()
    other.load_state_dict(plain.state_dict())
    images: Tensor = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), other(images))
    assert sum(isinstance(m, Selector) for m in other.modules()) == 3


@pytest.mark.parametrize("depth", [2, 7, 21])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="6 n"):
        CifarResNet(depth)
