"""What users of other pruning tools complained of: the name says the project and the thread."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    assert_equivalent,
    assert_same,
    error,
    masked_copy,
    named_tensors,
    parameters_of,
    run,
    tensors_of,
)
from networks import NETWORKS, conv, image, tokens
from torch import Tensor, nn

import fxprune
from fxprune.proofs.randomize import randomize

Case = Callable[[Path], None]
THREADS: dict[str, Case] = {}


def thread(name: str) -> Callable[[Case], Case]:
    """Register a test under the thread that it answers, e.g. ``"TP#146 same tensor concatenated twice"``."""

    def register(case: Case) -> Case:
        assert name not in THREADS
        THREADS[name] = case
        return case

    return register


def proved(model: nn.Module, ratio: float, inputs: tuple[Any, ...], **options: Any) -> Any:
    """Prune `model` with random weights; outputs keep their shapes, and every proof holds to 1e-9."""
    model = randomize(model, 1).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    slim = fxprune.prune(model, ratio, inputs, **options)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and checks.tolerance <= 1e-9
    shapes = [t.shape for t in tensors_of(run(model, inputs))]
    assert [t.shape for t in tensors_of(run(slim, inputs))] == shapes
    assert parameters_of(slim) < parameters_of(model)
    return slim


def proved_network(name: str, ratio: float = 0.5, **options: Any) -> Any:
    net = NETWORKS[name]
    torch.manual_seed(0)
    return proved(net.build(), ratio, net.inputs(2), **options)


class PlainCnn(nn.Module):
    """conv-bn-relu twice, with a residual, and a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = conv(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 2 * width)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + torch.relu(self.bn2(self.conv2(x)))
        found: Tensor = self.fc(torch.relu(self.conv3(x)).mean((2, 3)))
        return found


# -- the saved model is not smaller, or cannot be loaded without the tool ----------------------------------


