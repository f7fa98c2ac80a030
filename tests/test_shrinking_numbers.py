"""Numbers of channels that no forward reads, but code that runs later, or other people's, does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune

torch.set_num_threads(1)
IMAGE = torch.randn(2, 3, 8, 8)


class Head(nn.Module):
    """Two hidden layers of one size; a new last layer needs that of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.widths, self.num_features, self.middle = 8, [16, 16], 16, {"up": (16, 16)}
        self.first = nn.Conv2d(8, 16, 1)
        self.last = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))

    def reset(self, classes: int) -> None:
        self.last[-1] = nn.Linear(self.num_features, classes) if classes > 0 else nn.Identity()

    def deepen(self) -> None:
        self.last[0] = nn.Linear(bias=False, in_features=self.middle["up"][-2], out_features=self.middle["up"][1])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).mean((2, 3)))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.stages = 8, nn.ModuleList([nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)])
        self.hidden, self.head = 12, Head()

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x).relu()
        return self.head(x)  # type: ignore[no-any-return]


def test_code_that_makes_layers_anew_reads_what_they_have_now() -> None:
    """Of attributes with one value, the line that makes the layer tells which is which."""
    model = Net().eval()
    own = fxprune.prune(
        model, {"stages.1.weight": 0.5, "head.first.weight": 0.25, "head.last.0.weight": 0.5}, IMAGE, form="module"
    )
    head = own.head
    assert (own.num_features, head.in_features, head.num_features, head.middle) == (4, 4, 8, {"up": (12, 8)})
    assert head.widths == [16, 16]  # no line reads them, and each may be either
    assert (model.head.num_features, model.head.middle) == (16, {"up": (16, 16)})
    head.reset(7)
    assert own(IMAGE).shape == (2, 7)
    head.deepen()
    assert own(IMAGE).shape == (2, 7)


def test_a_number_of_what_a_list_of_modules_holds_is_found() -> None:
    own = fxprune.prune(Net().eval(), {"stages.0.weight": 0.5}, IMAGE, form="module")
    assert own.hidden == own.stages[0].out_channels == 6


class Folding(nn.Module):
    """A number that is a size of channels, too, and says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.block_size = 16, 4
        self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        y = self.second(self.first(x).relu())
        y = y.view(n, -1, h // self.block_size, self.block_size, w).amax((2, 4)).mean(-1)
        return self.last(y)  # type: ignore[no-any-return]


def test_a_number_that_code_reads_for_something_else_stays_and_others_follow() -> None:
    own = fxprune.prune(Folding().eval(), 0.5, IMAGE, scope="layer", form="module")
    report = own.meta["fxprune"].own_class
    assert (own.num_features, own.block_size) == (8, 4) and not report.settings and not report.generated
    assert report.kept_true == {"": {"num_features": (16, 8)}}


class Info:
    """What a library says of the maps of a model: an object that others hold, too."""

    def __init__(self, *maps: tuple[int, str]) -> None:
        self.maps = [{"num_chs": channels, "module": name, "reduction": 8} for channels, name in maps]
        self.total = sum(channels for channels, _ in maps)


class Features(nn.Module):
    """Gives out the second of three maps; modules have other names than in the model that they are from."""

    def __init__(self) -> None:
        super().__init__()
        self.info = Info((8, "stem"), (16, "layers.0"), (16, "layers.1.conv"))
        self.stem, self.layers_0 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1)
        self.body = nn.ModuleDict({"layers": nn.ModuleList([nn.Identity(), nn.ModuleDict({"conv": nn.Conv2d(16, 16, 1)})])})
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.layers_0(self.stem(x).relu()).relu()
        return [x, self.last(self.body["layers"][1]["conv"](x).relu())]


def test_a_description_of_maps_is_kept_true() -> None:
    model: Any = Features().eval()
    own = fxprune.prune(model, 0.5, IMAGE, scope="layer", form="module")
    assert [one["num_chs"] for one in own.info.maps] == [4, own(IMAGE)[0].shape[1], 8] == [4, 16, 8]
    assert [one["num_chs"] for one in model.info.maps] == [8, 16, 16] and own.info.total == 40
    assert own.meta["fxprune"].own_class.kept_true[""] == {
        "info.maps[0]['num_chs']": (8, 4),
        "info.maps[2]['num_chs']": (16, 8),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_feature_extractors_of_timm_say_their_channels(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    x = torch.randn(1, 3, 160, 160)
    maps: dict[str, Any] = {}
    own = fxprune.prune(model, 0.5, x, scope="layer", form="module")
    assert own.feature_info.channels() == [map_.shape[1] for map_ in own(x)]
    parts = sorted(own.named_modules(), key=lambda named: named[0].count("."))
    for entry in own.feature_info.info:
        said = "_" + entry["module"].replace(".", "_")
        found = [module for part, module in parts if f"_{part}".replace(".", "_").endswith(said)]
        for module in found[:1]:  # the outermost; perhaps a list, which is not called
            module.register_forward_hook(lambda m, a, out, n=entry["module"]: maps.update({n: out.shape}))
    own(x)
    assert len(maps) > 2 and all(
        entry["num_chs"] in maps.get(entry["module"], [entry["num_chs"]]) for entry in own.feature_info.info
    )
