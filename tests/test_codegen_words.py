"""The arguments of written classes bear the names that the model's own code has for them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.codegen import assert_equal_bits
from support.marks import needs_positions
from torch import nn

import fxprune
from fxprune.codegen.source_files import generated
from fxprune.tracing.words import parts, trees
from fxprune.tracing.words.parts import part_words


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class Mlp(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(dim, dim), nn.GELU()
        self.up = nn.Linear(dim, inner)
        self.down = nn.Linear(inner, dim)

    def forward(self, x: Any) -> Any:
        return self.down(self.act(self.up(self.fc1(x))))


class Heads(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.heads, self._scale = num_heads, dim**-0.5
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Any) -> Any:
        batch, length, _ = x.shape
        x = self.fc(x).reshape((batch, length, self.heads, -1)).softmax(-1)
        return x.flatten(2) * self._scale


class Layer(nn.Module):
    def __init__(self, width: int, num_heads: int, ratio: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 1, width))
        self.attend = Heads(width, num_heads)
        hidden = width * ratio
        self.mlp = Mlp(width, inner=hidden)
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Any) -> Any:
        return self.net(x) + self.mlp(self.attend(x)) * self.gain


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.join, self.second = Layer(8, 2, 2), nn.Linear(8, 12), Layer(12, 3, 3)

    def forward(self, x: Any) -> Any:
        return self.second(self.join(self.first(x)))


def head_of(source: str, name: str) -> str:
    """The first line of a class's ``__init__``, however it is broken."""
    own = source.split(f"\nclass {name}(")[1]
    return " ".join(own.split("def __init__(")[1].split(") -> None")[0].replace(",\n", ", ").split()).rstrip(", ")


@needs_positions
def test_arguments_are_called_as_in_the_models_code() -> None:
    slim = fxprune.trace(Layers(), torch.randn(2, 5, 8))
    source = generated(slim)[0]
    assert head_of(source, "Heads") == "self, dim: int, heads: int, scale: float"
    assert head_of(source, "Mlp") == "self, dim: int, inner: int"
    assert head_of(source, "Layer") == "self, width: int, heads: int, scale: float, hidden: int"
    assert "self.attend = Heads(width, heads, scale)" in source
    assert_equal_bits(slim, torch.randn(2, 5, 8))
    assert generated(pickle.loads(pickle.dumps(slim)))[0] == source, "what is noted outlives the classes"


@needs_positions
def test_a_pruned_model_keeps_them() -> None:
    slim = fxprune.prune(Layers(), 0.3, torch.randn(2, 5, 8), scope="layer", verify=False)
    source = generated(slim)[0]
    assert "dim: int" in head_of(source, "Mlp") and "inner: int" in head_of(source, "Mlp")
    assert "heads: int" in head_of(source, "Heads")
    assert_equal_bits(slim, torch.randn(2, 5, 8))