@thread("TP#51 NNI#2097 saved model loads without the tool")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2))
    fxprune.save(slim, folder / "slim")
    torch.save({"x": image(2), "y": run(slim, (image(2),))}, folder / "case.pt")
    script = (
        "import sys, torch; sys.path.insert(0, 'slim'); import slim\n"
        "torch.set_num_threads(1)\n"
        "case = torch.load('case.pt', weights_only=True)\n"
        "torch.testing.assert_close(slim.load().eval()(case['x']), case['y'], rtol=1e-5, atol=1e-5)\n"
        "assert 'fxprune' not in sys.modules and 'timm' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@thread("NNCF#1038 pytorch#58846 channels are removed, not set to zero")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2), scope="layer")
    fxprune.save(fxprune.trace(model, image(2)), folder / "whole")
    fxprune.save(slim, folder / "slim")
    assert parameters_of(slim) < 0.35 * parameters_of(model)
    sizes = [(folder / part / "slim.safetensors").stat().st_size for part in ("slim", "whole")]
    assert sizes[0] < 0.5 * sizes[1]
    assert all(not (p == 0).all() for p in slim.parameters())


@thread("OTO#42 the result is an nn.Module that trains")
def _(folder: Path) -> None:
    slim = fxprune.prune(randomize(PlainCnn()), 0.5, image(2)).train()
    optimizer = torch.optim.Adam(slim.parameters(), lr=1e-2)
    target = torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(slim(image(4)), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@thread("TP#428 NNI#3527 the plan is text, and fits another checkpoint")
def _(folder: Path) -> None:
    model, other = randomize(PlainCnn(), 1), randomize(PlainCnn(), 2)
    text = fxprune.plan(model, 0.5, image(2)).to_json()
    (folder / "plan.json").write_text(text)
    plan = fxprune.Plan.from_json((folder / "plan.json").read_text())
    slim = fxprune.apply(other, plan)
    assert_equivalent(other, slim, (image(3),), plan.kept)
    with pytest.raises(fxprune.PlanMismatch):
        fxprune.apply(PlainCnn(12), plan)


# -- MACs fall, speed does not -----------------------------------------------------------------------------


@thread("TP#38 kept channels are a multiple of round_to")
def _(folder: Path) -> None:
    slim = proved(PlainCnn(32), 0.4, (image(2),), round_to=8, scope="layer")
    plan = slim.meta["fxprune"].plan
    assert all(len(g.kept) % 8 == 0 for g in plan.groups if g.status == "free")
    for module in slim.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % 8 == 0 and module.out_channels >= 8


@thread("TP#22 TP#97 pytorch#36214 layers are dense, contiguous and really narrower")
def _(folder: Path) -> None:
    model = randomize(PlainCnn())
    slim = fxprune.prune(model, 0.5, image(2), scope="layer")
    assert type(slim.get_submodule("conv2")) is nn.Conv2d
    assert slim.get_submodule("conv2").weight.shape == (8, 8, 3, 3)
    assert all(p.is_contiguous() and p.layout is torch.strided for p in slim.parameters())
    before, after = slim.meta["fxprune"].plan.macs
    assert after < 0.35 * before


# -- shape errors after pruning ----------------------------------------------------------------------------


@thread("TP#101 TP#340 a transformer with literal head sizes")
def _(folder: Path) -> None:
    for attention in ("head_dim", "heads", "both"):
        proved_network("transformer block with class token and positions", attention=attention, scope="layer")


@thread("TP#287 TP#357 TP#450 windows and position tables")
def _(folder: Path) -> None:
    proved_network("window attention", scope="layer")


@thread("INC#525 head count in reshape")
def _(folder: Path) -> None:
    """Two of three heads go: the views must follow, and the scale of each head stays."""
    slim = proved_network("fused qkv", 0.6, attention="heads", scope="layer")
    assert slim.get_submodule("qkv").out_features in (12, 24)
    assert run(slim, (tokens(3).double(),)).shape == (3, 6, 5)


@thread("NNI#5449 reshape keeps its arguments")
def _(folder: Path) -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 12)
            self.fc1 = nn.Linear(64, 10)
            self.fc2 = nn.Linear(120, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x.reshape(x.size(0), 12, -1)
            x = self.fc1(x)
            found: Tensor = self.fc2(torch.reshape(x, (x.shape[0], 10 * 12)))
            return found

    slim = proved(Reshaped(), 0.5, (image(2),), scope="layer")
    assert run(slim, (image(5).double(),)).shape == (5, 5)
    # Of 12 channels x 10 features, the finer factor loses entries.
    assert slim.get_submodule("fc2").in_features == 60


@thread("TNN#65 TNN#325 sizes written as numbers in view")
def _(folder: Path) -> None:
    proved_network("reshape with literal sizes before linear", scope="layer")


@thread("TP#125 attributes that hold sizes need no editing")
def _(folder: Path) -> None:
    class Attributed(PlainCnn):
        def __init__(self) -> None:
            super().__init__()
            self.width = 32

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv3(torch.relu(self.conv2(self.conv1(x)))))
            x = F.adaptive_avg_pool2d(x, 1).view(-1, self.width)
            found: Tensor = self.fc(x)
            return found

    proved(Attributed(), 0.5, (image(2),), scope="layer")


@thread("LLM-Pruner#69 fewer key heads than query heads")
def _(folder: Path) -> None:
    for attention in ("head_dim", "heads", "both"):
        proved_network("grouped-query attention", attention=attention, scope="layer")


# -- nothing, or a part, silently not pruned ---------------------------------------------------------------


@thread("TP#416 MMRazor#544 every layer has a status")
def _(folder: Path) -> None:
    for net in NETWORKS.values():
        model = net.build()
        plan = fxprune.plan(model, 0.5, net.inputs(2), scope="layer")
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                answer = fxprune.why(plan, name)
                assert answer.status in ("pruned", "protected", "frozen"), f"{net.id}: {answer}"
                assert answer.status == "pruned" or all(part[4] for part in answer.parts), f"{net.id}: {answer}"


@thread("TP#417 nothing is dropped silently at a high ratio")
def _(folder: Path) -> None:
    sizes = []
    for ratio in (0.3, 0.5, 0.7, 0.9, 0.95):
        slim = proved(PlainCnn(), ratio, (image(2),), scope="layer")
        assert not slim.meta["fxprune"].frozen_by_rewrite
        assert {g.status for g in slim.meta["fxprune"].plan.groups} == {"free", "frozen"}
        sizes.append(parameters_of(slim))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) >= 4


