"""Source with structure: small networks beside the classes that are written for them."""

from __future__ import annotations

import copy
from types import CodeType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits
from torch import nn

import fxprune
from fxprune.codegen.source_files import generated
from fxprune.codegen.structured.file import structured_source
from fxprune.codegen.structured.same import difference


class Block(nn.Module):
    def __init__(self, width: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, stride=stride, padding=1)
        self.drop = nn.Dropout(0.0)
        self.conv2 = nn.Conv2d(inner, width, 1)
        self.idle = nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.idle(self.conv2(self.drop(F.relu(self.conv1(x)))))


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(Block(4, 6), Block(4, 5), Block(4, 7))
        self.last = Block(4, 8, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.stage(x))


STAGES = """
class Block(nn.Module):
    def __init__(self, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, inner, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(inner, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv2(F.relu(self.conv1(x)))


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(*[Block(n) for n in [6, 5, 7]])
        self.last = Block(8, stride=2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.stage(x))
"""


class Mixer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any, mask: Any) -> Any:
        return self.fc(x) * self.scale + mask


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([Mixer(4) for _ in range(3)])

    def forward(self, x: Any) -> Any:
        mask = x.sigmoid()
        y = x + 1
        for mixer in self.mixers:
            y = mixer(y, mask)
        return y, mask


LOOPED = """
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(4))
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        x = self.fc(x)
        x = x * self.scale
        return x + y


class Looped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([Mixer() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> Any:
        y = x.sigmoid()
        x = x + 1
        for mixer in self.mixers:
            x = mixer(x, y)
        return x, y
"""