class Contested(nn.Module):
    """Two widths that the code gives one name, and one that has no name."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3x3(4, planes), conv3x3(planes, planes)
        self.conv3 = conv3x3(planes, 4)

    def forward(self, x: Any) -> Any:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Strided(nn.Module):
    def __init__(self, before: int, lambda_: int, stride: int, type: int, größe: int) -> None:
        super().__init__()
        self.conv = conv3x3(before, lambda_, stride)
        self.second = conv3x3(lambda_, type, stride=stride)
        self.last = conv3x3(type, größe)

    def forward(self, x: Any) -> Any:
        return self.last(self.second(self.conv(x)))


def test_names_that_cannot_stand() -> None:
    model = nn.Sequential(Strided(4, 5, 1, 6, 4), Strided(4, 7, 2, 8, 5))
    source = generated(fxprune.trace(model, torch.randn(2, 4, 8, 8)))[0]
    assert head_of(source, "Strided") == ("self, lambda_: int, hidden_channels: int, größe: int, stride: int = 1"), (
        "type is a builtin"
    )
    assert_equal_bits(fxprune.trace(model, torch.randn(2, 4, 8, 8)), torch.randn(2, 4, 8, 8))


def test_a_name_that_several_numbers_have_is_that_of_none() -> None:
    model = nn.Sequential(Contested(8), Contested(12))
    assert head_of(generated(fxprune.trace(model, torch.randn(2, 4, 8, 8)))[0], "Contested") == "self, planes: int"
    with torch.no_grad():
        model[0].conv2.weight[:4] *= 1e-3
    slim = fxprune.prune(model, 0.2, torch.randn(2, 4, 8, 8), verify=False, ignore=["1.conv3"])
    assert head_of(generated(slim)[0], "Contested") == "self, conv1_channels: int, hidden_channels: int"


def test_words_of_parts() -> None:
    class Chosen(nn.Module):
        def __init__(self, a: int, b: int, wide: bool, kind: Any = nn.Linear) -> None:
            super().__init__()
            if wide:
                self.fc = nn.Linear(a, a)
            else:
                self.fc = nn.Linear(b, a)
            self.own = kind(a, b, bias=wide)
            self.rows = nn.ModuleList([nn.Linear(a, b) for _ in range(2)])
            layer = nn.Linear(b, 2)
            self.late = layer if wide else nn.Identity()

    words = part_words(Chosen(2, 3, True))
    assert words["fc"] == {"out_features": "a"}, "of the other argument they say different things"
    assert words["own"] == {"in_features": "a", "out_features": "b", "bias": "wide", "layer": "kind"}
    assert words["rows.1"] == {"in_features": "a", "out_features": "b"}
    assert words["late"] == {"in_features": "b"}


def test_a_model_whose_code_cannot_be_read_has_names_of_ours() -> None:
    space: dict[str, Any] = {"nn": nn, "Any": Any, "__name__": "unread"}
    exec(
        "class Part(nn.Module):\n"
        "    def __init__(self, thing):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, thing), nn.Linear(thing, 4)\n"
        "        self.thing = thing\n"
        "    def forward(self, x):\n"
        "        return self.b(self.a(x).reshape(-1, self.thing))\n",
        space,
    )
    source = generated(fxprune.trace(nn.Sequential(space["Part"](2), space["Part"](3)), torch.randn(2, 4)))[0]
    assert head_of(source, "Part") == "self, hidden_features: int"


@needs_positions
@pytest.mark.parametrize("index", ["x[:, : self.keep]", "x[:, : self.sizes[0]]", "x.narrow(1, 0, self.keep)"])
def test_numbers_in_indices(index: str, tmp_path: Any) -> None:
    file = tmp_path / "cut.py"
    file.write_text(
        "from torch import nn\n\n\nclass Cut(nn.Module):\n    def __init__(self, keep):\n        super().__init__()\n"
        "        self.keep, self.sizes, self.fc = keep, (keep, 1), nn.Linear(4, 4)\n\n"
        f"    def forward(self, x):\n        x = self.fc(x)\n        return {index}\n"
    )
    space: dict[str, Any] = {"__name__": "cut"}
    exec(compile(file.read_text(), str(file), "exec"), space)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = space["Cut"](2), space["Cut"](3)

        def forward(self, x: Any) -> Any:
            return self.a(x), self.b(x)

    slim = fxprune.trace(Both(), torch.randn(2, 4))
    assert head_of(generated(slim)[0], "Cut") == f"self, {'sizes' if 'sizes' in index else 'keep'}: int"
    assert_equal_bits(slim, torch.randn(2, 4))


class ConvAct(nn.Module):
    def __init__(self, width: int, kernel: int, act: Any) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(width, width, kernel, padding=kernel // 2), act

    def forward(self, x: Any) -> Any:
        return self.act(self.conv(x))


def test_a_setting_that_most_share_is_a_default() -> None:
    settings = [(1, nn.ReLU()), (1, nn.ReLU()), (3, nn.ReLU()), (1, nn.SiLU())]
    slim = fxprune.trace(nn.Sequential(*[ConvAct(4, *given) for given in settings]), torch.randn(2, 4, 8, 8))
    source = generated(slim)[0]
    assert "kernel: int = 1" in head_of(source, "ConvAct") and "act: type[nn.Module] = nn.ReLU" in head_of(source, "ConvAct")
    assert "ConvAct()" in source and "ConvAct(kernel=3, padding=1)" in source and "ConvAct(act=nn.SiLU)" in source
    assert_equal_bits(slim, torch.randn(2, 4, 8, 8))


class Basic(nn.Module):
    def __init__(self, inside: int, middle: int, outside: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inside, middle), nn.Linear(middle, outside)
        self.norm = nn.LayerNorm(outside)

    def forward(self, x: Any) -> Any:
        return x + self.norm(self.b(self.a(x)))


def test_what_comes_in_gives_a_width_its_name_before_what_goes_out() -> None:
    model = nn.Sequential(Basic(4, 6, 4), nn.Linear(4, 5), Basic(5, 7, 5))
    source = generated(fxprune.trace(model, torch.randn(2, 4)))[0]
    assert head_of(source, "Basic") == "self, inside: int, middle: int"


def test_where_python_does_not_know_positions_the_words_of_init_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Python 3.11."""
    monkeypatch.setattr(trees, "positions_of", lambda code: [])
    caches = (trees.tree_of, trees._expressions, parts._assigned)
    for cache in caches:
        cache.cache_clear()
    try:
        assert part_words(Mlp(4, 6))["up"] == {"in_features": "dim", "out_features": "inner"}
        slim = fxprune.trace(nn.Sequential(Mlp(4, 6), Heads(4, 2)), torch.randn(2, 3, 4))
        assert "class Mlp" in generated(slim)[0]
        assert_equal_bits(slim, torch.randn(2, 3, 4))
    finally:
        for cache in caches:
            cache.cache_clear()


def ending_in_nothing(x: Any) -> Any:
    try:
        return x
    finally:
        """Makes no instructions."""


def ending_after_its_end(x: Any) -> Any:
    return x
    return x  # never


@pytest.mark.parametrize("function", [ending_in_nothing, ending_after_its_end])
def test_a_function_is_read_whatever_its_end(function: Any) -> None:
    tree = trees.tree_of(function.__code__)
    assert tree is not None and tree.name == function.__name__ and tree.lineno == function.__code__.co_firstlineno