@thread("TP#136 TP#356 OTO#57 nothing to prune is an error with its reasons")
def _(folder: Path) -> None:
    with pytest.raises(fxprune.NothingToPrune, match="output"):
        fxprune.prune(nn.Sequential(conv(3, 8)), 0.5, image(2))
    with pytest.raises(fxprune.NothingToPrune, match="ignore"):
        fxprune.prune(PlainCnn(), 0.5, image(2), ignore=["conv*"])


@thread("TP#505 TP#507 frozen weights are pruned like others")
def _(folder: Path) -> None:
    model = PlainCnn().requires_grad_(False)
    with torch.no_grad():
        slim = proved(model, 0.5, (image(2),), scope="layer")
    assert slim.get_submodule("conv2").weight.shape == (8, 8, 3, 3)
    assert not any(p.requires_grad for p in slim.parameters())


@thread("NNI#5277 a group that keeps its channels is protected, with the pattern")
def _(folder: Path) -> None:
    model = PlainCnn()
    slim = fxprune.prune(model, 0.5, image(2), ignore=["conv3"], scope="layer")
    answer = fxprune.why(slim, "conv3")
    assert answer.status == "protected" and "conv3" in str(answer)
    assert slim.get_submodule("conv3").out_channels == 32
    assert fxprune.why(slim, "conv1").status == "pruned"


# -- concatenation, split, shuffle, groups -----------------------------------------------------------------


@thread("TP#45 NNI#5298 ShuffleNet units")
def _(folder: Path) -> None:
    proved_network("ShuffleNet unit", scope="layer")
    proved_network("channel shuffle", scope="layer")


@thread("TP#146 same tensor concatenated twice")
def _(folder: Path) -> None:
    slim = proved_network("same tensor concatenated twice", scope="layer")
    assert slim.get_submodule("head").in_channels == 2 * slim.get_submodule("conv1").out_channels == 12


@thread("TP#328 MobileNet channels not divisible by the groups")
def _(folder: Path) -> None:
    from torchvision.models import mobilenet_v2

    for ratio in (0.37, 0.5):
        slim = proved(mobilenet_v2(width_mult=0.25, num_classes=5), ratio, (image(2, size=32),))
        for module in slim.modules():
            if isinstance(module, nn.Conv2d):
                assert module.in_channels % module.groups == 0 == module.out_channels % module.groups


@thread("TP#481 TNN#72 concatenation keeps apart what is not coupled")
def _(folder: Path) -> None:
    plan = fxprune.plan(NETWORKS["concatenation"].build(), 0.5, image(2), scope="layer")
    first, second = (next(g for g in plan.groups if g.id == f"conv{i}.weight") for i in (1, 2))
    assert first.size == 12 and second.size == 8
    assert len(first.kept) == 6 and len(second.kept) == 4
    proved_network("concatenation split elsewhere", scope="layer")
    proved_network("norm over a concatenation", scope="layer")


@thread("TNN#108 TNN#109 never zero channels")
def _(folder: Path) -> None:
    model = PlainCnn()
    with torch.no_grad():  # one global ranking would empty this layer first
        model.conv2.weight.mul_(1e-6)
        model.conv2.bias.mul_(1e-6)
    for options in ({"scope": "global"}, {"scope": "layer"}, {"max_ratio": 1.0}):
        slim = fxprune.prune(model, 0.9, image(2), **options)
        assert all(0 not in p.shape for p in slim.parameters())
        assert all(g.kept for g in slim.meta["fxprune"].plan.groups)


@thread("TNN#272 parallel branches keep all their operators")
def _(folder: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
            self.b = nn.Sequential(conv(3, 6), nn.SiLU(), conv(6, 8))
            self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(3, 4, 1))
            self.d = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(3, 8, 5))
            self.head = conv(20, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.cat([self.a(x) + self.d(x), self.b(x), self.c(x)], 1))
            return found

    model = Branches()
    slim = proved(model, 0.5, (image(2),), scope="layer")

    def leaves(module: nn.Module) -> set[tuple[str, type]]:
        return {(n, type(m)) for n, m in module.named_modules() if not list(m.children())}

    assert leaves(model) <= leaves(slim)