class Shaped(nn.Module):
    """Numbers that forward uses become attributes; sizes of the input stay sizes."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc = nn.Linear(12, 12)

    def forward(self, x: Any) -> Any:
        n, t, _ = x.shape
        return self.fc(x).reshape(n, t, self.heads, -1).softmax(-1).flatten(2)


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Shaped(2), Shaped(3)

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x))


NUMBERS = """
class Shaped(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.fc(x)
        x = y.reshape(x.size(0), x.size(1), self.heads, -1).softmax(-1)
        return x.flatten(2)


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = Shaped(2)
        self.b = Shaped(3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.a(x))
"""


class NormAct(nn.BatchNorm2d):
    """A class that adds to a layer, and one that forward calls twice."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.act(super().forward(x))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = NormAct(4)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.0), nn.ReLU())

    def forward(self, x: Any) -> Any:
        x = self.norm(x)
        return self.head(x) + self.head(x * 2)


SHARED = """
class NormAct(nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(4)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> Any:
        return self.act(super().forward(x))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = NormAct()
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.ReLU())

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(x)
        y = self.head(x)
        x = x * 2
        return y + self.head(x)
"""

CASES = {
    "blocks of one class": (Stages(), (2, 4, 8, 8), STAGES),
    "a loop with another argument": (Looped(), (2, 4), LOOPED),
    "numbers in forward": (Numbers(), (2, 5, 12), NUMBERS),
    "a layer with more, and a part that runs twice": (Shared(), (2, 4, 8, 8), SHARED),
}


def classes_of(source: str) -> str:
    return source.split("from torch import nn\n")[1].split("def slim_")[0].strip()


@pytest.mark.parametrize(("model", "shape", "expected"), CASES.values(), ids=CASES)
def test_classes(model: nn.Module, shape: tuple[int, ...], expected: str) -> None:
    inputs = torch.randn(shape)
    slim = fxprune.trace(copy.deepcopy(model), inputs)
    source = structured_source(slim)
    if hasattr(CodeType, "co_positions"):  # else the numbers of forward have general names
        assert classes_of(source) == expected.strip()
    assert generated(slim)[0] == source, "it was found to be the same model"
    assert_equal_bits(slim, inputs)


class Leaning(nn.Module):
    """A part that reaches for what is not its own, and one that changes between calls: neither is a class."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Block(4, 6), Block(4, 6)
        self.b.conv2 = self.a.conv2
        self.tied = nn.Conv2d(4, 4, 1)
        self.tied.weight = self.a.conv2.weight if self.a.conv2.weight.shape == (4, 4, 1, 1) else self.tied.weight

    def forward(self, x: Any) -> Any:
        return self.tied(self.b(self.a(x)))


class Moded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            x = self.fc(x)
        return F.dropout(x, 0.5, self.training) if self.training else x * 2


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Moded()

    def forward(self, x: Any) -> Any:
        assert x.shape[-1] == 4
        return {"out": self.part(x), "size": self.part.fc(x)}


@pytest.mark.parametrize(("model", "shape"), [(Leaning(), (2, 4, 8, 8)), (Outer(), (2, 4))], ids=["tied", "modes"])
def test_what_is_no_plain_tree(model: nn.Module, shape: tuple[int, ...]) -> None:
    slim = fxprune.trace(copy.deepcopy(model), torch.randn(shape))
    assert "Written as one forward" not in generated(slim)[0]
    assert_equal_bits(slim, torch.randn(shape))


def test_modes_and_contexts_stand_in_the_class_that_has_them() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Moded()

        def forward(self, x: Any) -> Any:
            return self.part(x)

    source = structured_source(fxprune.trace(Whole(), torch.randn(2, 4)))
    part = classes_of(source).split("class Whole")[0]
    assert "if self.training:" in part
    assert "with torch.no_grad():" in part


def test_another_model_is_told_apart() -> None:
    slim = fxprune.trace(Stages(), torch.randn(2, 4, 8, 8))
    source = structured_source(slim)
    for old, new in (
        ("F.relu(", "F.silu("),
        ("stride=2", "stride=1"),
        ("return self.conv2(", "x = x * 1\n        return self.conv2("),
    ):
        assert old in source
        space: dict[str, Any] = {"__name__": "other"}
        exec(source.replace(old, new), space)
        with torch.device("meta"):
            made = space["Stages"]()
        assert difference(slim, made)
    assert "in training, step" in difference(slim, made)


def test_a_model_that_cannot_be_shown_the_same_is_written_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    slim = fxprune.trace(Stages(), torch.randn(2, 4, 8, 8))
    monkeypatch.setattr("fxprune.codegen.source_files.difference", lambda *_: "step 3 is 'other'")
    source = generated(slim)[0]
    assert "class Block" not in source.split("class Stages")[1]
    assert "Written as one forward: its classes would not do the same: step 3 is 'other'" in source
    assert_equal_bits(slim, torch.randn(2, 4, 8, 8))


def test_the_builder_makes_a_model_to_train() -> None:
    space: dict[str, Any] = {"__name__": "made"}
    exec(generated(fxprune.trace(Stages(), torch.randn(2, 4, 8, 8)))[0], space)
    model = space["slim_stages"]()
    assert model(torch.randn(1, 4, 8, 8)).shape == (1, 4, 4, 4)
    assert model.training


class Res(nn.Module):
    def __init__(self, down: bool, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 1), act
        self.down = nn.Conv2d(4, 4, 1) if down else None

    def forward(self, x: Any) -> Any:
        return self.act(self.conv(x)) + (x if self.down is None else self.down(x))


def test_a_part_that_only_some_have_is_an_argument() -> None:
    model = nn.Sequential(Res(True, nn.ReLU()), Res(False, nn.ReLU()), Res(False, nn.GELU()))
    slim = fxprune.trace(model, torch.randn(2, 4, 8, 8))
    source = generated(slim)[0]
    assert source.count("class Res") == 1
    assert "self, act: type[nn.Module] = nn.ReLU, down: bool = False" in source
    assert "self.down = nn.Conv2d(4, 4, 1) if down else nn.Identity()" in source
    assert_equal_bits(slim, torch.randn(2, 4, 8, 8))


class Stage(nn.Module):
    def __init__(self, down: bool) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 4, 1) if down else nn.Identity()
        self.blocks = nn.Sequential(Block(4, 6), Block(4, 5), Block(4, 7), nn.ReLU())

    def forward(self, x: Any) -> Any:
        return self.blocks(self.down(x))


def test_a_class_stays_one_where_an_instance_has_one_part_and_runs_of_parts_are_loops() -> None:
    slim = fxprune.trace(nn.Sequential(Stage(False), Stage(True)), torch.randn(2, 4, 8, 8))
    source = generated(slim)[0]
    assert source.count("class Stage") == 1 and "OrderedDict" not in source
    assert "def __init__(self, down: bool = False) -> None:" in source
    assert "*[Block(n) for n in [6, 5, 7]], nn.ReLU()" in source
    assert "return self.blocks(self.down(x))" in source
    assert_equal_bits(slim, torch.randn(2, 4, 8, 8))


class Asking(nn.Module):
    """Asks for values that no shape tells: of which the recorded answers are asserted."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Block(4, 6)

    def forward(self, x: Any) -> Any:
        places = torch.arange(x.shape[2])
        if (places < 0).any() or not (places.diff() == 1).all():
            x = x * 2
        return self.part(x)


def test_answers_that_no_shape_tells() -> None:
    slim = fxprune.trace(Asking(), torch.randn(2, 4, 8, 8))
    source = generated(slim)[0]
    assert "Written as one forward" not in source and ".item()" in source and "class Block" in source
    assert_equal_bits(slim, torch.randn(2, 4, 8, 8))