@thread("OTO#39 grouped convolution and slices")
def _(folder: Path) -> None:
    class GroupedSlices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = conv(3, 16)
            self.conv2 = conv(16, 16, groups=4)
            self.conv3 = conv(8, 8, groups=2)
            self.head = conv(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
            found: Tensor = self.head(torch.cat([self.conv3(x[:, :8]), x[:, 8:]], 1))
            return found

    for ratio in (0.3, 0.5, 0.7):
        proved(GroupedSlices(), ratio, (image(2),), scope="layer")


@thread("OTO#46 parameters of its own, outside of layers")
def _(folder: Path) -> None:
    proved_network("parameters of shape (1, C, 1, 1) and (C, H, W)", scope="layer")
    proved_network("einsum with a weight", scope="layer")


# -- the output differs, accuracy collapses ----------------------------------------------------------------


@thread("NNI#2130 NNI#3010 BatchNorm beta of a removed channel")
def _(folder: Path) -> None:
    """A removed channel adds nothing downstream, although its shift is not zero: a naive mask leaves that."""
    model = randomize(PlainCnn(), 1).double()
    slim = fxprune.prune(model, 0.5, image(2).double(), scope="layer")
    kept = slim.meta["fxprune"].plan.kept
    expected, found = run(masked_copy(model, kept), (image(2).double(),)), run(slim, (image(2).double(),))
    assert error(expected, found) < 1e-9

    naive = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
            gone = sorted(set(range(16)) - set(kept[name][0]))
            named_tensors(naive)[name][gone] = 0
    assert error(run(naive, (image(2).double(),)), found) > 1e-3


@thread("NNI#4402 TP#313 TP#347 removing dead channels changes nothing")
def _(folder: Path) -> None:
    """Half of the channels are dead: pruning takes those, and the output stays to rounding."""
    model = randomize(PlainCnn(), 1).double()
    with torch.no_grad():
        dead = torch.arange(0, 16, 2)
        for name in ("conv1", "bn1", "conv2", "bn2"):
            for parameter in model.get_submodule(name).parameters():
                parameter[dead] = 0
        model.conv3.weight[torch.arange(0, 32, 2)] = 0
        model.conv3.bias[torch.arange(0, 32, 2)] = 0
        for name in ("conv2", "conv3"):
            model.get_submodule(name).weight[:, dead] = 0
        model.fc.weight[:, ::2] = 0
    for scope in ("layer", "global"):
        slim = fxprune.prune(model, 0.5, image(2).double(), scope=scope)
        assert parameters_of(slim) < 0.35 * parameters_of(model)
        assert error(run(model, (image(3).double(),)), run(slim, (image(3).double(),))) < 1e-9


# -- a one-output-channel convolution taken for depthwise --------------------------------------------------


@thread("TP#126 TP#179 NNI#5751 one-output-channel convolution is not depthwise")
def _(folder: Path) -> None:
    slim = proved_network("one-output-channel convolution (not depthwise)", scope="layer")
    assert slim.get_submodule("conv2").weight.shape == (1, 6, 3, 3)
    assert slim.get_submodule("conv2").groups == 1
    assert slim.get_submodule("conv3").weight.shape == (6, 1, 3, 3)
    proved_network("spatial gate of one channel", scope="layer")


# -- tracing fails -----------------------------------------------------------------------------------------


@thread("timm#1176 a timm model as it is")
def _(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    for name in ("test_resnet", "test_vit", "test_efficientnet"):
        model = timm.create_model(name, num_classes=5).eval()
        proved(model, 0.5, (image(2, size=model.pretrained_cfg["input_size"][-1]),))


@thread("MMRazor#464 MMRazor#524 MMRazor#585 NNI#5134 branches on shapes, lists and dictionaries")
def _(folder: Path) -> None:
    class Branching(PlainCnn):
        def forward(self, x: Tensor, scale: float = 1.0, parts: Any = None) -> Any:
            if x.shape[1] != 3:
                raise ValueError(f"expected 3 channels, found {x.shape[1]}")
            height, width = x.shape[-2:]
            if height % 4 or width % 4:
                x = F.pad(x, (0, -width % 4, 0, -height % 4))
            features: dict[str, list[Tensor]] = {"maps": []}
            for layer in (self.conv1, self.conv2, self.conv3):
                x = torch.relu(layer(x)) * scale
                features["maps"].append(x)
            assert len(features["maps"]) == 3 and int(x.shape[1]) == 32
            return {"logits": self.fc(x.flatten(2).mean(-1)), "size": (height, width)}

    slim = proved(Branching(), 0.5, (image(2),), scope="layer")
    assert run(slim, (image(3).double(),))["logits"].shape == (3, 5)


@thread("pytorch#70485 NNI#5193 a failed trace names the line")
def _(folder: Path) -> None:
    class DataDependent(PlainCnn):
        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            if x.sum() > 0:
                x = -x
            found: Tensor = self.fc(self.conv3(x).mean((2, 3)))
            return found

    with pytest.raises(fxprune.TraceError, match=r"test_threads\.py:\d+"):
        fxprune.prune(DataDependent(), 0.5, image(2))


# -- an unsupported operator aborts everything -------------------------------------------------------------


@thread("NNI#4905 TNN#122 resampling")
def _(folder: Path) -> None:
    proved_network("resampling", scope="layer")


@thread("NNI#5172 NNI#5435 any activation")
def _(folder: Path) -> None:
    acts = (
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Mish,
        nn.Softplus,
        nn.LogSigmoid,
        nn.CELU,
        nn.Tanhshrink,
        nn.RReLU,
        nn.ReLU6,
        nn.Softsign,
        nn.SELU,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.Softshrink,
        nn.Threshold,
    )
    for act in acts:
        layer = act(0.1, 0.2) if act is nn.Threshold else act()
        model = nn.Sequential(conv(3, 8), layer, nn.BatchNorm2d(8), conv(8, 5))
        slim = proved(model, 0.5, (image(2),), scope="layer")
        assert slim.get_submodule("0").out_channels == 4, act.__name__


@thread("NNCF#163 transposed convolution")
def _(folder: Path) -> None:
    for name in (
        "transposed convolution",
        "transposed convolution, grouped",
        "transposed convolution, depthwise",
    ):
        proved_network(name, scope="layer")


@thread("NNCF#1057 instance norm")
def _(folder: Path) -> None:
    proved_network("InstanceNorm", scope="layer")


@thread("NNI#5152 an operator without a rule is pruned around, and named")
def _(folder: Path) -> None:
    slim = proved_network("custom operator", scope="layer")
    assert slim.get_submodule("conv1").out_channels == 12
    assert slim.get_submodule("conv2").out_channels == 6
    answer = fxprune.why(slim, "conv1")
    assert answer.status == "frozen" and "halve" in str(answer) and "layers.py" in str(answer)


# -- what does the ratio mean? -----------------------------------------------------------------------------


@thread("TP#111 TP#214 TP#479 the ratio counts channels")
def _(folder: Path) -> None:
    """Of all channels that may go, in one ranking; or of each group."""
    model = PlainCnn(20)  # groups of 20 and 40 channels
    for ratio in (0.25, 0.5, 0.75):
        slim = fxprune.prune(model, ratio, image(2), scope="global")
        free = [g for g in slim.meta["fxprune"].plan.groups if g.status == "free"]
        assert sorted(g.size for g in free) == [20, 40]
        assert sum(len(g.removed) for g in free) == round(60 * ratio)
        slim = fxprune.prune(model, ratio, image(2), scope="layer")
        plan = slim.meta["fxprune"].plan
        assert all(len(g.removed) == round(g.size * ratio) for g in plan.groups if g.status == "free")
    for wrong in (0, 1, -0.5, 1.5, float("nan"), "half", True):
        with pytest.raises(fxprune.InputError, match="ratio"):
            fxprune.prune(model, wrong, image(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", THREADS)
def test_thread(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    THREADS[name](tmp_path)


def test_same_seed_same_bits() -> None:
    """The threads compare bits: so must two runs of one call."""
    model = randomize(PlainCnn())
    first, second = (fxprune.prune(model, 0.5, image(2), criterion="random", seed=7) for _ in range(2))
    assert_same(run(first, (image(2),)), run(second, (image(2),)))
    assert first.meta["fxprune"].plan.to_json() == second.meta["fxprune"].plan.to_json()
